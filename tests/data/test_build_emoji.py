"""The emoji set is built the same way twice, holds what the packages say, and never leaks across its splits."""

import io
import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from genrefine.data import ImageSource

ROOT = Path(__file__).parents[2]
GROUPS = {"0": "smileys-emotion", "1": "people-body", "2": "component", "7": "objects", "9": "flags"}
SUBGROUPS = {"0": "face", "1": "person", "2": "hair", "3": "office", "4": "country-flag"}
WHITE = (255, 255, 255)


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("build_emoji")


def entry(hexcode: str, label: str, group: int, subgroup: int, **more: Any) -> dict[str, Any]:
    return {"hexcode": hexcode, "label": label, "tags": [label], "group": group, "subgroup": subgroup, **more}


def words() -> list[dict[str, Any]]:
    skins = [entry(f"1F44B-1F3F{'BCDEF'[t - 1]}", f"wave {t}", 1, 1, tone=t) for t in range(1, 6)]
    mixed = entry("1F469-1F3FB-200D-1F91D-200D-1F468-1F3FC", "couple: mixed", 1, 1, tone=[1, 2])
    emojis = [entry(f"1F6{n:02X}", f"face {n}", 0, 0) for n in range(60)]
    emojis += [
        entry("1F44B", "wave", 1, 1, skins=skins),
        entry("1F46B", "couple", 1, 1, skins=[mixed]),
        entry("1F3C3", "person running", 1, 1),
        entry("1F3C3-200D-2640-FE0F", "woman running", 1, 1),
        entry("1F3C3-200D-2642-FE0F-200D-27A1-FE0F", "man running: facing right", 1, 1),
        entry("1F468-200D-1F33E", "man farmer", 1, 1),
        entry("1F9D1-200D-1F33E", "farmer", 1, 1),
        entry("1F9B0", "red hair", 2, 2),
        entry("1F4CE", "paperclip", 7, 3),
        entry("0023-FE0F-20E3", "keycap: #", 7, 3),
        entry("1F1E7-1F1FB", "flag: Bouvet Island", 9, 4),
        entry("1F1F3-1F1F4", "flag: Norway", 9, 4),
    ]
    for order, emoji in enumerate(emojis):
        emoji["order"] = order
    return [{"hexcode": "1F1E6", "label": "regional indicator A"}, *reversed(emojis)]


