"""What a text refiner is trained on: stills, by bucket where there are buckets, and clips, each with its code store.

A batch holds as many samples as give the tokens of ``training.batch_size`` square stills. Clips have the share of the
batches that the settings say; the rest goes to the buckets, to bucket ``k`` of ``N_k`` stills and batches of ``B_k`` in
proportion to ``N_k / B_k``, so that every still is seen equally often.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState

from genrefine.data import ClipSource, CodeStore, ImageSource
from genrefine.data.buckets import Buckets
from genrefine.data.text_store import TextStore
from genrefine.errors import GenrefineError
from genrefine.experiments.settings import DataSettings, TextRun
from genrefine.experiments.sources import groups, open_clips, open_codes, open_source
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.text_refiner_task import TextSamples


@dataclass(frozen=True)
class TextPart:
    """Stills or clips of one size.

    Args:
        name: what they are called in the log.
        source: pixels and captions.
        store: their codes.
        batch_size: samples of a micro-batch over all processes.
        share: share of the batches, relative to the other parts.
        groups: of the items of the store that take turns.
    """

    name: str
    source: ImageSource | ClipSource
    store: CodeStore
    batch_size: int
    share: float
    groups: list[list[int]] | None = None

    @property
    def is_clips(self) -> bool:
        """Whether the samples have more than one frame."""
        return isinstance(self.source, ClipSource)

    def samples(self, texts: TextStore) -> TextSamples:
        """Return what the task takes, every item, mirror images included, with its captions as rows of the store."""
        own = [tuple(texts.row(caption) for caption in group) for group in self.source.captions]
        rows = [own[item // self.store.views] for item in range(len(self.store))]
        return TextSamples(self.name, self.store, rows, self.batch_size, self.share, self.groups)


def open_parts(settings: TextRun, tokenizer: VisualTokenizer, out: Path) -> list[TextPart]:
    """Open stills and clips and encode what is not encoded yet, into stores beside ``out``.

    Raises:
        GenrefineError: captions are missing, or sizes do not fit the tokenizer.
    """
    data, clips = settings.data, settings.clips
    micro_batch = settings.training.batch_size // settings.training.gradient_accumulation
    parts: list[TextPart] = []
    if data.source:
        _require_captions(data.caption_column, "data")
        tokenizer.grid(1, data.size, data.size)
    elif data.buckets:
        raise GenrefineError(f"data.buckets sorts pictures; got {data.buckets!r} without data.source; leave it out")
    if clips.source:
        _require_captions(clips.caption_column, "clips")
        clip_batch = _clip_batch_size(settings, tokenizer, micro_batch)
    if data.source:
        parts += _stills(settings, tokenizer, out, micro_batch, 1 - clips.share if clips.source else 1.0)
    if clips.source:
        moving = open_clips(clips)
        store = open_codes(out.with_name(out.name + "-clip-codes"), moving, tokenizer, settings.flip)
        parts.append(TextPart("clips", moving, store, clip_batch, clips.share if data.source else 1.0))
    return parts


def _stills(settings: TextRun, tokenizer: VisualTokenizer, out: Path, micro_batch: int, share: float) -> list[TextPart]:
    data, folder = settings.data, out.with_name(out.name + "-codes")
    source = open_source(data)
    views = 2 if settings.flip else 1
    if not data.buckets:
        turns = groups(source, data, views)  # first, so that a wrong column is found before anything is encoded
        return [
            TextPart("stills", source, open_codes(folder, source, tokenizer, settings.flip), micro_batch, share, turns)
        ]
    tokens = _num_tokens(tokenizer, data.size, data.size)
    parts = []
    for (height, width), pictures in source.by_bucket(buckets_of(data, tokenizer), str(data.size)).items():
        turns = groups(pictures, data, views)
        store = open_codes(folder / f"{height}x{width}", pictures, tokenizer, settings.flip)
        batch_size = _evenly(micro_batch * tokens / _num_tokens(tokenizer, height, width))
        # Of pictures that take turns each is seen less often, so it is their groups that count.
        num_seen = len(pictures) if turns is None else len(turns)
        parts.append(TextPart(f"stills_{height}x{width}", pictures, store, batch_size, num_seen / batch_size, turns))
    total = sum(part.share for part in parts)
    return [replace(part, share=share * part.share / total) for part in parts]


def buckets_of(data: DataSettings, tokenizer: VisualTokenizer) -> Buckets:
    """Return the buckets of about ``data.size`` x ``data.size`` pixels in the aspect ratios of ``data.buckets``."""
    side = data.size // tokenizer.spatial_stride
    return Buckets.of({str(data.size): side}, data.aspect_ratios(), tokenizer.spatial_stride, max_frames=1)


def _num_tokens(tokenizer: VisualTokenizer, height: int, width: int, frames: int = 1) -> int:
    return math.prod(tokenizer.grid(frames, height, width))


def _require_captions(column: str, group: str) -> None:
    if not column:
        raise GenrefineError(
            f"{group}.caption_column must name the column that holds captions; got nothing; "
            f"use --set {group}.caption_column=..."
        )


def _clip_batch_size(settings: TextRun, tokenizer: VisualTokenizer, micro_batch: int) -> int:
    """Return clips per micro-batch: as asked, or with the tokens of a micro-batch of pictures."""
    clips = settings.clips
    tokens = _num_tokens(tokenizer, clips.size, clips.size, clips.num_frames)
    if clips.batch_size:
        if clips.batch_size % settings.training.gradient_accumulation:
            raise GenrefineError(
                f"clips.batch_size must be a multiple of training.gradient_accumulation "
                f"{settings.training.gradient_accumulation}; got {clips.batch_size}"
            )
        return clips.batch_size // settings.training.gradient_accumulation
    return _evenly(micro_batch * _num_tokens(tokenizer, settings.data.size, settings.data.size) / tokens)


def _evenly(samples: float) -> int:
    """Return the whole number of samples nearest to a size that all processes can share evenly."""
    share = PartialState().num_processes
    return max(1, round(samples / share)) * share
