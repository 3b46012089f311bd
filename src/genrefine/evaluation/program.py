"""A user's own extractor: one file that holds a network and its weights.

The file is what `torch.export.save` writes (`.pt2`), the successor of TorchScript: it needs none of the user's source
code. It is called with frames `(batch, 3, height, width)`, float32 in [-1, 1], and does its own scaling. Export it with
a dynamic batch (and dynamic height and width where sizes vary).

A `.pt2` file is a program and may contain pickled objects: open only files that you trust.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genrefine.errors import GenrefineError


class Program(nn.Module):
    """Run an exported network with frozen weights.

    Args:
        path: a `.pt2` file written by `torch.export.save`.

    Raises:
        GenrefineError: the file is missing or holds no exported program, or the program refuses its input.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        if not self.path.is_file():
            raise GenrefineError(f"an extractor is a .pt2 file of torch.export.save; {path} does not exist")
        if self.path.suffix != ".pt2" or not zipfile.is_zipfile(self.path):
            raise GenrefineError(f"an extractor is a .pt2 file of torch.export.save; {path} is not one")
        try:
            self.network = torch.export.load(self.path).module()
        except Exception as error:
            raise GenrefineError(f"{path} holds no exported program: {_first_line(error)}; export it again") from error
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)

    def forward(self, frames: torch.Tensor) -> Any:
        """Call the program; what comes back is the program's own."""
        try:
            return self.network(frames)
        except (AssertionError, RuntimeError, TypeError) as error:
            raise GenrefineError(
                f"{self.path} must take frames (batch, 3, height, width) in [-1, 1]; for {tuple(frames.shape)} "
                f"it says: {_first_line(error)}; export it with dynamic batch, height and width"
            ) from error

    def train(self, mode: bool = True) -> "Program":
        """Do nothing: an exported program has the mode it was exported in, and refuses to be asked."""
        return self


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
