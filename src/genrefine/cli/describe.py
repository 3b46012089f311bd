"""`genrefine describe`: what a folder holds, a model or an adapter, without running it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrefine.cli.answers import say, write_json
from genrefine.cli.loading import find_model, quiet_libraries
from genrefine.cli.options import add_json_option
from genrefine.errors import GenrefineError

if TYPE_CHECKING:
    from genrefine.pipelines import ClassPipeline, TextPipeline
    from genrefine.tokenizer import VisualTokenizer


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument("model", metavar="DIR", help="folder of a pipeline, a network or an adapter, or shipped model")
    add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Load a model, which checks it, and print what it is."""
    from genrefine.files import require_writable

    if options.json:
        require_writable(options.json)
    place = find_model(options.model)
    quiet_libraries()
    if isinstance(place, str) or (place / "model_index.json").is_file():
        found = _describe_pipeline(str(place))
    elif (place / "config.json").is_file():
        found = _describe_network(place)
    elif (place / "adapter_config.json").is_file():
        found = _describe_adapter(place)
    else:
        known = "model_index.json, config.json or adapter_config.json"
        raise GenrefineError(f"'{place}' holds no model and no adapter: expected {known}; check the path")
    if options.json:
        write_json(options.json, {"model": options.model, **found})
    say(f"{options.model}: {found['kind']}")
    _print(found)


def _describe_pipeline(place: str) -> dict[str, Any]:
    from genrefine.pipelines import ClassPipeline, load_pipeline

    pipeline = load_pipeline(place)
    height, width = pipeline.picture_size
    return {
        "kind": "class pipeline" if isinstance(pipeline, ClassPipeline) else "text pipeline",
        "picture": _describe_picture(pipeline.visual_tokenizer, height, width),
        **(_describe_classes(pipeline) if isinstance(pipeline, ClassPipeline) else _describe_prompts(pipeline)),
        "visual_tokenizer": _describe_tokenizer(pipeline.visual_tokenizer),
        "refiner": {"parameters": pipeline.refiner.num_parameters(), **_plain_config(pipeline.refiner)},
        "sampler": _describe_sampler(pipeline),
    }


def _describe_classes(pipeline: "ClassPipeline") -> dict[str, Any]:
    names = pipeline.class_names
    return {"classes": {"count": len(names), "names": names}}


def _describe_prompts(pipeline: "TextPipeline") -> dict[str, Any]:
    stride = pipeline.visual_tokenizer.temporal_stride
    takes_first_frames = stride > 1 and pipeline.refiner.config.attention == "joint"
    clips: Any = "none, stills only"
    if stride > 1:
        clips = {
            "num_frames": f"1 + {stride}k",
            "frames_per_second": pipeline.frames_per_second,
            "first_frames": "taken" if takes_first_frames else "not taken",
        }
    if not pipeline.has_encoder:
        return {"clips": clips, "text_encoder": "none, takes embeddings"}
    encoder = pipeline.prompt_encoder
    text = {
        "network": type(encoder.model).__name__,
        "parameters": sum(weight.numel() for weight in encoder.model.parameters()),
        "channels": encoder.channels,
        "longest_prompt": f"{encoder.max_tokens} tokens",
        "vocabulary": len(encoder.tokenizer),
    }
    return {"clips": clips, "text_encoder": text}


def _describe_network(place: Path) -> dict[str, Any]:
    from genrefine.files import read_json
    from genrefine.pipelines import load_component
    from genrefine.refiner import ClassRefiner, TextRefiner
    from genrefine.tokenizer import VisualTokenizer

    refiners: dict[str, tuple[str, type[Any]]] = {
        "ClassRefiner": ("class refiner", ClassRefiner),
        "TextRefiner": ("text refiner", TextRefiner),
    }
    class_name = read_json(place / "config.json", "fetch the model again").get("_class_name")
    if class_name == "VisualTokenizer":
        return {"kind": "visual tokenizer", **_describe_tokenizer(load_component(place, VisualTokenizer))}
    if class_name in refiners:
        kind, refiner_class = refiners[class_name]
        refiner: Any = load_component(place, refiner_class)
        return {"kind": kind, "parameters": refiner.num_parameters(), **_plain_config(refiner)}
    known = "a pipeline, a VisualTokenizer, a ClassRefiner or a TextRefiner"
    raise GenrefineError(f"'{place}' holds a {class_name}; expected {known}")


def _describe_adapter(place: Path) -> dict[str, Any]:
    from genrefine.refiner.adapter_folder import read_adapter

    adapter = read_adapter(place)
    facts = adapter.facts
    classes = facts.class_names or facts.class_rows
    return {
        "kind": "adapter (LoRA)",
        "of": facts.refiner or "unknown, another program made it",
        "parameters": adapter.num_parameters,
        "rank": adapter.rank,
        "scale": adapter.alpha / adapter.rank,
        "layers": adapter.layers,
        **({"classes": {"count": len(classes), "names": facts.class_names}} if classes else {}),
    }


def _describe_tokenizer(tokenizer: "VisualTokenizer") -> dict[str, Any]:
    hbq = tokenizer.hbq
    return {
        "parameters": tokenizer.num_parameters(),
        "codes": f"{tokenizer.code_channels} channels of {tokenizer.code_classes} classes ({hbq.layout} layout)",
        "strides": f"{tokenizer.spatial_stride} in space, {tokenizer.temporal_stride} in time",
        "fingerprint": tokenizer.fingerprint(),
        **_plain_config(tokenizer),
    }


def _describe_picture(tokenizer: "VisualTokenizer", height: int, width: int) -> dict[str, Any]:
    _, rows, columns = tokenizer.grid(1, height, width)
    num_bits = rows * columns * tokenizer.code_channels * tokenizer.hbq.bits_per_code
    return {
        "height": height,
        "width": width,
        "grid": f"{rows} x {columns}",
        "bits": num_bits,
        "bits_per_pixel": num_bits / (height * width),
    }


def _describe_sampler(pipeline: "ClassPipeline | TextPipeline") -> dict[str, Any]:
    config = _plain_config(pipeline.sampler)
    budget = config.pop("entropy_steps")
    adaptive = "not calibrated"
    if budget is not None:
        adaptive = f"{budget['min_steps']} to {budget['max_steps']} steps, decided after {budget['warmup']}"
    return {**config, "adaptive": adaptive, "entropy_steps": budget}


def _plain_config(part: Any) -> dict[str, Any]:
    return {key: value for key, value in part.config.items() if not key.startswith("_")}


def _print(found: dict[str, Any], indent: str = "  ") -> None:
    for key, value in found.items():
        if key == "kind":
            continue
        if isinstance(value, dict):
            say(f"{indent}{key}")
            _print(value, indent + "  ")
        elif key == "parameters":
            say(f"{indent}{key}: {value:,}")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
            say(f"{indent}{key}: {', '.join(value)}")
        else:
            say(f"{indent}{key}: {format(value, '.4g') if isinstance(value, float) else value}")
