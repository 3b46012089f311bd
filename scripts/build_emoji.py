"""Build the emoji data set under `datasets/emoji` from four npm packages.

Pictures come in three drawing styles, the words from a fourth package. Fetch and unpack them once (`npm pack` only
downloads a tarball, nothing is installed), then build:

    npm pack emoji-datasource-google@16.0.0      # style "noto", 64 px PNG
    npm pack emoji-datasource-twitter@16.0.0     # style "twemoji", 64 px PNG
    npm pack @lobehub/fluent-emoji-3d@1.1.0      # style "fluent", 256 px WebP
    npm pack emojibase-data@17.0.0               # labels, tags, groups, skin tones
    for f in *.tgz; do mkdir -p "${f%.tgz}" && tar -xzf "$f" -C "${f%.tgz}"; done
    python scripts/build_emoji.py --packages . --out datasets/emoji

Every picture is flattened on white, brought to 64x64 and stored as lossless WebP in parquet shards that `datasets`
opens with a decoded `image` column. Splits are decided by a hash of a *family*: concepts that differ only in gender or
walking direction, or that share a picture exactly (several territories fly the same flag), are held out together.
Otherwise "never seen" would be false. The result depends on nothing but the packages and the versions of Pillow and
pyarrow: two runs write identical bytes. `--captions` in place of `--packages` writes the captions anew from the shards
that are there, keeping the pictures byte for byte.
"""

import argparse
import collections
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from emoji_captions import write_captions
from PIL import Image, ImageOps

