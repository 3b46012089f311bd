"""How clips compare with real clips, and whether a given first frame is kept.

Frame by frame, samples are compared with the real clips by kernel distance. How much they move is the mean absolute
difference of neighboring frames, as a share of the whole range from black to white: a clip that stands still has none,
one that flickers too much. Where the first frame is given, the clip's first frame should be what the visual tokenizer
makes of it; nothing else can be expected. A clip decoded piece by piece should equal the clip decoded as a whole. What
the visual tokenizer makes of the real clips bounds all of it: no refiner moves more than the codes of real clips do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.comparison import Record
from genrefine.evaluation.features import EfficientNetFeatures, FeatureExtractor, collect_features
from genrefine.evaluation.frechet import KernelDistance, frechet_distance, kernel_distance
from genrefine.evaluation.pictures import CaptionedSource, pixel_batches
from genrefine.evaluation.pixels import psnr
from genrefine.evaluation.prompt_samples import TextSampler, draw_prompts
from genrefine.evaluation.prompts import choose_prompts
from genrefine.evaluation.samples import weights_fingerprint
from genrefine.media.pixels import from_uint8, to_uint8

NUM_STREAMED = 8


@dataclass(frozen=True)
class FirstFrame:
    """How a given first frame comes back.

    Args:
        psnr: mean PSNR of the clips' first frames against the given ones, in decibels.
        psnr_of_tokenizer: the same for the visual tokenizer's own reconstructions of the given ones.
        largest_difference: between the clips' first frames and these reconstructions, in levels of 255.
    """

    psnr: float
    psnr_of_tokenizer: float
    largest_difference: int


@runtime_checkable
class ClipExtractor(Protocol):
    """Anything that turns whole clips in [-1, 1] into vectors and says what it is."""

    description: str

    def __call__(self, pixels: Float[Tensor, "batch 3 frames height width"]) -> Float[Tensor, "batch features"]:
        """Return one float32 vector per clip."""
        ...


@dataclass(frozen=True)
class VideoDistance:
    """Frechet video distance (arXiv 1812.01717): the Frechet distance of features of whole clips.

    Args:
        extractor: the network.
        frechet: distance of samples to real clips; compare only equal numbers and lengths of clips.
    """

    extractor: str
    frechet: float


@dataclass(frozen=True)
class TokenizerOfClips:
    """How real clips come back from their codes.

    Args:
        psnr: mean over clips, in decibels.
        motion: mean absolute difference of neighboring frames, share of the range.
        kernel: kernel distance of all frames to those of the real clips.
    """

    psnr: float
    motion: float
    kernel: KernelDistance


@dataclass(frozen=True)
class ClipEvaluation(Record):
    """Quality of a text pipeline's clips.

    Args:
        extractor: network, input size and scaling that the distances rest on.
        num_clips: samples, with seeds 0 .. num_clips - 1.
        num_real: real clips.
        num_frames: frames of a clip.
        kernel: kernel distance of all frames of the samples to all frames of the real clips.
        kernel_floor: the same for two halves of the real clips.
        kernel_of_frames: mean kernel distance of the frames at each position.
        video: Frechet video distance, where a network for clips was given.
        motion, motion_of_real: mean absolute difference of neighboring frames, share of the range, samples and real.
        motion_median, motion_median_of_real: medians over clips.
        tokenizer: what the visual tokenizer makes of the real clips.
        first_frame: how given first frames come back; None where only captions were given.
        streamed_difference: largest difference of real clips decoded one latent frame at a time and as a whole, in
            units of [-1, 1].
        sampling: sampling arguments given to the pipeline; the rest are the defaults of `sampler`.
        sampler: sampling defaults of the model.
        mean_steps: refinements per clip.
        mean_evaluations: network evaluations per clip, guidance included.
        seed: of the choice of captions and of subsets.
        weights: SHA-256 of the weights of refiner, visual tokenizer and text encoder.
    """

    extractor: str
    num_clips: int
    num_real: int
    num_frames: int
    kernel: KernelDistance
    kernel_floor: KernelDistance
    kernel_of_frames: tuple[float, ...]
    video: VideoDistance | None
    motion: float
    motion_of_real: float
    motion_median: float
    motion_median_of_real: float
    tokenizer: TokenizerOfClips
    first_frame: FirstFrame | None
    streamed_difference: float
    sampling: dict[str, Any]
    sampler: dict[str, Any]
    mean_steps: float
    mean_evaluations: float
    seed: int
    weights: str


def motion(pixels: Float[Tensor, "clips 3 frames height width"]) -> Float[Tensor, "clips"]:
    """Return the mean absolute difference of neighboring frames of every clip, as a share of the range.

    Raises:
        GenrefineError: clips of a single frame.
    """
    if pixels.shape[2] < 2:
        raise GenrefineError(f"motion needs clips of two frames or more; got {pixels.shape[2]}")
    return (pixels.float().diff(dim=2).abs() / 2).mean(dim=(1, 2, 3, 4))


def streamed_difference(visual_tokenizer: Any, codes: Iterable[Int[Tensor, "1 channels t h w"]]) -> float:
    """Return the largest difference of clips decoded one latent frame at a time and as a whole, in units of [-1, 1]."""
    largest = 0.0
    for clip in codes:
        streamed = torch.cat(list(visual_tokenizer.decode_chunks(clip.split(1, dim=2))), dim=2)
        largest = max(largest, float((streamed - visual_tokenizer.decode(clip)).abs().max()))
    return largest


def first_frame_kept(
    visual_tokenizer: Any,
    pixels: Float[Tensor, "clips 3 frames height width"],
    given: Float[Tensor, "clips 3 1 height width"],
) -> FirstFrame:
    """Compare the first frames of clips with those that were given."""
    first = pixels[:, :, :1]
    decoded = [visual_tokenizer.decode(visual_tokenizer.encode(_to(visual_tokenizer, one))) for one in given.split(1)]
    own = from_uint8(to_uint8(torch.cat(decoded)))  # samples were rounded to bytes too
    return FirstFrame(
        psnr=float(psnr(first, given).mean()),
        psnr_of_tokenizer=float(psnr(own, given).mean()),
        largest_difference=int(((first - own).abs() * 127.5).max().round()),
    )


def evaluate_clips(
    pipe: TextSampler,
    source: CaptionedSource,
    num_prompts: int = 100,
    first_frames: bool = False,
    extractor: FeatureExtractor | None = None,
    batch_size: int = 8,
    folder: Path | None = None,
    seed: int = 0,
    progress: bool = True,
    clip_extractor: ClipExtractor | None = None,
    **sampling: Any,
) -> ClipEvaluation:
    """Make one clip of each of some captions and compare them with the real clips.

    Args:
        pipe: the pipeline.
        source: real clips of one length and of the pipeline's picture size, with captions; the first is the prompt.
        num_prompts: captions to draw; all of them if there are fewer.
        first_frames: give the first frames of the real clips too.
        extractor: turns frames into features; EfficientNet-Lite0 by default.
        batch_size: clips per pipeline call.
        folder: where finished batches are kept, so that an interrupted run continues.
        seed: of the choice of captions and of subsets.
        progress: show progress bars.
        clip_extractor: turns whole clips into features, for the Frechet video distance; see `extractor_file`.
        sampling: arguments of the pipeline.

    Raises:
        GenrefineError: clips without captions, or fewer than eight of them.
    """
    if not source.captions:
        raise GenrefineError("prompts are captions of real clips; got clips without; name their caption column")
    places = choose_prompts(len(source), num_prompts, seed)
    if len(places) < 8:
        raise GenrefineError(f"an evaluation needs eight captions and as many samples; got {len(places)}")
    real = torch.cat(list(pixel_batches(source, batch_size, progress, "reading clips")))
    count, num_frames = real.shape[0], real.shape[2]
    given = real[places][:, :, :1]
    arguments: dict[str, Any] = {"first_frames": given[:, :, 0] / 2 + 0.5} if first_frames else {}
    prompts = [source.captions[i][0] for i in places]
    theirs = None  # first, as a network that refuses such clips should do so before hours of sampling
    if clip_extractor is not None:
        theirs = torch.cat([clip_extractor(part) for part in real.split(4)])
    samples = draw_prompts(pipe, prompts, batch_size, folder, progress, num_frames, **arguments, **sampling)
    pixels = samples.pixels
    network = extractor if extractor is not None else EfficientNetFeatures()
    # One row of features per frame; clip by clip.
    a, b = (collect_features(network, one.split(2)).unflatten(0, (-1, num_frames)) for one in (pixels, real))
    video = None
    if clip_extractor is not None and theirs is not None:
        ours = torch.cat([clip_extractor(part) for part in pixels.split(4)])
        video = VideoDistance(clip_extractor.description, frechet_distance(ours, theirs))
    generator = torch.Generator().manual_seed(seed)
    halves = b[torch.randperm(count, generator=generator)].tensor_split(2)
    moved, moved_really = motion(pixels), motion(real)
    tokenizer = pipe.visual_tokenizer
    codes = [tokenizer.encode(_to(tokenizer, clip)) for clip in real.split(1)]
    decoded = from_uint8(to_uint8(torch.cat([tokenizer.decode(one) for one in codes])))
    c = collect_features(network, decoded.split(2))
    return ClipEvaluation(
        extractor=network.description,
        num_clips=len(places),
        num_real=count,
        num_frames=num_frames,
        kernel=kernel_distance(a.flatten(0, 1), b.flatten(0, 1), generator),
        kernel_floor=kernel_distance(halves[0].flatten(0, 1), halves[1].flatten(0, 1), generator),
        kernel_of_frames=tuple(kernel_distance(a[:, i], b[:, i], generator).mean for i in range(num_frames)),
        video=video,
        motion=float(moved.mean()),
        motion_of_real=float(moved_really.mean()),
        motion_median=float(moved.median()),
        motion_median_of_real=float(moved_really.median()),
        tokenizer=TokenizerOfClips(
            psnr=float(psnr(decoded, real).mean()),
            motion=float(motion(decoded).mean()),
            kernel=kernel_distance(c, b.flatten(0, 1), generator),
        ),
        first_frame=first_frame_kept(tokenizer, pixels, given) if first_frames else None,
        streamed_difference=streamed_difference(tokenizer, codes[:NUM_STREAMED]),
        sampling=dict(sampling),
        sampler={name: value for name, value in pipe.sampler.config.items() if not name.startswith("_")},
        mean_steps=float(samples.num_steps.double().mean()),
        mean_evaluations=float(samples.num_evaluations.double().mean()),
        seed=seed,
        weights=weights_fingerprint(pipe.refiner, tokenizer, pipe.text_encoder),
    )


def _to(visual_tokenizer: Any, pixels: Tensor) -> Tensor:
    return pixels.to(visual_tokenizer.device, visual_tokenizer.dtype)
