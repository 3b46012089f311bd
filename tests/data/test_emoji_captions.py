"""Captions say what is drawn as one would type it."""

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("emoji_captions")


@pytest.mark.parametrize(
    ("label", "tone", "phrase"),
    [
        ("pizza", "", "pizza"),
        ("flag: Japan", "", "flag of Japan"),
        ("keycap: #", "", "keycap #"),
        ("man: bald", "", "bald man"),
        ("person: red hair", "", "person with red hair"),
        ("man running: facing right", "", "man running facing right"),
        ("family: man, woman, boy", "", "family of man, woman and boy"),
        ("couple with heart: woman, man", "", "couple of woman and man with heart"),
        ("Japanese “here” button", "", 'Japanese "here" button'),
        ("thumbs up: medium skin tone", "medium skin tone", "thumbs up with medium skin tone"),
        ("man: medium skin tone, bald", "medium skin tone", "bald man with medium skin tone"),
        ("woman: dark skin tone, red hair", "dark skin tone", "woman with red hair and dark skin tone"),
        (
            "handshake: light skin tone, dark skin tone",
            "light skin tone, dark skin tone",
            "handshake with light and dark skin tones",
        ),
    ],
)
def test_names_become_phrases(script: ModuleType, label: str, tone: str, phrase: str):
    assert script.describe(label, tone) == phrase
    assert script.write_captions(label, [], "noto", tone, "X")[0] == f"noto emoji of {phrase}"


def test_captions_name_style_synonyms_and_tones(script: ModuleType):
    captions = script.write_captions(
        "waving hand: dark skin tone", ["+1", "bye", "hand", "hello", "wavings"], "twemoji", "dark skin tone", "1F44B"
    )
    assert captions[:3] == [
        "twemoji emoji of waving hand with dark skin tone",
        "waving hand with dark skin tone",
        "waving hand with dark skin tone, twemoji style",
    ]
    assert captions[-1] == "waving hand: dark skin tone"
    said = " / ".join(captions[3:-1])
    assert "bye" in said
    assert "hello" in said
    assert "+1" not in said
    assert "wavings" not in said
    assert all("dark skin tone" in caption for caption in captions)
    assert len(captions) == len(set(captions))


def test_clips_are_called_animated_after_the_caption_they_share_with_stills(script: ModuleType):
    still = script.write_captions("rabbit", ["bunny", "pet"], "fluent", "", "1F407")
    moving = script.write_captions("rabbit", ["bunny", "pet"], "fluent", "", "1F407", animated=True)
    assert still[0] == moving[0] == "fluent emoji of rabbit"
    assert moving[1] == "animated fluent emoji of rabbit"
    assert [caption for caption in moving if caption not in still] == moving[1:4]
    assert all("animated" in caption or "in motion" in caption for caption in moving[1:4])


def test_synonyms_are_in_an_order_of_the_concepts_own_and_do_not_depend_on_that_of_the_tags(script: ModuleType):
    tags = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    assert script.synonyms("x", tags, "A") == script.synonyms("x", tags[::-1], "A")
    assert script.synonyms("x", tags, "A") != script.synonyms("x", tags, "B")
    assert len(script.synonyms("x", tags, "A")) == 4
