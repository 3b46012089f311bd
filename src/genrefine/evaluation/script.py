"""TorchScript files that the user brings: networks that published scores are computed with.

A TorchScript is a program: open only files that you trust.
"""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.files import one_line, sha256_of


def is_scripted(path: Path) -> bool:
    """Return whether a file is a TorchScript: an archive that has code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_script(path: str | Path) -> Any:
    """Return a network with frozen weights.

    Raises:
        GenrefineError: the file is missing or no TorchScript.
    """
    file = Path(path)
    if not file.is_file() or not is_scripted(file):
        raise GenrefineError(f"a TorchScript file is expected, such as i3d_torchscript.pt; '{path}' is none")
    with warnings.catch_warnings():
        # torch discourages the format; the published files have no other.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            network = torch.jit.load(str(file), map_location="cpu").eval()
        except RuntimeError as error:
            raise GenrefineError(f"'{path}' is a TorchScript that torch cannot read: {one_line(error)[:200]}") from None
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def vectors(network: Any, path: Path, *given: Tensor, **said: bool) -> Float[Tensor, "batch features"]:
    """Call a network and make sure that it returns one vector each.

    Raises:
        GenrefineError: it refuses what it is given, or returns something else.
    """
    called = f"({', '.join(f'{name}={value}' for name, value in said.items())})"
    try:
        features = network(*given, **said)
    except (RuntimeError, TypeError, torch.jit.Error) as error:
        reason = str(error).strip().rpartition("\n")[2]  # a TorchScript's traceback ends with what it says
        raise GenrefineError(f"'{path}' must take {tuple(given[0].shape)} {called}; it says: {reason[:200]}") from None
    if not (isinstance(features, Tensor) and features.ndim == 2 and len(features) == len(given[0])):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise GenrefineError(f"'{path}' must return one vector each of {len(given[0])} {called}; got {got}")
    return features.float()


def named(path: str | Path) -> str:
    """Return a file's name and the beginning of its hash, for a record."""
    return f"{Path(path).name}, SHA-256 {sha256_of(Path(path))[:12]}"
