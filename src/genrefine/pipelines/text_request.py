"""What a caller asks of a text pipeline, made explicit: a prompt and a seed per sample, a size, a first frame.

Sizes are checked against the visual tokenizer: heights and widths are multiples of its spatial stride, clips have
1 + k times its temporal stride frames. Where a size is impossible the error names the nearest possible one and the
nearest size that the model knows: one of the published buckets, or its own.
"""

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from genrefine.conditioning.text_condition import FirstFrame
from genrefine.conditioning.text_encoder import readable_prompt
from genrefine.data.buckets import Bucket, Buckets
from genrefine.data.decoding import PictureDecoder
from genrefine.errors import GenrefineError, GenrefineNotice
from genrefine.media.pixels import from_pil
from genrefine.pipelines.request import Request
from genrefine.tokenizer import VisualTokenizer

MOST_POSITIONS = 2**20
"""Ten times a published clip of 81 frames at 1024 x 1024; what is beyond was meant otherwise."""

WITHOUT_ENCODER = (
    "pass prompt_embeds and negative_prompt_embeds, from encode_prompt of a pipeline with one, or load it with "
    "text_encoder and tokenizer"
)

Prompt = str | Sequence[str] | None
Embeddings = Float[Tensor, "..."] | Sequence[Float[Tensor, "_ _"]] | None
Picture = Image.Image | Float[Tensor, "..."] | str | Path
FirstFrames = Picture | Sequence[Picture] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class TextRequest(Request):
    """Pictures or clips of what prompts say.

    Args:
        prompts: of each sample, a text, which is encoded when its sample is made, or embeddings "tokens channels".
        nulls: what guidance leads away from, likewise.
        first_frames: codes of given first frames; none where the network makes all frames.
    """

    prompts: list[str | Tensor]
    nulls: list[str | Tensor]
    first_frames: list[FirstFrame]


@dataclass(frozen=True, eq=False)
class Prompted:
    """Prompts of a call.

    Args:
        own: texts, or embeddings in their place.
        nulls: what guidance leads away from, likewise, one per prompt.
    """

    own: list[str | Tensor]
    nulls: list[str | Tensor]

    @property
    def has_prompt(self) -> bool:
        """Whether guidance has anything to lead towards."""
        return any(
            own is not null if isinstance(own, Tensor) or isinstance(null, Tensor) else own.strip() != null.strip()
            for own, null in zip(self.own, self.nulls, strict=True)
        )


def text_of(prompt: str | Tensor) -> str | None:
    """Return a prompt that is a text."""
    return None if isinstance(prompt, Tensor) else prompt


def resolve_prompts(
    channels: int,
    has_encoder: bool,
    prompt: Prompt,
    negative: Prompt,
    embeds: Embeddings,
    negative_embeds: Embeddings,
) -> Prompted:
    """Return the prompts and negative prompts of a call; texts are checked, and encoded later.

    Args:
        channels: of embeddings.
        has_encoder: whether there is one for texts.
        prompt: one or several; None is the empty prompt unless `embeds` are given.
        negative: one for all prompts, or one each.
        embeds: in place of prompts: "prompts tokens channels", or one tensor "tokens channels" per prompt.
        negative_embeds: in place of negative prompts, the same; or one "tokens channels" for all.

    Raises:
        GenrefineError: prompts and embeddings are both given, are not readable, or their numbers differ.
    """
    if prompt is not None and embeds is not None:
        raise GenrefineError("prompt and prompt_embeds both say what to make; got both; pass one of them")
    if negative and negative_embeds is not None:
        raise GenrefineError("negative_prompt and negative_prompt_embeds exclude each other; got both; pass one")
    if not has_encoder and embeds is None:
        raise GenrefineError(f"this pipeline has no text encoder; got a prompt; {WITHOUT_ENCODER}")
    own: list[str | Tensor] = _listed(prompt) if embeds is None else _embeddings(embeds, channels)
    if not own:
        raise GenrefineError("prompt must hold at least one text; got none; pass '' for no particular picture")
    if not has_encoder and negative_embeds is None:
        if negative:
            raise GenrefineError(f"this pipeline has no text encoder; got a negative prompt; {WITHOUT_ENCODER}")
        nulls = list(own)
    elif negative_embeds is None:
        nulls = _each(_listed(negative), len(own), "negative_prompt")
    else:
        nulls = _each(_embeddings(negative_embeds, channels), len(own), "negative_prompt_embeds")
    return Prompted(own, nulls)


def _listed(prompt: Any) -> list[Any]:
    if prompt is None:
        return [""]
    texts = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
    for text in texts:
        readable_prompt(text)
    return texts


def _embeddings(given: Any, channels: int) -> list[Any]:
    pieces = [given] if isinstance(given, Tensor) and given.ndim == 2 else list(given)
    for piece in pieces:
        if not isinstance(piece, Tensor) or piece.ndim != 2 or piece.shape[1] != channels or not len(piece):
            shape = tuple(piece.shape) if isinstance(piece, Tensor) else type(piece).__name__
            raise GenrefineError(
                f"prompt embeddings must be (tokens, {channels}) for every prompt; got {shape}; "
                "use the pipeline's own text encoder"
            )
    return [piece.detach().float() for piece in pieces]


def _each(values: list[Any], count: int, name: str) -> list[Any]:
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise GenrefineError(f"{name} must be one for all {count} prompts or one each; got {len(values)}")
    return values


