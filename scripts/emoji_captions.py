"""Captions of the emoji sets, from names, synonyms, skin tones and drawing styles.

`describe` turns a name into a phrase as one would type it: "flag: Japan" becomes "flag of Japan", "waving hand: light
skin tone" becomes "waving hand with light skin tone". `write_captions` gives the captions of one picture or clip:

    1. STYLE emoji of PHRASE                   always the first
    2. PHRASE
    3. PHRASE, STYLE style
    4. STYLE emoji of PHRASE, SYNONYM          and two more with synonyms, where there are any
    5. the name as Unicode has it              where it differs from the phrase

A clip has "animated STYLE emoji of PHRASE" and two more of the kind after the first. The order of synonyms is given by
a hash of the concept, so captions depend on nothing but the words.
"""

import hashlib
import re
from collections.abc import Sequence

QUOTES = str.maketrans({0x201C: '"', 0x201D: '"', 0x2018: "'", 0x2019: "'"})
NUM_SYNONYMS = 4
HEADS = {"flag": "flag of {}", "keycap": "keycap {}", "family": "family of {}", "kiss": "kiss between {}"}
"""Names of the form "HEAD: DETAILS" whose details are no attribute of the head."""


def describe(label: str, skin_tone: str = "") -> str:
    """Return the phrase for a name.

    Args:
        label: name of an emoji, `HEAD: DETAIL, DETAIL`, skin tones among the details.
        skin_tone: "light skin tone", two of them separated by a comma for two people, or empty.
    """
    head, _, rest = label.translate(QUOTES).partition(": ")
    details = [detail for detail in rest.split(", ") if detail and not detail.endswith("skin tone")]
    phrase = head
    if details and head in HEADS:
        phrase = HEADS[head].format(_listed(details))
    elif details and all(detail.startswith("facing ") for detail in details):
        phrase = f"{head} {_listed(details)}"
    elif details == ["bald"]:
        phrase = f"bald {head}"
    elif details and head == "couple with heart":
        phrase = f"couple of {_listed(details)} with heart"
    elif details:
        phrase = f"{head} with {_listed(details)}"
    return _with_tones(phrase, skin_tone)


def synonyms(phrase: str, tags: Sequence[str], concept: str) -> list[str]:
    """Return the tags that say something new, at most four, in an order of this concept's own.

    Args:
        phrase: what is said already.
        tags: words of `emojibase`.
        concept: decides the order.
    """
    said = set(re.findall(r"\w+", phrase.lower()))
    stems = {word[:4] for word in said if len(word) > 3}
    words = [tag for tag in tags if re.fullmatch(r"[a-zA-Z][a-zA-Z' -]{2,}", tag)]
    new = [word for word in words if not said.intersection(word.lower().split()) and word[:4].lower() not in stems]
    return sorted(new, key=lambda tag: hashlib.sha256(f"{concept} {tag}".encode()).digest())[:NUM_SYNONYMS]


def write_captions(
    label: str, tags: Sequence[str], style: str, skin_tone: str, concept: str, animated: bool = False
) -> list[str]:
    """Return the captions of one picture or clip; all differ and the first is "STYLE emoji of PHRASE".

    Args:
        label, tags, skin_tone, concept: columns of the data set.
        style: how it is drawn, one word.
        animated: whether it is a clip.
    """
    phrase = describe(label, skin_tone)
    captions = [f"{style} emoji of {phrase}"]
    if animated:
        captions += [f"animated {style} emoji of {phrase}", f"animated {phrase}", f"{phrase} in motion, {style} style"]
    captions += [phrase, f"{phrase}, {style} style"]
    words = synonyms(describe(label), tags, concept)
    captions += [f"{style} emoji of {phrase}, {word}" for word in words[:1]]
    captions += [f"{phrase} ({', '.join(words[1:3])}), {style} style"] if words[1:] else []
    captions += [_with_tones(f"{style} emoji: {', '.join(words)}", skin_tone)] if words[1:] else []
    captions.append(label.translate(QUOTES))
    return list(dict.fromkeys(captions))


def _with_tones(phrase: str, skin_tone: str) -> str:
    if not skin_tone:
        return phrase
    tones = [tone.removesuffix(" skin tone") for tone in skin_tone.split(", ")]
    joint = "and" if " with " in phrase else "with"
    return f"{phrase} {joint} {_listed(tones)} skin tone{'s' if len(tones) > 1 else ''}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