SIZE = 64
STYLES = {
    "noto": ("emoji-datasource-google-16.0.0", "img/google/64/*.png"),
    "twemoji": ("emoji-datasource-twitter-16.0.0", "img/twitter/64/*.png"),
    "fluent": ("lobehub-fluent-emoji-3d-1.1.0", "assets/*.webp"),
}
WORDS = "emojibase-data-17.0.0"
SPLITS = ("train", "concept", "pair")
CONCEPT_SHARE = 0.06  # of the families, held out in every style
PAIR_SHARE = 0.12  # of the families, held out in one of the three styles: about 4 % of the pictures
SHARD_BYTES = 12_000_000
# Left out of style "fluent": the package fills the country flags, which Microsoft never drew, with Noto's (wrong style,
# and the `pair` split would leak), and carries drawings that Microsoft kept out of its MIT release because they show
# trademarks (github.com/microsoft/fluentui-emoji, issue 28): paperclip, video game, technologists.
NOT_FLUENT_SUBGROUPS = ("country-flag", "subdivision-flag")
NOT_FLUENT_CONCEPTS = re.compile(r"1F4CE|1F3AE|(1F468|1F469|1F9D1)-200D-1F4BB")
Item = TypeVar("Item")
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("hexcode", pa.string()),
        ("label", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("group", pa.string()),
        ("subgroup", pa.string()),
        ("style", pa.string()),
        ("class_name", pa.string()),
        ("skin_tone", pa.string()),
        ("concept", pa.string()),
        ("family", pa.string()),
        ("split", pa.string()),
        ("captions", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Emoji:
    """Words of one code point sequence; `concept` is the hexcode without skin tone."""

    hexcode: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    skin_tone: str
    concept: str


@dataclass(frozen=True)
class Picture:
    """One drawing of one emoji as encoded bytes, with the digest of its pixels."""

    emoji: Emoji
    style: str
    webp: bytes
    digest: str
    family: str = ""
    split: str = ""


def join_key(name: str) -> str:
    """Return what the packages' file names agree on: no FE0F, no leading zeros, tag sequences closed."""
    parts = [part.lstrip("0") for part in re.split(r"[-_]", name.lower())]
    parts = [part for part in parts if part != "fe0f"]
    if parts[-1].startswith("e00") and parts[-1] != "e007f":
        parts.append("e007f")
    return "-".join(parts)


def read_words(package: Path) -> dict[str, Emoji]:
    """Read labels, tags and groups by join key, in Unicode order, leaving out components (bare skin tones, letters)."""
    names = json.loads((package / "meta/groups.json").read_text("utf-8"))
    groups, subgroups = names["groups"], names["subgroups"]
    words: dict[str, Emoji] = {}
    entries = json.loads((package / "en/data.json").read_text("utf-8"))
    for entry in sorted(entries, key=lambda e: e.get("order", -1)):
        group = groups.get(str(entry.get("group")))
        if group in (None, "component"):
            continue
        for form in (entry, *entry.get("skins", ())):
            tone = form.get("tone", ()) if form is not entry else ()
            tones = [tone] if isinstance(tone, int) else list(tone)
            emoji = Emoji(
                hexcode=form["hexcode"],
                label=form["label"],
                tags=tuple(entry.get("tags", ())),
                group=group,
                subgroup=subgroups[str(entry["subgroup"])],
                skin_tone=", ".join(f"{TONES[t - 1]} skin tone" for t in tones),
                concept=entry["hexcode"],
            )
            words.setdefault(join_key(form["hexcode"]), emoji)
    return words


def flatten(path: Path) -> Image.Image:
    """Return the picture on white, square, 64x64 RGB."""
    with Image.open(path) as source:
        return to_still(source.convert("RGBA"))


def to_still(rgba: Image.Image) -> Image.Image:
    """Return an RGBA picture on white, square, 64x64 RGB.

    Flattening precedes the reduction: averaging straight RGBA would mix the black that hides under transparent pixels
    into the outline.
    """
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    flat = Image.alpha_composite(white, rgba).convert("RGB")
    if flat.width != flat.height:
        side = max(flat.size)
        flat = ImageOps.pad(flat, (side, side), color=(255, 255, 255))
    return flat if flat.size == (SIZE, SIZE) else flat.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def belongs(emoji: Emoji, style: str) -> bool:
    """Return whether the package's picture of this emoji is drawn in this style and free to use."""
    if style != "fluent":
        return True
    return emoji.subgroup not in NOT_FLUENT_SUBGROUPS and not NOT_FLUENT_CONCEPTS.fullmatch(emoji.concept)


def read_style(packages: Path, style: str, words: dict[str, Emoji]) -> Iterator[Picture]:
    """Yield the style's pictures that have words, one per emoji, in Unicode order."""
    folder, pattern = STYLES[style]
    files: dict[str, Path] = {}
    # Longest name first: where a package has a file with and one without FE0F, the fully qualified one is the emoji.
    for path in sorted((packages / folder / "package").glob(pattern), key=lambda p: (-len(p.name), p.name)):
        files.setdefault(join_key(path.stem), path)
    if not files:
        raise SystemExit(
            f"expected pictures {pattern} in {packages / folder / 'package'}; found none; unpack {folder}.tgz there"
        )
    for key, emoji in words.items():
        if key in files and belongs(emoji, style):
            image = flatten(files[key])
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", lossless=True, quality=75, method=4)
            mirrored = ImageOps.mirror(image).tobytes()
            digest = hashlib.sha256(
                min(image.tobytes(), mirrored)
            ).hexdigest()  # training flips: a mirror image is no new picture
            yield Picture(emoji, style, buffer.getvalue(), digest)


def family_root(concept: str) -> str:
    """Return the concept with gender and walking direction taken out of its code point sequence."""
    root = re.sub(r"-200D-(2640|2642|27A1)(?=-|$)", "", concept.replace("-FE0F", ""))
    return re.sub(r"^1F46[89](?=-200D)", "1F9D1", root)


def find_families(pictures: list[Picture]) -> dict[str, str]:
    """Map each concept to its family, joining concepts with one root and concepts with one picture (union-find)."""
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for picture in pictures:
        concept = find(picture.emoji.concept)
        for other in ("root " + family_root(picture.emoji.concept), "pixels " + picture.digest):
            parent[find(other)] = concept
            concept = find(concept)
    first: dict[str, str] = {}
    for concept in sorted({p.emoji.concept for p in pictures}):
        first.setdefault(find(concept), concept)
    return {concept: first[find(concept)] for concept in {p.emoji.concept for p in pictures}}


def unit_hash(text: str) -> float:
    """Return a number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def choose_split(family: str, style: str, styles_of_concept: set[str]) -> str:
    """Return train, concept (family held out everywhere) or pair (family held out in this style, seen in another)."""
    if unit_hash(f"concept {family}") < CONCEPT_SHARE:
        return "concept"
    held = sorted(STYLES)[int(3 * unit_hash(f"style {family}"))]
    if style == held and len(styles_of_concept) > 1 and unit_hash(f"pair {family}") < PAIR_SHARE:
        return "pair"
    return "train"


def assign_splits(pictures: list[Picture]) -> list[Picture]:
    """Return the pictures with family and split; skin tones follow their concept."""
    families = find_families(pictures)
    styles: dict[str, set[str]] = collections.defaultdict(set)
    for p in pictures:
        styles[p.emoji.concept].add(p.style)
    done = []
    for p in pictures:
        family = families[p.emoji.concept]
        done.append(replace(p, family=family, split=choose_split(family, p.style, styles[p.emoji.concept])))
    return done


def to_row(picture: Picture) -> dict[str, Any]:
    """Return the parquet row."""
    e = picture.emoji
    return {
        "image": {"bytes": picture.webp, "path": f"{picture.style}-{e.hexcode.lower()}.webp"},
        "hexcode": e.hexcode,
        "label": e.label,
        "tags": list(e.tags),
        "group": e.group,
        "subgroup": e.subgroup,
        "style": picture.style,
        "class_name": f"{e.group}/{picture.style}",
        "skin_tone": e.skin_tone,
        "concept": e.concept,
        "family": picture.family,
        "split": picture.split,
        "captions": write_captions(e.label, e.tags, picture.style, e.skin_tone, e.concept),
    }


def from_row(row: dict[str, Any]) -> Picture:
    """Return the picture of a parquet row, without the digest that only families need."""
    words = {name: row[name] for name in ("hexcode", "label", "group", "subgroup", "skin_tone", "concept")}
    emoji = Emoji(tags=tuple(row["tags"]), **words)
    return Picture(emoji, row["style"], row["image"]["bytes"], "", row["family"], row["split"])


def schema_with_features() -> pa.Schema:
    """Return the schema with the note by which `datasets` knows that `image` holds pictures."""
    features: dict[str, Any] = {f.name: {"dtype": "string", "_type": "Value"} for f in SCHEMA}
    features["image"] = {"_type": "Image"}
    for name in ("tags", "captions"):
        features[name] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    return SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_shards(pictures: list[Picture], out: Path) -> list[Path]:
    """Write `data/SPLIT-00000-of-0000N.parquet`, replacing earlier shards, and return the paths."""
    by_split = {split: [p for p in pictures if p.split == split] for split in SPLITS}
    return write_parts(by_split, lambda p: len(p.webp), to_row, schema_with_features(), out / "data", 1000)


def write_parts(
    by_split: dict[str, list[Item]],
    num_bytes: Callable[[Item], int],
    row: Callable[[Item], dict[str, Any]],
    schema: pa.Schema,
    data: Path,
    row_group_size: int,
) -> list[Path]:
    """Write each split in as many files as it needs, then replace the earlier files by them; return the paths."""
    data.mkdir(parents=True, exist_ok=True)
    paths = []
    words = [f.name for f in schema if f.type == pa.string()]
    for split, members in by_split.items():
        count = -(-sum(map(num_bytes, members)) // SHARD_BYTES)
        for i in range(count):
            part = members[i * len(members) // count : (i + 1) * len(members) // count]
            table = pa.Table.from_pylist([row(item) for item in part], schema=schema)
            path = data / f"{split}-{i:05d}-of-{count:05d}.parquet"
            partial = path.with_suffix(".partial")
            pq.write_table(table, partial, compression="zstd", use_dictionary=words, row_group_size=row_group_size)
            paths.append(path)
    for path in paths:
        path.with_suffix(".partial").replace(path)
    for old in set(data.glob("*.parquet")).difference(paths):
        old.unlink()
    return paths


def count_table(pictures: list[Picture], title: str, key: Callable[[Picture], str]) -> str:
    """Return a Markdown table of picture counts: a row per key, a column per split, base pictures + skin tones."""
    counts = collections.Counter((key(p), p.split, bool(p.emoji.skin_tone)) for p in pictures)
    lines = [f"| {title} | " + " | ".join(SPLITS) + " | all |", "|---|" + "---:|" * (len(SPLITS) + 1)]
    names = sorted({key(p) for p in pictures})
    for name in [*names, "**all**"]:
        chosen = names if name == "**all**" else [name]
        base = [sum(counts[n, s, False] for n in chosen) for s in SPLITS]
        tones = [sum(counts[n, s, True] for n in chosen) for s in SPLITS]
        cells = [f"{b} + {t}" for b, t in zip([*base, sum(base)], [*tones, sum(tones)], strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured_tables(pictures: list[Picture], paths: list[Path]) -> str:
    """Return the measured part of the data set card."""
    concepts = {s: {p.emoji.concept for p in pictures if p.split == s} for s in SPLITS}
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    return "\n\n".join(
        [
            f"{len(pictures)} pictures, {len(set().union(*concepts.values()))} concepts in "
            f"{len({p.family for p in pictures})} families, {len(paths)} parquet shards, {megabytes:.1f} MB. "
            f"Concepts held out everywhere: {len(concepts['concept'])}; "
            f"concepts held out in one style: {len(concepts['pair'])}. Counts are base pictures + skin-tone variants.",
            count_table(pictures, "style", lambda p: p.style),
            count_table(pictures, "group", lambda p: p.emoji.group),
        ]
    )


def update_card(card: Path, measured: str, begin: str = "<!-- measured by scripts/build_emoji.py -->") -> None:
    """Replace what stands between the two marks of the data set card by the measured tables."""
    end = "<!-- end -->"
    text = card.read_text("utf-8") if card.exists() else f"{begin}\n{end}\n"
    head, _, rest = text.partition(begin)
    card.write_text(f"{head}{begin}\n\n{measured}\n\n{end}{rest.partition(end)[2]}", "utf-8")


def build(packages: Path, out: Path) -> list[Path]:
    """Build shards and tables from unpacked packages; return the shard paths."""
    words = read_words(packages / WORDS / "package")
    order = {emoji.hexcode: i for i, emoji in enumerate(words.values())}
    pictures = [picture for style in STYLES for picture in read_style(packages, style, words)]
    pictures = assign_splits(sorted(pictures, key=lambda p: (order[p.emoji.hexcode], p.style)))
    paths = write_shards(pictures, out)
    update_card(out / "README.md", measured_tables(pictures, paths))
    return paths


def rewrite(out: Path) -> list[Path]:
    """Write the shards anew from themselves, with captions as they are now; return their paths."""
    old = [path for split in SPLITS for path in sorted((out / "data").glob(f"{split}-*.parquet"))]
    pictures = [from_row(row) for path in old for row in pq.read_table(path).to_pylist()]
    paths = write_shards(pictures, out)
    update_card(out / "README.md", measured_tables(pictures, paths))
    return paths


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--packages", type=Path, help="folder with NAME-VERSION/package of the four packages")
    source.add_argument("--captions", action="store_true", help="only write the captions of existing shards anew")
    parser.add_argument(
        "--out", type=Path, default=Path("datasets/emoji"), help="data set folder (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.captions:
        for path in rewrite(options.out):
            print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
        return 0
    missing = [n for n in (*(f for f, _ in STYLES.values()), WORDS) if not (options.packages / n / "package").is_dir()]
    if missing:
        print(
            f"expected unpacked packages in {options.packages}; missing: {', '.join(missing)}; see --help",
            file=sys.stderr,
        )
        return 2
    for path in build(options.packages, options.out):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