def resolve_grid(
    tokenizer: VisualTokenizer, own: tuple[int, int], num_frames: int, height: int, width: int, has_first_frame: bool
) -> tuple[int, int, int]:
    """Return the latent grid of the samples, a given first frame included.

    Args:
        tokenizer: whose strides decide which sizes are possible.
        own: height and width that the model was trained for.
        num_frames, height, width: wanted.
        has_first_frame: whether the first frame is given, so that there must be others.

    Raises:
        GenrefineError: the size is impossible; the message names the nearest possible one.
    """
    stride = tokenizer.temporal_stride
    if stride == 1 and (num_frames != 1 or has_first_frame):
        wish = f"num_frames {num_frames}" if num_frames != 1 else "a first frame"
        raise GenrefineError(f"this model makes stills only; got {wish}; nearest num_frames 1, without a first frame")
    try:
        grid = tokenizer.grid(num_frames, height, width)
    except GenrefineError as error:
        if min(height, width) < 1 or not (height % tokenizer.spatial_stride or width % tokenizer.spatial_stride):
            raise
        bucket = trained_sizes(tokenizer, own).nearest(height, width)
        raise GenrefineError(f"{error}; nearest trained size {bucket.height} x {bucket.width}") from None
    if (positions := math.prod(grid)) > MOST_POSITIONS:
        codes = positions * tokenizer.code_channels
        raise GenrefineError(
            f"a sample may have {MOST_POSITIONS:,} positions of codes; got {positions:,} for {num_frames} frames of "
            f"{height} x {width}, of which the logits alone take {codes * tokenizer.code_classes * 4 / 1e9:,.0f} GB; "
            "ask for less"
        )
    if has_first_frame and grid[0] < 2:
        raise GenrefineError(
            f"a first frame needs frames after it; got num_frames {num_frames}; ask for {1 + stride} or more"
        )
    return grid


def trained_sizes(tokenizer: VisualTokenizer, own: tuple[int, int]) -> Buckets:
    """Return the published sizes for a tokenizer of the published strides, else the model's one size."""
    published = Buckets.published()
    strides = (tokenizer.spatial_stride, tokenizer.temporal_stride)
    if strides == (published.spatial_stride, published.temporal_stride):
        return published
    height, width = own
    return Buckets((Bucket("own", height / width, height, width),), *strides, max_frames=1)


def resolve_first_frames(
    first_frame: FirstFrames, count: int, height: int, width: int
) -> list[Float[Tensor, "1 3 1 height width"]]:
    """Return the pixels of every prompt's first frame; none if none is given.

    A picture of another size is resized to cover the frame and cropped around its center, with a warning; both by whole
    pixels as in the published program, of which a crop between pixels differs in single bits of the codes.

    Args:
        first_frame: a PIL picture, a path, a tensor "3 height width" in [0, 1]; or a list, one per prompt.
        count: prompts.
        height: of the clip, in pixels.
        width: of the clip.

    Raises:
        GenrefineError: a picture cannot be read, or there is not one for every prompt.
    """
    if first_frame is None:
        return []
    pictures = _each(
        list(first_frame) if isinstance(first_frame, (list, tuple)) else [first_frame], count, "first_frame"
    )
    read = {id(picture): _frame_pixels(picture, height, width) for picture in pictures}
    return [read[id(picture)] for picture in pictures]


def _frame_pixels(picture: Any, height: int, width: int) -> Float[Tensor, "1 3 1 height width"]:
    if isinstance(picture, Tensor):
        frame = picture[0] if picture.ndim == 4 and len(picture) == 1 else picture
        if frame.ndim != 3 or len(frame) != 3 or not frame.is_floating_point() or not _is_unit(frame):
            raise GenrefineError(
                f"a first frame must be floats of shape (3, height, width) in [0, 1]; got {tuple(picture.shape)} "
                f"of {picture.dtype}; scale it, or pass a PIL picture"
            )
        if tuple(frame.shape[1:]) == (height, width):
            return frame.detach().float().cpu()[None, :, None] * 2 - 1
        levels = (frame.detach().float().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        picture = Image.fromarray(np.ascontiguousarray(levels))
    elif isinstance(picture, (str, Path)):
        picture = PictureDecoder().picture(Path(picture), str(picture))
    elif isinstance(picture, Image.Image):
        content = io.BytesIO()
        picture.save(content, "PNG")
        picture = PictureDecoder().picture(content.getvalue(), "first frame")  # flattens every mode alike
    else:
        raise GenrefineError(
            f"a first frame is a PIL picture, a tensor or a path; got {type(picture).__name__}; pass one of these"
        )
    if picture.size != (width, height):
        warnings.warn(
            f"the first frame is {picture.height} x {picture.width} (height x width), the clip {height} x {width}; "
            "it was resized to cover the clip and cropped around its center",
            GenrefineNotice,
            stacklevel=2,
        )
        picture = cover(picture, width, height)
    return from_pil(picture)


def cover(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Return a picture scaled so that it just covers a size, rounded to whole pixels, and cropped around its center."""
    scale = max(width / picture.width, height / picture.height)
    size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))


def _is_unit(frame: Tensor) -> bool:
    low, high = torch.aminmax(frame)
    return bool(low >= 0 and high <= 1)


def with_first_frames(
    elements: Shaped[Tensor, "active channels t h w"], first_frames: Sequence[Shaped[Tensor, "channels 1 h w"]]
) -> Shaped[Tensor, "active channels t+1 h w"]:
    """Put what is known of first frames before what is known of the others."""
    return torch.cat([torch.stack(list(first_frames)).to(elements), elements], dim=2)
