"""Complete training configurations, by name: ``genrefine train NAME --out DIR``.

Each preset is a function whose docstring gives its command, its cost and the number to expect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from genrefine.errors import GenrefineError
from genrefine.experiments.overrides import override
from genrefine.experiments.settings import RefinerRun, TextRun, TokenizerRun
from genrefine.presets.emoji import emoji_class, emoji_decoder, emoji_tokenizer, small_class, small_tokenizer
from genrefine.presets.emoji_text import emoji_clips_tokenizer, emoji_text, small_text
from genrefine.presets.published import class_refiner, image_tokenizer
from genrefine.presets.tune import tune_class, tune_text

__all__ = ["PRESETS", "Preset", "get", "names"]

PRESETS: dict[str, Callable[[], TokenizerRun | RefinerRun | TextRun]] = {
    "emoji-tokenizer": emoji_tokenizer,
    "emoji-decoder": emoji_decoder,
    "emoji-class": emoji_class,
    "emoji-clips-tokenizer": emoji_clips_tokenizer,
    "emoji-text": emoji_text,
    "small-tokenizer": small_tokenizer,
    "small-class": small_class,
    "small-text": small_text,
    "tune-class": tune_class,
    "tune-text": tune_text,
    "image-tokenizer": image_tokenizer,
    "class-refiner": class_refiner,
}


@dataclass(frozen=True)
class Preset:
    """A named run with its settings, ready to be carried out."""

    name: str
    settings: TokenizerRun | RefinerRun | TextRun

    def run(self, out: str | Path) -> Path:
        """Train, or continue, in ``out`` and return the folder of the result."""
        from genrefine.experiments.run import run

        return run(self.settings, out, self.name)


def names() -> list[str]:
    """Return the names of all presets."""
    return list(PRESETS)


def get(name: str, overrides: Mapping[str, str] | None = None) -> Preset:
    """Return a preset with some settings changed.

    Args:
        overrides: dotted setting -> value as text, ``{"training.num_steps": "1000"}``.

    Raises:
        GenrefineError: unknown preset or setting, or a value that does not fit.
    """
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {close[0]}?" if close else f"presets: {', '.join(PRESETS)}"
        raise GenrefineError(f"unknown preset {name!r}; {hint}")
    return Preset(name, override(PRESETS[name](), overrides or {}))
