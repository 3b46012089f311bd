"""Carry a run out, whatever it trains."""

from pathlib import Path

from genrefine.experiments.class_run import train_class_refiner
from genrefine.experiments.settings import TextRun, TokenizerRun
from genrefine.experiments.sources import (
    Run,
)
from genrefine.experiments.text_run import train_text_refiner
from genrefine.experiments.tokenizer_run import train_tokenizer


def run(settings: Run, out: str | Path, name: str = "custom") -> Path:
    """Train what the settings describe, or continue it, and return the folder of the result.

    Args:
        settings: from `genrefine.presets.get`, or built by hand.
        out: folder of the run; an existing run there is continued.
        name: recorded in ``run.json``.

    Raises:
        GenrefineError: settings, data or folder do not fit.
        KeyboardInterrupt: the run was interrupted; it is saved and continues when called again.
    """
    out = Path(out)
    if isinstance(settings, TokenizerRun):
        return train_tokenizer(settings, out, name)
    if isinstance(settings, TextRun):
        return train_text_refiner(settings, out, name)
    return train_class_refiner(settings, out, name)
