"""Means and covariances of features in files: what published Frechet distances are measured against.

The files are NumPy archives with `mu` and `sigma` of 2,048 features of FID's Inception-v3: ADM's reference batches,
EDM's and JiT's statistics, pytorch-fid's `--save-stats`. Other arrays in them (ADM's `mu_s`, pictures) are left alone,
and pickled ones are never read. The same form is written, with the extractor beside it.

Against statistics only the Frechet distance is defined: a kernel distance needs the pictures.
"""

import math
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.frechet import covariance_root
from genrefine.files import one_line, write_atomically


@dataclass(frozen=True, eq=False)
class Statistics:
    """Gaussian that stands for a set of pictures.

    Args:
        mean: of their features.
        covariance: likewise, unbiased.
        name: of the file.
        extractor: description of the network, where the file says so.
        num_pictures: likewise.
    """

    mean: Float64[Tensor, "features"]
    covariance: Float64[Tensor, "features features"]
    name: str = ""
    extractor: str | None = None
    num_pictures: int | None = None


def statistics_of(features: Float[Tensor, "pictures features"], extractor: str) -> Statistics:
    """Return mean and unbiased covariance, computed in float64.

    Raises:
        GenrefineError: fewer than two pictures.
    """
    if len(features) < 2:
        raise GenrefineError(f"statistics need at least two pictures; got {len(features)}")
    wide = features.double()
    return Statistics(wide.mean(0), torch.cov(wide.T).reshape(wide.shape[1], -1), "", extractor, len(features))


def frechet_to(features: Float[Tensor, "pictures features"], reference: Statistics) -> float:
    """Return the Frechet distance of pictures to statistics, computed in float64.

    With S_a = R^T R (see `frechet`), the trace of (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of the
    symmetric R S_b R^T, which lose no digits to a product that is not symmetric.

    Raises:
        GenrefineError: fewer than two pictures, or features of another extractor.
    """
    if len(features) < 2 or features.shape[1] != len(reference.mean):
        raise GenrefineError(
            f"statistics of {len(reference.mean)} features need two pictures or more, described by the same network; "
            f"got {len(features)} with {features.shape[1]} features"
        )
    root = covariance_root(features)
    overlap = torch.linalg.eigvalsh(root @ reference.covariance @ root.T).clamp_min(0).sqrt().sum()
    shift = features.double().mean(0) - reference.mean
    spread = root.square().sum() + reference.covariance.trace()
    return float(shift.square().sum() + spread - 2 * overlap)


def read_statistics(path: str | Path) -> Statistics:
    """Read a file of statistics.

    Raises:
        GenrefineError: no such file, or none that holds a Gaussian.
    """
    expected = "mean and covariance as arrays 'mu' and 'sigma'"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = arrays["mu"], arrays["sigma"]
            extractor = str(arrays["extractor"]) if "extractor" in arrays else None
            count = int(arrays["num_pictures"]) if "num_pictures" in arrays else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise GenrefineError(f"'{path}' must hold {expected}; it does not: {one_line(error)[:200]}") from None
    is_gaussian = mean.ndim == 1 and covariance.shape == (len(mean), len(mean)) and mean.dtype.kind == "f"
    if not is_gaussian or not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise GenrefineError(f"'{path}' must hold {expected}, finite; got {mean.shape} and {covariance.shape}")
    first, second = (torch.from_numpy(np.asarray(one, dtype=np.float64)) for one in (mean, covariance))
    return Statistics(first, second, Path(path).name, extractor, count)


def write_statistics(path: str | Path, statistics: Statistics) -> None:
    """Write a file that `read_statistics`, and programs that read `mu` and `sigma`, understand."""
    content = BytesIO()
    arrays: dict[str, Any] = {"mu": statistics.mean.numpy(), "sigma": statistics.covariance.numpy()}
    if statistics.extractor is not None:
        arrays["extractor"] = np.array(statistics.extractor)
    if statistics.num_pictures is not None:
        arrays["num_pictures"] = np.array(statistics.num_pictures)
    np.savez(content, **arrays)
    write_atomically(path, content.getvalue())


@dataclass(frozen=True)
class InceptionScore:
    """Inception score (arXiv 1606.03498).

    Args:
        mean: over splits.
        std: over splits.
        num_splits: equal parts, in the order of the samples.
    """

    mean: float
    std: float
    num_splits: int


def inception_score(logits: Float[Tensor, "samples classes"], num_splits: int = 10) -> InceptionScore:
    """Return exp of the mean KL divergence of each sample's classes from those of its split, computed in float64.

    torchmetrics computes the same but shuffles by the global random state, and nothing of ours does.

    Raises:
        GenrefineError: fewer samples than splits.
    """
    if not 1 <= num_splits <= len(logits):
        raise GenrefineError(f"an inception score of {num_splits} splits needs as many samples; got {len(logits)}")
    scores = []
    for part in torch.log_softmax(logits.double(), dim=1).tensor_split(num_splits):
        together = torch.logsumexp(part, dim=0) - math.log(len(part))
        scores.append((part.exp() * (part - together)).sum(1).mean().exp())
    found = torch.stack(scores)
    return InceptionScore(float(found.mean()), float(found.std(correction=0)), num_splits)
