"""Turn the files of Fashion-MNIST into an image folder of 64 x 64 RGB pictures, dark on white like drawings.

    python scripts/fashion_mnist.py /usr/share/datasets/fashion-mnist OUT --per-class 1000

Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, MIT license) is 60,000 training and 10,000 test pictures of ten kinds of
clothes, 28 x 28, light on black, in the gzipped idx format; Debian has them as `dataset-fashion-mnist`. Gray values are
inverted, every pixel becomes four by bicubic interpolation, and a white border of 4 pixels makes 64. OUT gets
`train/CLASS/*.png` and `test/CLASS/*.png`, the first pictures of every class in the order of the files.
"""

import argparse
import gzip
import struct
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

CLASSES = [
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
]
FILES = {"train": "train", "test": "t10k"}
MAGIC = {1: 2049, 3: 2051}


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read a gzipped idx file of bytes: a magic number, one big-endian size per dimension, then the values."""
    content = gzip.decompress(path.read_bytes())
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", content[: 4 + 4 * dimensions])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if magic != MAGIC[dimensions] or values.size != np.prod(sizes):
        raise SystemExit(f"{path} is no idx file of bytes in {dimensions} dimensions")
    return values.reshape(sizes)


def draw(values: np.ndarray) -> Image.Image:
    """Return a 28 x 28 picture as 64 x 64 pixels, inverted, with a white border."""
    dark = ImageOps.invert(Image.fromarray(values)).resize((56, 56), Image.Resampling.BICUBIC)
    return ImageOps.expand(dark, 4, 255).convert("RGB")


def main(arguments: list[str] | None = None) -> None:
    """Write the folder."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("source", type=Path, help="folder of the four .gz files")
    options.add_argument("out", type=Path)
    options.add_argument("--per-class", type=int, default=0, metavar="N", help="at most N of each class and split")
    chosen = options.parse_args(arguments)
    for split, name in FILES.items():
        pictures = read_idx(chosen.source / f"{name}-images-idx3-ubyte.gz", 3)
        labels = read_idx(chosen.source / f"{name}-labels-idx1-ubyte.gz", 1)
        written: Counter[int] = Counter()
        for values, label in zip(pictures, labels.tolist(), strict=True):
            if chosen.per_class and written[label] >= chosen.per_class:
                continue
            folder = chosen.out / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            draw(values).save(folder / f"{written[label]:05d}.png")
            written[label] += 1
        print(f"{split}: {written.total()} pictures of {len(written)} classes")


if __name__ == "__main__":
    main()
