"""Captioned pictures and films on disk, and what differs between them, for the table of options."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

CONCEPTS, STYLES = ("heart", "dog", "rocket", "flag", "pizza", "thumbs"), ("red", "blue")


def write_captioned(folder: Path) -> None:
    """Write pictures `cap`, films `movies`, tables of both, and variants of the folders."""
    generator = np.random.default_rng(0)
    for name, num_frames, column in (("cap", 1, "image"), ("movies", 5, "video")):
        for split in ("train", "test"):
            _write_split(folder / name / split, num_frames, generator)
        _write_table(folder / f"{name}.parquet", folder / name / "test", column)
        shutil.copytree(folder / name / "train", folder / f"{name}2" / "test")
        for variant in ("clear", "bad"):
            shutil.copytree(folder / name, folder / f"{name}-{variant}")
        suffix = "png" if num_frames == 1 else "webp"
        for split in ("train", "test"):
            clear = folder / f"{name}-clear" / split / f"0.{suffix}"
            clear.write_bytes(_film([Image.new("RGBA", (16, 16), (9, 9, 9, n)) for n in range(num_frames)], suffix))
        bad = folder / f"{name}-bad" / "test"
        (bad / f"bad.{suffix}").write_text("neither picture nor film")
        with (bad / "metadata.jsonl").open("a") as stream:
            stream.write(json.dumps({**_row(0), "file_name": f"bad.{suffix}"}) + "\n")


def _row(number: int) -> dict[str, object]:
    concept, style = CONCEPTS[number // 2], STYLES[number % 2]
    group = "alive" if concept in ("dog", "thumbs") else "thing"
    other = {"family": "any", "hand": "left", "title": f"a {concept} of japan"}
    return {"captions": [f"{style} {concept}", concept], "concept": concept, "style": style, "group": group, **other}


def _write_split(folder: Path, num_frames: int, generator: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    lines = []
    suffix = "png" if num_frames == 1 else "webp"
    for number in range(2 * len(CONCEPTS)):
        content = generator.integers(0, 256, (num_frames, 16, 16, 3), dtype=np.uint8)
        (folder / f"{number}.{suffix}").write_bytes(_film([Image.fromarray(frame) for frame in content], suffix))
        lines.append(json.dumps({"file_name": f"{number}.{suffix}", **_row(number)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def _film(frames: list[Image.Image], suffix: str) -> bytes:
    content = io.BytesIO()
    moving = {"save_all": True, "append_images": frames[1:], "duration": 100, "lossless": True}
    frames[0].save(content, suffix, **(moving if len(frames) > 1 else {}))
    return content.getvalue()


def _write_table(path: Path, folder: Path, column: str) -> None:
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    cells = [{"bytes": (folder / row["file_name"]).read_bytes(), "path": row.pop("file_name")} for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table = pyarrow.table({column: cells, "other": cells[1:] + cells[:1], **columns})
    pyarrow.parquet.write_table(table, path)
