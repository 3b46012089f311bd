"""From the words of a command line to models, devices and pictures."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrefine.cli.options import parse_pairs
from genrefine.errors import GenrefineError

if TYPE_CHECKING:
    from genrefine.data import ImageSource
    from genrefine.pipelines import ClassPipeline, TextPipeline
    from genrefine.tokenizer import VisualTokenizer


def load_pipeline(model: str, device: str = "cpu", dtype: str = "float32") -> "ClassPipeline | TextPipeline":
    """Load the pipeline of this folder or name and move it.

    Raises:
        GenrefineError: no such model, a damaged one, or a device that this machine does not have.
    """
    from genrefine import pipelines

    quiet_libraries()
    target = torch_device(device)
    pipeline = pipelines.load_pipeline(str(find_model(model)), dtype=torch_dtype(dtype))
    pipeline.set_progress_bar_config(disable=None)  # tqdm's word for "only on a terminal"
    pipeline.to(target)
    return pipeline


def adapt(pipeline: "ClassPipeline | TextPipeline", options: argparse.Namespace) -> None:
    """Add the adapter that the options choose to the weights of a pipeline.

    Raises:
        GenrefineError: an adapter of another model, or a scale without an adapter.
    """
    if options.adapter is None and options.adapter_scale is not None:
        raise GenrefineError("--adapter-scale needs an adapter; give --adapter DIR, or leave it out")
    if options.adapter is not None:
        pipeline.load_lora_weights(options.adapter)
        pipeline.fuse_lora(lora_scale=1.0 if options.adapter_scale is None else options.adapter_scale)
        pipeline.unload_lora_weights()


def load_class_pipeline(model: str, device: str = "cpu", dtype: str = "float32") -> "ClassPipeline":
    """Load a pipeline that makes pictures of classes; see `load_pipeline`.

    Raises:
        GenrefineError: as there, or a pipeline of another kind.
    """
    from genrefine.pipelines import ClassPipeline

    pipeline = load_pipeline(model, device, dtype)
    if not isinstance(pipeline, ClassPipeline):
        raise GenrefineError(f"this needs a model of classes; '{model}' is one of prompts; give another --model")
    return pipeline


def load_tokenizer(model: str, device: str = "cpu", dtype: str = "float32") -> "VisualTokenizer":
    """Load the visual tokenizer of a pipeline, or a tokenizer folder itself.

    Raises:
        GenrefineError: no such model, a damaged one, or a device that this machine does not have.
    """
    from torch.nn import Module

    from genrefine.pipelines import load_component
    from genrefine.tokenizer import VisualTokenizer

    quiet_libraries()
    target, place = torch_device(device), find_model(model)
    if isinstance(place, str):
        tokenizer: VisualTokenizer = load_pipeline(model).visual_tokenizer
    else:
        is_pipeline = (place / "model_index.json").is_file()
        tokenizer = load_component(place / "visual_tokenizer" if is_pipeline else place, VisualTokenizer)
    Module.to(tokenizer, target, torch_dtype(dtype))  # diffusers' own `to` warns whenever a dtype is given
    return tokenizer.eval()


def find_model(model: str) -> str | Path:
    """Return where a model is: an existing folder, a shipped model's folder, or a name on the hub.

    Raises:
        GenrefineError: it is none of these.
    """
    from genrefine.model_folder.find import local_model, shipped_models

    if place := local_model(model):
        return place
    if model.count("/") == 1 and not model.startswith((".", "/", "~")) and not model.endswith("/"):
        return model
    shipped = ", ".join(shipped_models()) or "none"
    raise GenrefineError(f"no model at '{model}'; expected a model folder or a shipped model ({shipped})")


def load_pictures(
    data: str,
    options: argparse.Namespace,
    size: tuple[int, int] | int | None,
    class_names: list[str] | None = None,
    split: str | None = None,
    caption_column: str | None = None,
) -> "ImageSource":
    """Open the pictures that the data options choose.

    Args:
        data: folder, parquet file or data set.
        options: those of `options.add_data_options`.
        size: height and width to crop and resize to; None keeps each picture's own.
        class_names: names of the classes in the order of a model's numbers.
        split: in place of `--split`.
        caption_column: column or columns of captions; None reads none.

    Raises:
        GenrefineError: no pictures, no such column or split, or a file that is no picture.
    """
    from genrefine.data import ImageSource

    source = ImageSource(
        data,
        size=size,
        split=split or options.split,
        image_column=options.image_column,
        label_column=getattr(options, "label_column", None),  # a tokenizer is judged without labels
        caption_column=caption_column,
        keep=parse_pairs(options.keep, "--keep"),
        drop=parse_pairs(options.drop, "--drop"),
        class_names=class_names,
        background=options.background,
        on_error="skip" if options.skip_unreadable else "raise",
    )
    for reason in source.skipped.values():
        sys.stderr.write(f"skipped: {reason}\n")
    return source


def torch_device(name: str) -> Any:
    """Return a device on which a tensor could really be made.

    Raises:
        GenrefineError: this machine or this torch does not have it.
    """
    import torch

    if name == "cuda" and "LOCAL_RANK" in os.environ:  # of several processes each has its own
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise GenrefineError(f"device '{name}' cannot be used here ({reason}); --device cpu always works") from error
    return device


def torch_dtype(name: str) -> Any:
    """Return torch's dtype of this name."""
    import torch

    return getattr(torch, name)


def quiet_libraries() -> None:
    """Keep diffusers and transformers from drawing progress bars for loading a few small components."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
