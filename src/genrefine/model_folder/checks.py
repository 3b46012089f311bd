"""Model folders, read strictly: nothing is guessed, filled in or passed over in silence.

A pipeline folder is what diffusers writes: `model_index.json`, and one folder per component with its configuration
and, for networks, safetensors weights. We add `checksums.json`: size and SHA-256 of every weight file. Before anything
is loaded, these checks raise one clear line:

* every component, configuration and weight file is there,
* no configuration has a key that its class does not know, or lacks one that it needs,
* every weight file has the recorded size and hash, and is whole,
* weights and network agree in every name and shape (diffusers would fill gaps with random numbers and a warning).

Configurations are not hashed: they are meant to be read and changed by hand, and every key of them is checked. A folder
without `checksums.json` (put together by hand) is loaded without that one check.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import nn

from genrefine.errors import GenrefineError
from genrefine.files import read_json
from genrefine.model_folder import encoder_folder
from genrefine.model_folder.checksums import verify_checksums
from genrefine.model_folder.find import FETCHING
from genrefine.registry import with_current_addresses
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.published import with_published

PROMPTS = "prompts.txt"
"""Prompts that a text model knows, one a line; beside its components, for `genrefine calibrate`. It may be absent."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
Component = TypeVar("Component", bound=ModelMixin)
LOADING_OPTIONS = (
    *FETCHING,
    "torch_dtype",
    "dtype",
    "device_map",
    "max_memory",
    "offload_folder",
    "offload_state_dict",
    "low_cpu_mem_usage",
    "quantization_config",
    "disable_mmap",
)
"""What `from_pretrained` hands on to diffusers; its other options would let pickles or foreign code in."""


LARGEST_SIZE = 2**20
"""Of anything that a configuration counts."""
COUNTS_MODULES = re.compile("depth|num_blocks|layer|group")
"""Numbers of modules, which are no more than the weights that are stored."""
TRUSTED = ("genrefine", "diffusers", "transformers")
"""Packages whose classes a `model_index.json` may name."""


def load_component(folder: Path, component_class: type[Component]) -> Component:
    """Load one network after checking its folder, and the checksums of the pipeline around it.

    Raises:
        GenrefineError: the first thing that is wrong with the folder.
    """
    check_component_folder(folder, component_class)  # type: ignore[arg-type]
    verify_checksums(folder)
    verify_checksums(folder.parent)
    loaded: Component = component_class.from_pretrained(str(folder), use_safetensors=True)
    return loaded


def check_pipeline_folder(
    folder: Path,
    class_name: str,
    settings: Collection[str],
    components: Iterable[str],
    given: Collection[str] = (),
    optional: Collection[str] = (),
) -> None:
    """Check a whole pipeline folder before it is loaded.

    Args:
        folder: the folder that holds `model_index.json`.
        class_name: pipeline class the folder must be of.
        settings: further keys that `model_index.json` may have.
        components: names of the components it must have.
        given: components that the caller passes and that are not read from the folder.
        optional: components that a pipeline can do without.

    Raises:
        GenrefineError: the first thing that is wrong.
    """
    index_path = folder / "model_index.json"
    if not index_path.is_file():
        raise GenrefineError(f"'{folder}' is not a pipeline folder: it has no model_index.json; check the path")
    index = with_current_addresses(read_json(index_path))
    if index.get("_class_name") != class_name:
        raise GenrefineError(f"'{folder}' holds a {index.get('_class_name')}; expected a {class_name}; check the path")
    components = list(components)
    _refuse_unknown_keys(index_path, index, {*components, *settings})
    for name in components:
        if name in given:
            continue
        declared = index.get(name)
        if name in optional and declared in (None, [None, None]):
            continue
        if not (isinstance(declared, list) and len(declared) == 2 and all(isinstance(part, str) for part in declared)):
            raise GenrefineError(f"'{index_path}' must name module and class of '{name}'; got {declared!r}")
        _check_part(folder / name, _find_class(index_path, *declared))
    verify_checksums(folder, given)


def _check_part(folder: Path, part_class: type[Any]) -> None:
    if issubclass(part_class, ConfigMixin):
        check_component_folder(folder, part_class)
    elif issubclass(part_class, nn.Module):
        check_encoder_folder(folder, part_class)
    else:
        encoder_folder.check_tokenizer_folder(folder)


