"""Build the set of moving emoji under `datasets/emoji-clips` from four npm packages and the set of stills.

The packages hold 3,391 WebP files of 256x256 pixels; 2,109 of them move, 734 without skin tones. Fetch and unpack them
once (730 MB), then build:

    for i in 1 2 3 4; do npm pack @lobehub/fluent-emoji-anim-$i@1.0.0; done
    for f in *.tgz; do mkdir -p "${f%.tgz}" && tar -xzf "$f" -C "${f%.tgz}"; done
    python scripts/build_emoji_clips.py --packages . --out datasets/emoji-clips

Words, families and the rule of the splits are those of `datasets/emoji`, so what is held out of the stills is held out
of the clips. A clip has 17 frames, spread evenly over one turn of the loop: frame i of an animation of T milliseconds
is what shows at i T / 17, and is shown for T / 17, so a clip plays as fast as the original (at 5.6 frames a second for
most). Frames are flattened on white and brought to 64x64 as the stills are.

Frames are stored as lossless WebP after rounding every color value to a multiple of 3, at most 1 of 255 off (53 dB);
without it the set would take 47 MB. The container is written here and not by an encoder of animations: those leave out
a frame that equals the one before, and a clip must decode to 17 frames.
"""

import argparse
import io
import re
import struct
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import build_emoji as stills
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from emoji_captions import write_captions
from PIL import Image

NUM_FRAMES = 17
LEVEL_STEP = 3  # divides 255: white stays white
STYLE = "fluent"
PACKAGES = tuple(f"lobehub-fluent-emoji-anim-{number}-1.0.0" for number in (1, 2, 3, 4))
TONES = re.compile(r"1f3f[b-f]")
BEGIN = "<!-- measured by scripts/build_emoji_clips.py -->"


@dataclass(frozen=True)
class Clip:
    """One moving emoji."""

    emoji: stills.Emoji
    webp: bytes
    family: str
    split: str
    milliseconds: int


def read_concepts(data: Path) -> tuple[dict[str, stills.Emoji], dict[str, str], dict[str, set[str]]]:
    """Return words by join key, family by concept and styles by concept of the set of stills."""
    words: dict[str, stills.Emoji] = {}
    families: dict[str, str] = {}
    styles: dict[str, set[str]] = defaultdict(set)
    for split in stills.SPLITS:
        for path in sorted((data / "data").glob(f"{split}-*.parquet")):
            columns = [field.name for field in stills.SCHEMA if field.name not in ("image", "captions")]
            for row in pq.read_table(path, columns=columns).to_pylist():
                picture = stills.from_row({**row, "image": {"bytes": b""}})
                families[picture.emoji.concept] = picture.family
                styles[picture.emoji.concept].add(picture.style)
                if not picture.emoji.skin_tone:
                    words.setdefault(stills.join_key(picture.emoji.hexcode), picture.emoji)
    return words, families, styles


def read_frames(path: Path) -> tuple[list[Image.Image], int]:
    """Return 17 frames of 64x64 and the milliseconds of one turn of the loop; no frames if nothing moves."""
    with Image.open(path) as source:
        num_frames: int = getattr(source, "n_frames", 1)
        if num_frames == 1:
            return [], 0
        starts, end = [], 0
        flat = []
        for number in range(num_frames):
            source.seek(number)
            source.load()
            starts.append(end)
            end += int(source.info["duration"])
            flat.append(source.convert("RGBA"))
    shown = np.searchsorted(np.array(starts) * NUM_FRAMES, np.arange(NUM_FRAMES) * end, side="right") - 1
    return [stills.to_still(flat[number]) for number in shown], end


