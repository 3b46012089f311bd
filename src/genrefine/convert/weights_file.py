"""Write safetensors tensor by tensor, and read them back to be sure.

The format is a length (8 bytes), a JSON header of names, formats, shapes and offsets, and the numbers one tensor after
another. Writing it piece by piece needs a few megabytes whatever the size of the model; the format's own library would
first gather every tensor in memory. Weights that are NaN or infinite are refused.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from genrefine.errors import GenrefineError

PIECE = 1 << 20
"""Numbers that are handled at once."""
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
Progress = Callable[[int], object]


def write_weights(
    path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None, progress: Progress | None = None
) -> None:
    """Write weights as safetensors.

    Args:
        path: the file.
        weights: float32, bfloat16 or float16, on the CPU, mapped or not.
        dtype: write them in this format; None keeps that of each.
        progress: called with the number of bytes of every piece.

    Raises:
        GenrefineError: a weight is NaN or infinite, or is too large for the format.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        start, end = end, end + tensor.numel() * (dtype or tensor.dtype).itemsize
        header[name] = {
            "dtype": _NAMES[dtype or tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little"))
        file.write(content)
        for name, tensor in weights.items():
            for piece in _pieces(name, tensor, dtype or tensor.dtype):
                file.write(_bytes(piece))
                if progress is not None:
                    progress(piece.nbytes)


def verify_weights(
    path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None, progress: Progress | None = None
) -> None:
    """Read a file back and compare every name, format, shape and number; arguments as in `write_weights`.

    Raises:
        GenrefineError: naming the first weight that differs.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        if list(header) != list(weights):
            raise GenrefineError(f"'{path}' does not hold the weights that were written to it; check the disk")
        for name, tensor in weights.items():
            record, kind = header[name], dtype or tensor.dtype
            file.seek(8 + length + record["data_offsets"][0])
            same = record["dtype"] == _NAMES[kind] and record["shape"] == list(tensor.shape)
            if not (same and all(_is_next(file, piece, progress) for piece in _pieces(name, tensor, kind))):
                raise GenrefineError(f"weight '{name}' in '{path}' is not what was written; check the disk")
        if file.read(1):
            raise GenrefineError(f"'{path}' is longer than what was written to it; check the disk")


def _is_next(file: BinaryIO, piece: Tensor, progress: Progress | None) -> bool:
    written = file.read(piece.nbytes)
    if progress is not None:
        progress(piece.nbytes)
    return len(written) == piece.nbytes and _bytes(piece) == written


def _pieces(name: str, tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    for piece in tensor.detach().reshape(-1).split(PIECE):
        converted = piece.to(dtype).contiguous()
        if not converted.isfinite().all():
            found = "is NaN or infinite" if not piece.isfinite().all() else f"is too large for {dtype}"
            raise GenrefineError(f"weights must be finite numbers; one of '{name}' {found}; download the file again")
        yield converted


def _bytes(piece: Tensor) -> memoryview:
    if sys.byteorder != "little":
        raise GenrefineError("weights are written on machines that store the low byte first; this one does not")
    return piece.view(torch.uint8).numpy().data