def check_encoder_folder(folder: Path, encoder_class: type[Any]) -> None:
    """Check a text encoder's configuration and weights against its class.

    Raises:
        GenrefineError: the first thing that is wrong.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise GenrefineError(f"the model lacks '{config_path}'; fetch or save the model again")
    config = read_json(config_path)
    stored = _stored_shapes(folder, encoder_folder.WEIGHTS)
    _require_sizes(config_path, config, len(stored))
    if "quantization_config" not in config:
        tied = encoder_folder.encoder_shapes(config_path, encoder_class, config)
        # Of tied weights one is stored; it stands for all of them.
        expected = {n: s for names in tied for n, s in names.items() if n in stored or stored.keys().isdisjoint(names)}
        _compare_weights(folder, stored, expected)


def check_component_folder(folder: Path, component_class: type[ConfigMixin]) -> None:
    """Check one component's configuration and weights against its class.

    Raises:
        GenrefineError: the first thing that is wrong.
    """
    config_path = folder / str(component_class.config_name)
    if not config_path.is_file():
        raise GenrefineError(f"the model lacks '{config_path}'; fetch or save the model again")
    config = read_json(config_path)
    if issubclass(component_class, RefinementSampler):
        config = with_published(config)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(component_class.__init__).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    _refuse_unknown_keys(config_path, config, {*parameters, "quantization_config"})
    lacking = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in config]
    if lacking:
        raise GenrefineError(f"'{config_path}' lacks the key '{lacking[0]}' of {component_class.__name__}; add it")
    if issubclass(component_class, nn.Module):
        stored = _stored_shapes(folder)
        if "quantization_config" not in config:  # quantized weights have names and shapes of their own
            arguments = {name: config[name] for name in parameters if name in config}
            _require_sizes(config_path, arguments, len(stored))
            _compare_weights(folder, stored, _expected_shapes(config_path, component_class, arguments))


def _require_sizes(path: Path, arguments: dict[str, Any], num_weights: int) -> None:
    """Refuse sizes that the stored weights cannot have, before a network of these sizes is built to compare them."""
    for name, value in arguments.items():
        most = num_weights if COUNTS_MODULES.search(name) else LARGEST_SIZE
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > most:
                raise GenrefineError(f"'{path}' must have at most {most:,} as '{name}'; got {number:.4g}; correct it")


def close_match(word: str, words: Iterable[str]) -> str:
    """Return a hint at the known word nearest to a wrong one, or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _refuse_unknown_keys(path: Path, config: dict[str, Any], known: Collection[str]) -> None:
    for key in config:
        if key not in known and not key.startswith("_"):
            raise GenrefineError(f"'{path}' has the unknown key '{key}'{close_match(key, known) or '; remove it'}")


def _find_class(path: Path, module: str, name: str) -> type[Any]:
    if module.partition(".")[0] not in TRUSTED:  # importing a module runs it
        raise GenrefineError(
            f"'{path}' names {module}.{name}; expected a class of {', '.join(TRUSTED)}; get the model from its author"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise GenrefineError(f"'{path}' names {module}.{name}, which is not installed; update genrefine") from error
    if not (isinstance(found, type) and (issubclass(found, ConfigMixin) or encoder_folder.is_encoder_part(found))):
        raise GenrefineError(f"'{path}' names {module}.{name}, which is no model component; correct it")
    return found


def _stored_shapes(folder: Path, weights: str = WEIGHTS) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every stored tensor; reading the headers also proves that the files are whole."""
    index_path = folder / f"{weights}.index.json"
    names = {weights}
    if index_path.is_file():
        names = _shard_names(index_path)
    shapes = {}
    for name in sorted(names):
        path = folder / name
        if not path.is_file():
            raise GenrefineError(f"the model lacks its weight file '{path}'; fetch or save the model again")
        try:
            with safe_open(path, framework="pt") as stored:
                shapes.update({key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise GenrefineError(
                f"weight file '{path}' is truncated or damaged ({error}); fetch or save the model again"
            ) from error
    return shapes


def _shard_names(index_path: Path) -> set[str]:
    """Return the files that an index of shards names, all of them beside it."""
    named = read_json(index_path).get("weight_map")
    names: list[Any] = list(named.values()) if isinstance(named, dict) else [named]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise GenrefineError(f"'{index_path}' must name files beside it; got {name!r}; fetch the model again")
    return set(names)


def _expected_shapes(path: Path, component_class: type[Any], arguments: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    try:
        with torch.device("meta"):
            network = component_class(**arguments)
    except GenrefineError as error:
        raise GenrefineError(f"'{path}': {error}") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise GenrefineError(f"'{path}' does not describe a {component_class.__name__}: {reason[:200]}") from error
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _compare_weights(folder: Path, stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    advice = "use the configuration and the weights of one model"
    missing = sorted(expected.keys() - stored.keys())
    unexpected = sorted(stored.keys() - expected.keys())
    if missing or unexpected:
        which = f"lack {missing[0]!r}" if missing else f"have the unexpected {unexpected[0]!r}"
        count = len(missing) + len(unexpected) - 1
        others = f" and differ in {count} other name{'s' * (count > 1)}" if count else ""
        raise GenrefineError(f"the weights in '{folder}' {which}{others}; {advice}")
    for name, shape in expected.items():
        if stored[name] != shape:
            raise GenrefineError(
                f"weight '{name}' in '{folder}' must have shape {shape} by its configuration; got {stored[name]}; "
                f"{advice}"
            )