def drawing(hexcode: str, style: str, size: int) -> Image.Image:
    """Return a drawing of its own for each emoji; both flags fly the same one."""
    seed = "flag" if hexcode.startswith("1F1") and style == "twemoji" else hexcode + style
    colors = np.random.default_rng(list(seed.encode())).integers(0, 200, (4, 4, 3), dtype=np.uint8)
    ink = Image.fromarray(colors).resize((size // 2, size // 2), Image.Resampling.NEAREST).convert("RGBA")
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    picture.paste(ink, (size // 4, size // 4))
    return picture


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, script: ModuleType) -> Path:
    root = tmp_path_factory.mktemp("packages")
    meta = root / script.WORDS / "package"
    (meta / "meta").mkdir(parents=True)
    (meta / "en").mkdir()
    (meta / "meta/groups.json").write_text(json.dumps({"groups": GROUPS, "subgroups": SUBGROUPS}))
    (meta / "en/data.json").write_text(json.dumps(words()))
    emojis = [form for emoji in words() for form in (emoji, *emoji.get("skins", ()))]
    for style, (package, pattern) in script.STYLES.items():
        size = 256 if style == "fluent" else 64
        for emoji in emojis:
            path = root / package / "package" / pattern.replace("*", emoji["hexcode"].lower())
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing(emoji["hexcode"], style, size).save(path, lossless=True)
    return root


@pytest.fixture(scope="module")
def built(packages: Path, script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("emoji")
    assert script.main(["--packages", str(packages), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def rows(built: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((built / "data").iterdir()) for row in pq.read_table(path).to_pylist()]


def shipped_rows() -> list[dict[str, Any]]:
    columns = ["concept", "family", "style", "split", "skin_tone", "class_name", "hexcode"]
    shards = sorted((ROOT / "datasets/emoji/data").glob("*.parquet"))
    return [row for path in shards for row in pq.read_table(path, columns=columns).to_pylist()]


def test_two_builds_write_identical_bytes(built: Path, packages: Path, script: ModuleType, tmp_path: Path):
    script.build(packages, tmp_path)
    files = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert len(files) == 4
    for file in files:
        assert (tmp_path / file).read_bytes() == (built / file).read_bytes()


def test_captions_are_written_anew_without_packages_and_nothing_else_changes(
    built: Path, script: ModuleType, tmp_path: Path
):
    shutil.copytree(built, tmp_path / "set")
    shards = sorted(path.relative_to(built) for path in (built / "data").iterdir())
    for shard in shards:
        table = pq.read_table(tmp_path / "set" / shard)
        column = table.column_names.index("captions")
        stale = pa.array([["stale"]] * len(table), table.schema.field(column).type)
        pq.write_table(table.set_column(column, table.schema.field(column), stale), tmp_path / "set" / shard)
    assert script.main(["--captions", "--out", str(tmp_path / "set")]) == 0
    for shard in shards:
        assert (tmp_path / "set" / shard).read_bytes() == (built / shard).read_bytes()
    assert sorted(path.relative_to(tmp_path / "set") for path in (tmp_path / "set/data").iterdir()) == shards


def test_rows_carry_the_words_of_the_packages(rows: list[dict[str, Any]]):
    found = {(row["hexcode"], row["style"]): row for row in rows}
    wave = found["1F44B-1F3FC", "noto"]
    assert (wave["label"], wave["concept"], wave["skin_tone"]) == ("wave 2", "1F44B", "medium-light skin tone")
    assert (wave["class_name"], wave["subgroup"], wave["tags"]) == ("people-body/noto", "person", ["wave"])
    mixed = found["1F469-1F3FB-200D-1F91D-200D-1F468-1F3FC", "fluent"]
    assert (mixed["concept"], mixed["skin_tone"]) == ("1F46B", "light skin tone, medium-light skin tone")
    assert found["0023-FE0F-20E3", "fluent"]["label"] == "keycap: #"


def test_parts_of_emoji_foreign_flags_and_trademarks_are_left_out(rows: list[dict[str, Any]]):
    found = {(row["hexcode"], row["style"]) for row in rows}
    assert not {hexcode for hexcode, _ in found} & {"1F9B0", "1F1E6"}
    for hexcode in ("1F4CE", "1F1F3-1F1F4"):
        assert {style for code, style in found if code == hexcode} == {"noto", "twemoji"}


def test_pictures_are_the_drawings_on_white(rows: list[dict[str, Any]]):
    for row in rows:
        size = 256 if row["style"] == "fluent" else 64
        drawn = drawing(row["hexcode"], row["style"], size)
        with Image.open(io.BytesIO(row["image"]["bytes"])) as picture:
            assert (picture.size, picture.mode, picture.format) == ((64, 64), "RGB", "WEBP")
            assert picture.getpixel((2, 2)) == WHITE
            expected = drawn.getpixel((size // 2 - size // 16, size // 2 - size // 16))[:3]
            assert np.abs(np.subtract(picture.getpixel((28, 28)), expected)).max() <= 12


@pytest.mark.parametrize("size", [64, 256, (256, 264)])
def test_no_dark_fringe_comes_from_under_transparent_pixels(
    script: ModuleType, tmp_path: Path, size: int | tuple[int, int]
):
    # White ink over transparent black: on white paper nothing but white may remain.
    picture = Image.new("RGBA", (size, size) if isinstance(size, int) else size, (0, 0, 0, 0))
    picture.paste((255, 255, 255, 255), (20, 20, 50, 50))
    picture.save(tmp_path / "a.webp", lossless=True, exact=True)
    flat = script.flatten(tmp_path / "a.webp")
    assert flat.size == (64, 64)
    assert flat.getextrema() == ((255, 255),) * 3


def test_the_built_folder_opens_as_a_source(built: Path, rows: list[dict[str, Any]], tmp_path: Path):
    source = ImageSource(built, keep={"skin_tone": ""}, cache_dir=tmp_path)
    expected = [row for row in rows if row["split"] == "train" and not row["skin_tone"]]
    assert len(source) == len(expected)
    assert source[0][0].shape == (3, 1, 64, 64)
    assert set(source.class_names) == {row["class_name"] for row in expected}


@pytest.mark.parametrize("which", ["built", "shipped"])
def test_no_family_crosses_the_concept_split_and_every_pair_is_seen_in_another_style(
    which: str, rows: list[dict[str, Any]]
):
    splits, styles = defaultdict(set), defaultdict(set)
    for row in rows if which == "built" else shipped_rows():
        splits[row["family"]].add(row["split"])
        styles[row["concept"], row["split"]].add(row["style"])
    assert all(found == {"concept"} or "concept" not in found for found in splits.values())
    pairs = [(concept, held) for (concept, split), held in styles.items() if split == "pair"]
    assert pairs
    for concept, held in pairs:
        assert len(held) == 1
        assert styles[concept, "train"]
        assert not styles[concept, "train"] & held


def test_look_alikes_are_one_family(rows: list[dict[str, Any]]):
    family = {row["concept"]: row["family"] for row in rows}
    running = ["1F3C3", "1F3C3-200D-2640-FE0F", "1F3C3-200D-2642-FE0F-200D-27A1-FE0F"]
    assert len({family[concept] for concept in running}) == 1
    assert family["1F468-200D-1F33E"] == family["1F9D1-200D-1F33E"]
    assert family["1F1E7-1F1FB"] == family["1F1F3-1F1F4"]
    assert family["1F44B"] == "1F44B"
    assert len({family[f"1F6{n:02X}"] for n in range(60)}) == 60


def test_the_shipped_captions_are_those_of_the_script(load_script: Callable[[str], ModuleType]):
    words = load_script("emoji_captions")
    columns = ["label", "tags", "style", "skin_tone", "concept", "captions"]
    for path in sorted((ROOT / "datasets/emoji/data").glob("*.parquet")):
        for row in pq.read_table(path, columns=columns).to_pylist():
            captions = row.pop("captions")
            assert captions == words.write_captions(**row)


def test_the_shipped_set_has_its_counted_size_and_classes():
    rows = shipped_rows()
    assert len({(row["hexcode"], row["style"]) for row in rows}) == len(rows) == 10669
    assert len({row["class_name"] for row in rows}) == 27
    size = sum(path.stat().st_size for path in (ROOT / "datasets/emoji/data").glob("*.parquet"))
    assert size < 40e6
    card = (ROOT / "datasets/emoji/README.md").read_text("utf-8")
    assert f"{len(rows)} pictures" in card
    for split in ("concept", "pair"):
        concepts = {row["concept"] for row in rows if row["split"] == split}
        assert f": {len(concepts)}" in card


def test_the_card_keeps_what_is_written_around_its_tables(script: ModuleType, tmp_path: Path):
    card = tmp_path / "README.md"
    card.write_text("before\n<!-- measured by scripts/build_emoji.py -->\nold\n<!-- end -->\nafter\n")
    script.update_card(card, "new")
    script.update_card(card, "newer")
    text = card.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "newer" in text
    assert "old" not in text


def test_missing_packages_are_named(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert script.main(["--packages", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "missing: emoji-datasource-google-16.0.0" in capsys.readouterr().err
