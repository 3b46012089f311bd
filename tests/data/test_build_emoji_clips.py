"""The moving emoji are built the same way twice, keep all 17 frames, and are split as the stills."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from genrefine.data import ClipSource

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "datasets/emoji-clips"


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("build_emoji_clips")


def read_rows(folder: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    tables = [pq.read_table(path, columns=columns) for path in sorted((folder / "data").glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def frames_of(webp: bytes) -> tuple[np.ndarray, int]:
    """Return all frames and the milliseconds of one turn."""
    with Image.open(io.BytesIO(webp)) as film:
        frames, milliseconds = [], 0
        for number in range(film.n_frames):
            film.seek(number)
            film.load()
            frames.append(np.asarray(film.convert("RGB")))
            milliseconds += film.info["duration"]
    return np.stack(frames), milliseconds


def still(hexcode: str, style: str, **more: str) -> dict[str, Any]:
    words = {"label": f"thing {hexcode}", "tags": ["stuff"], "group": "objects", "subgroup": "office", "skin_tone": ""}
    row = {**words, "hexcode": hexcode, "style": style, "concept": hexcode, "family": hexcode, "split": "train", **more}
    return {**row, "image": {"bytes": b"", "path": ""}, "class_name": f"{row['group']}/{style}", "captions": []}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, script: ModuleType) -> Path:
    """Return a folder of packages: emoji that move, stand still, have a skin tone, or are not Microsoft's."""
    root = tmp_path_factory.mktemp("packages")
    for name in script.PACKAGES:
        (root / name / "package/assets").mkdir(parents=True)
    for number in range(8):
        place = root / script.PACKAGES[number % 4] / "package/assets"
        film = []
        for step in range(34):
            frame = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
            frame.paste((10 * number, 7 * step, 99, 255), (64, 64, 192, 192))
            film.append(frame)
        film[0].save(place / f"1f6{number:02x}.webp", save_all=True, append_images=film[1:], duration=50, lossless=True)
    place = root / script.PACKAGES[0] / "package/assets"
    moving = (place / "1f600.webp").read_bytes()
    for name in ("1f4ce", "1f1ef-1f1f5", "1f44b-1f3fb", "1f9b0"):
        (place / f"{name}.webp").write_bytes(moving)
    Image.new("RGBA", (256, 256)).save(place / "1f44b.webp")
    return root


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory, load_script: Callable[[str], ModuleType]) -> Path:
    """Return a set of stills without pictures."""
    build = load_script("build_emoji")
    root = tmp_path_factory.mktemp("stills")
    codes = [f"1F6{number:02X}" for number in range(8)]
    rows = [still(code, style) for code in codes for style in ("noto", "fluent")]
    rows += [still(code, "noto") for code in ("1F4CE", "1F44B")]
    rows += [still("1F44B-1F3FB", "noto", concept="1F44B", family="1F44B", skin_tone="light skin tone")]
    rows += [still("1F1EF-1F1F5", "noto", subgroup="country-flag", group="flags")]
    (root / "data").mkdir()
    table = pa.Table.from_pylist(rows, schema=build.SCHEMA)
    pq.write_table(table, root / "data/train-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="module")
def built(packages: Path, stills: Path, script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    assert script.main(["--packages", str(packages), "--stills", str(stills), "--out", str(out)]) == 0
    return out


def test_two_builds_write_identical_bytes(
    built: Path, packages: Path, stills: Path, script: ModuleType, tmp_path: Path
):
    script.build(packages, stills, tmp_path)
    files = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert len(files) >= 3
    for file in files:
        assert (tmp_path / file).read_bytes() == (built / file).read_bytes()


def test_only_what_moves_is_microsofts_and_has_no_skin_tone_is_taken(built: Path):
    assert {row["hexcode"] for row in read_rows(built)} == {f"1F6{number:02X}" for number in range(8)}


def test_frames_are_spread_over_the_loop_and_keep_its_length(built: Path):
    rows = {row["hexcode"]: row for row in read_rows(built)}
    frames, milliseconds = frames_of(rows["1F603"]["video"]["bytes"])
    assert frames.shape == (17, 64, 64, 3)
    assert milliseconds == 34 * 50
    assert np.abs(frames[:, 32, 32, 1].astype(int) - 14 * np.arange(17)).max() <= 2  # every second one of 34
    assert (frames[:, 2, 2] == 255).all()


@pytest.mark.parametrize("num_same", [1, 8, 17])
def test_frames_that_are_equal_are_kept(script: ModuleType, num_same: int):
    frames = [Image.new("RGB", (16, 16), (i * (i >= num_same),) * 3) for i in range(17)]
    decoded, milliseconds = frames_of(script.encode(frames, 1000))
    assert np.array_equal(decoded, np.stack([np.asarray(frame) for frame in frames]))
    assert milliseconds == 1000


def test_levels_are_at_most_one_off_and_white_stays_white(script: ModuleType):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    rounded = np.asarray(script.round_levels(Image.fromarray(levels)))
    assert np.abs(rounded.astype(int) - levels.astype(int)).max() == 1
    assert rounded[-1, -1].tolist() == [255] * 3


def test_the_built_folder_opens_as_a_source(built: Path, tmp_path: Path):
    (split, count), *_ = Counter(row["split"] for row in read_rows(built)).most_common()
    source = ClipSource(built, split=split, caption_column="captions", cache_dir=tmp_path)
    assert len(source) == count
    assert source[0][0].shape == (3, 17, 64, 64)
    assert source.captions[0][0].startswith("fluent emoji of thing")


def test_shipped_clips_are_split_as_the_shipped_stills():
    columns = ["hexcode", "concept", "family", "style", "split", "label", "class_name", "tags"]
    stills = {(row["hexcode"], row["style"]): row for row in read_rows(ROOT / "datasets/emoji", columns)}
    clips = read_rows(SHIPPED, columns)
    for clip in clips:
        assert clip == stills.get((clip["hexcode"], "fluent"), clip)
        if clip["split"] == "concept":
            assert stills[clip["hexcode"], "noto"]["split"] == "concept"
    without_still = [clip["hexcode"] for clip in clips if (clip["hexcode"], "fluent") not in stills]
    assert len(without_still) < 20
    assert all(stills[code, "noto"]["split"] != "concept" for code in without_still)


def test_the_shipped_set_has_its_counted_size_and_whole_clips():
    rows = read_rows(SHIPPED)
    counts = Counter(row["split"] for row in rows)
    card = (SHIPPED / "README.md").read_text("utf-8")
    assert f"{len(rows)} clips of 17 frames" in card
    assert f"| **all** | {counts['train']} | {counts['concept']} | {counts['pair']} | {len(rows)} |" in card
    assert sum(path.stat().st_size for path in (SHIPPED / "data").glob("*.parquet")) < 40e6
    for row in rows:
        with Image.open(io.BytesIO(row["video"]["bytes"])) as film:
            assert (film.n_frames, film.size) == (17, (64, 64))
        assert row["captions"][0].startswith("fluent emoji of ")
        assert row["captions"][1].startswith("animated fluent emoji of ")


def test_missing_packages_are_named(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert script.main(["--packages", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "missing: lobehub-fluent-emoji-anim-1-1.0.0" in capsys.readouterr().err