def round_levels(frame: Image.Image) -> Image.Image:
    """Return the frame with color values rounded to multiples of `LEVEL_STEP`."""
    levels = np.asarray(frame).astype(np.int64)
    return Image.fromarray(((levels + LEVEL_STEP // 2) // LEVEL_STEP * LEVEL_STEP).astype(np.uint8))


def encode(frames: Sequence[Image.Image], milliseconds: int) -> bytes:
    """Return an animated lossless WebP in which every frame is whole and none is left out.

    Args:
        frames: RGB, of one size.
        milliseconds: of one turn of the loop; each frame gets an equal share.
    """
    width, height = frames[0].size
    size = _int24(width - 1) + _int24(height - 1)
    chunks = _chunk(b"VP8X", bytes([0x02, 0, 0, 0]) + size)  # flag: animated
    chunks += _chunk(b"ANIM", struct.pack("<IH", 0xFFFFFFFF, 0))  # white, for ever
    for number, frame in enumerate(frames):
        still = io.BytesIO()
        frame.save(still, "WEBP", lossless=True, quality=75, method=4)
        share = (number + 1) * milliseconds // len(frames) - number * milliseconds // len(frames)
        head = _int24(0) + _int24(0) + size + _int24(share) + bytes([0x02])  # flag: replaces what was there
        chunks += _chunk(b"ANMF", head + still.getvalue()[12:])  # without the file's own RIFF header
    return _chunk(b"RIFF", b"WEBP" + chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _int24(number: int) -> bytes:
    return struct.pack("<I", number)[:3]


def read_clips(packages: Path, data: Path) -> list[Clip]:
    """Return the clips of all concepts that move, are Microsoft's own and free to use, in Unicode order by hexcode."""
    words, families, styles = read_concepts(data)
    files: dict[str, Path] = {}
    paths = [path for name in PACKAGES for path in (packages / name / "package/assets").glob("*.webp")]
    for path in sorted(paths, key=lambda p: (-len(p.name), p.name)):
        files.setdefault(stills.join_key(path.stem), path)
    clips = []
    for key, emoji in sorted(words.items(), key=lambda item: item[1].hexcode):
        if key not in files or TONES.search(files[key].stem) or not stills.belongs(emoji, STYLE):
            continue
        frames, milliseconds = read_frames(files[key])
        if frames:
            family = families[emoji.concept]
            split = stills.choose_split(family, STYLE, styles[emoji.concept] | {STYLE})
            webp = encode([round_levels(frame) for frame in frames], milliseconds)
            clips.append(Clip(emoji, webp, family, split, milliseconds))
    return clips


def to_row(clip: Clip) -> dict[str, Any]:
    """Return the parquet row: that of a still, with `video` in place of `image`."""
    e = clip.emoji
    row = stills.to_row(stills.Picture(e, STYLE, clip.webp, "", clip.family, clip.split))
    return {
        **{name: value for name, value in row.items() if name != "image"},
        "video": {"bytes": clip.webp, "path": f"{STYLE}-{e.hexcode.lower()}.webp"},
        "captions": write_captions(e.label, e.tags, STYLE, "", e.concept, animated=True),
    }


def schema() -> pa.Schema:
    """Return the schema of the stills with `video` in place of `image`; `datasets` opens it as a moving picture."""
    still = stills.schema_with_features()
    note = still.metadata[b"huggingface"].replace(b'"image":', b'"video":')
    return pa.schema([still.field(0).with_name("video"), *list(still)[1:]], metadata={"huggingface": note})


def write_shards(clips: Sequence[Clip], out: Path) -> list[Path]:
    """Write `data/SPLIT-00000-of-0000N.parquet`, replacing earlier shards, and return the paths."""
    by_split = {split: [clip for clip in clips if clip.split == split] for split in stills.SPLITS}
    return stills.write_parts(by_split, lambda clip: len(clip.webp), to_row, schema(), out / "data", 200)


def measured_tables(clips: Sequence[Clip], paths: Sequence[Path]) -> str:
    """Return the measured part of the data set card."""
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    rates = np.array([1000 * NUM_FRAMES / clip.milliseconds for clip in clips])
    lines = [f"| group | {' | '.join(stills.SPLITS)} | all |", "|---|" + "---:|" * (len(stills.SPLITS) + 1)]
    groups = sorted({clip.emoji.group for clip in clips})
    for name in [*groups, "**all**"]:
        chosen = [clip.split for clip in clips if name in (clip.emoji.group, "**all**")]
        lines.append(f"| {name} | {' | '.join(str(chosen.count(s)) for s in stills.SPLITS)} | {len(chosen)} |")
    return (
        f"{len(clips)} clips of {NUM_FRAMES} frames, {len({clip.family for clip in clips})} families, {len(paths)} "
        f"parquet shards, {megabytes:.1f} MB; {rates.min():.1f} to {rates.max():.1f} frames a second, median "
        f"{np.median(rates):.1f}.\n\n" + "\n".join(lines)
    )


def build(packages: Path, data: Path, out: Path) -> list[Path]:
    """Build shards and tables from unpacked packages and the set of stills; return the shard paths."""
    clips = read_clips(packages, data)
    paths = write_shards(clips, out)
    stills.update_card(out / "README.md", measured_tables(clips, paths), BEGIN)
    return paths


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder with NAME-VERSION/package of the packages")
    parser.add_argument(
        "--stills", type=Path, default=Path("datasets/emoji"), help="set of stills (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("datasets/emoji-clips"), help="data set folder (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    missing = [name for name in PACKAGES if not (options.packages / name / "package").is_dir()]
    if missing:
        sys.stderr.write(
            f"expected unpacked packages in {options.packages}; missing: {', '.join(missing)}; see --help\n"
        )
        return 2
    for path in build(options.packages, options.stills, options.out):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
