"""Sizes of pictures and clips: the published buckets, those of small models, and every other valid size.

A tokenizer of spatial stride s and temporal stride f takes heights and widths that are multiples of s and 1 + f k
frames. A budget of pixels is given by the side a of its square latent grid, and a bucket is a budget in one of 15
aspect ratios r = height / width (released text models of arXiv 2604.13030):

    rows = round(r sqrt(a^2 / r)),    columns = round(sqrt(a^2 / r)),    height = s rows,    width = s columns

Any valid size can be generated; the buckets are those a model has seen, and what an error suggests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genrefine.errors import GenrefineError
from genrefine.resolutions import ASPECT_RATIOS

PUBLISHED_BUDGETS: Mapping[str, int] = {"0.06M": 16, "0.25M": 32, "0.41M": 40, "0.92M": 60, "1M": 64, "2M": 90}
"""Pixels of a square picture at stride 16 -> side of its latent grid."""
PUBLISHED_MAX_FRAMES = 81
PUBLISHED_FRAME_RATE = 16

Grid = tuple[int, int, int]
"""Latent frames, rows and columns."""


@dataclass(frozen=True)
class Bucket:
    """One size of pictures.

    Args:
        budget: name of the pixel budget.
        ratio: height over width that it stands for; that of the pixels is near to it.
        height: pixels.
        width: pixels.
    """

    budget: str
    ratio: float
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height} x {self.width} (height x width, {self.budget})"


@dataclass(frozen=True)
class Buckets:
    """The sizes of a model.

    Args:
        entries: at least one bucket.
        spatial_stride: pixels per latent row or column.
        temporal_stride: frames per latent frame, after the first.
        max_frames: longest clip, of the form 1 + temporal_stride * k; 1 for pictures only.

    Raises:
        GenrefineError: without a bucket, or if a bucket or the longest clip does not fit the strides.

    Example:
        >>> sizes = Buckets.published()
        >>> sizes.nearest(500, 900).height, sizes.grid(17, 480, 848)
        (480, (5, 30, 53))
    """

    entries: tuple[Bucket, ...]
    spatial_stride: int = 16
    temporal_stride: int = 4
    max_frames: int = PUBLISHED_MAX_FRAMES

    def __post_init__(self) -> None:
        if not self.entries or min(self.spatial_stride, self.temporal_stride, self.max_frames) < 1:
            raise GenrefineError("sizes need at least one bucket, and strides and max_frames of at least 1")
        if (self.max_frames - 1) % self.temporal_stride:
            raise GenrefineError(f"max_frames must be 1 + {self.temporal_stride}k; got {self.max_frames}")
        for bucket in self.entries:
            self.grid(1, bucket.height, bucket.width)

    @staticmethod
    def of(
        budgets: Mapping[str, int],
        ratios: Sequence[float] = ASPECT_RATIOS,
        spatial_stride: int = 16,
        temporal_stride: int = 4,
        max_frames: int = PUBLISHED_MAX_FRAMES,
    ) -> "Buckets":
        """Return a bucket for every budget and ratio, for small models `Buckets.of({"64": 8}, (0.5, 1, 2), 8)`.

        Args:
            budgets: name -> side of the square latent grid.
            ratios: heights over widths.
            spatial_stride, temporal_stride, max_frames: as in the class.

        Raises:
            GenrefineError: a ratio is not a positive number, or the sizes do not fit together.
        """
        wrong = [ratio for ratio in ratios if not 0 < ratio < math.inf]
        if wrong:
            raise GenrefineError(f"aspect ratios, height over width, must be more than 0; got {wrong[0]}")
        entries = []
        for ratio in ratios:
            for name, side in budgets.items():
                columns = math.sqrt(side**2 / ratio)
                # round() and numpy's round agree: half to even. A small grid has one row or column at least.
                rows, columns = max(1, round(columns * ratio)), max(1, round(columns))
                entries.append(Bucket(name, ratio, rows * spatial_stride, columns * spatial_stride))
        return Buckets(tuple(entries), spatial_stride, temporal_stride, max_frames)

    @staticmethod
    def published() -> "Buckets":
        """Return the 15 ratios x 6 budgets of the released text models, up to 81 frames."""
        return Buckets.of(PUBLISHED_BUDGETS)

    def nearest(self, height: int | float, width: int | float, budget: str | None = None) -> Bucket:
        """Return the bucket nearest to a size.

        Args:
            height: wanted height, in any unit if a budget is given.
            width: wanted width.
            budget: choose the nearest ratio of this budget, whatever the size; None compares sizes.

        Raises:
            GenrefineError: if the size is not positive or there is no such budget.
        """
        if not (height > 0 and width > 0):
            raise GenrefineError(f"height and width must be more than 0; got {height} and {width}")
        if budget is None:
            return min(self.entries, key=lambda b: math.log(b.height / height) ** 2 + math.log(b.width / width) ** 2)
        chosen = [bucket for bucket in self.entries if bucket.budget == budget]
        if not chosen:
            known = ", ".join(dict.fromkeys(bucket.budget for bucket in self.entries))
            raise GenrefineError(f"budget must be one of {known}; got {budget!r}; choose one of these")
        # By the ratio as it is published, cut to three decimals.
        return min(chosen, key=lambda bucket: abs(int(bucket.ratio * 1000) / 1000 - height / width))

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Return the latent grid of any valid size.

        Raises:
            GenrefineError: if the size is impossible; the message names the nearest possible one and nearest bucket.
        """
        step = self.temporal_stride
        if not 1 <= frames <= self.max_frames or (frames - 1) % step:
            if self.max_frames == 1:
                raise GenrefineError(f"frames must be 1, as these are pictures only; got {frames}; use a video model")
            nearest = 1 + step * round((min(max(frames, 1), self.max_frames) - 1) / step)
            raise GenrefineError(
                f"frames must be 1 + {step}k, up to {self.max_frames}; got {frames}; nearest {nearest}"
            )
        for name, size in (("height", height), ("width", width)):
            if size < 1 or size % self.spatial_stride:
                possible = max(1, round(size / self.spatial_stride)) * self.spatial_stride
                bucket = self.nearest(max(height, 1), max(width, 1))
                raise GenrefineError(
                    f"{name} must be a multiple of {self.spatial_stride}; got {size}; nearest {possible}, "
                    f"nearest trained size {bucket}"
                )
        return 1 + (frames - 1) // step, height // self.spatial_stride, width // self.spatial_stride

    def frames_of(self, seconds: int | float, frame_rate: int | float = PUBLISHED_FRAME_RATE) -> int:
        """Return the valid number of frames of a clip, at most so long and at most `max_frames`.

        Raises:
            GenrefineError: if the duration is negative.
        """
        if not 0 <= seconds < math.inf:
            raise GenrefineError(f"a duration must be 0 seconds or more; got {seconds}")
        frames = min(self.max_frames, int(seconds * frame_rate + 1))
        return 1 + (frames - 1) // self.temporal_stride * self.temporal_stride
