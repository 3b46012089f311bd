"""Checks of what a pipeline takes from transformers: the folders of its text encoder and of its tokenizer.

transformers fills missing weights with random numbers and ignores keys it does not know, so that a damaged folder
gives a model that runs and says nothing. Before anything is loaded: the configuration describes the class, every weight
file is whole, weights and network agree in every name and shape, and the vocabulary is there.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrefine.errors import GenrefineError
from genrefine.files import read_json

WEIGHTS = "model.safetensors"
VOCABULARIES = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
"""Any one of these holds the vocabulary of a tokenizer."""


def is_encoder_part(found: type) -> bool:
    """Say whether a class is a model or a tokenizer of transformers."""
    return issubclass(found, (PreTrainedModel, PreTrainedTokenizerBase))


def check_tokenizer_folder(folder: Path) -> None:
    """Refuse a tokenizer folder without its configuration or vocabulary, or with unreadable ones.

    Raises:
        GenrefineError: the first thing that is wrong.
    """
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        raise GenrefineError(f"the model lacks '{config}'; fetch or save the model again")
    vocabularies = [folder / name for name in VOCABULARIES if (folder / name).is_file()]
    if not vocabularies:
        raise GenrefineError(f"the model lacks the vocabulary '{folder / VOCABULARIES[0]}'; fetch or save it again")
    for path in (config, *vocabularies):
        if path.suffix == ".json":
            read_json(path, "fetch or save the model again")


def encoder_shapes(path: Path, encoder_class: type[Any], config: dict[str, Any]) -> list[dict[str, tuple[int, ...]]]:
    """Return names and shapes of the weights of a text encoder; tied weights stand together under all their names.

    Args:
        path: of the configuration, for the error.
        encoder_class: of transformers.
        config: content of the file.

    Raises:
        GenrefineError: the configuration does not describe such an encoder.
    """
    try:
        with torch.device("meta"):
            encoder = encoder_class(encoder_class.config_class.from_dict(dict(config)))
            encoder.tie_weights()
    except Exception as error:  # a configuration of transformers can fail in any way
        reason = " ".join(str(error).split())
        raise GenrefineError(f"'{path}' does not describe a {encoder_class.__name__}: {reason[:200]}") from error
    tied: dict[int, dict[str, tuple[int, ...]]] = {}
    kept = set(encoder.state_dict())
    for name, tensor in encoder.state_dict(keep_vars=True).items():
        if name in kept:
            tied.setdefault(id(tensor), {})[name] = tuple(tensor.shape)
    return list(tied.values())
