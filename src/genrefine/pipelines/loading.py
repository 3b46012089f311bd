"""Load a pipeline folder of either kind, by what its `model_index.json` says it is."""

import json
import os
from typing import Any

from genrefine.errors import GenrefineError
from genrefine.model_folder.find import find_model
from genrefine.pipelines.class_pipeline import ClassPipeline
from genrefine.pipelines.text_pipeline import TextPipeline
from genrefine.registry import with_current_addresses

KINDS: dict[str, type[ClassPipeline] | type[TextPipeline]] = {
    kind.__name__: kind for kind in (ClassPipeline, TextPipeline)
}


def load_pipeline(name: str | os.PathLike[str], **options: Any) -> ClassPipeline | TextPipeline:
    """Load a model: `genrefine.load`.

    Args:
        name: folder, shipped model, or "org/name" on the hub; see `genrefine.model_folder.find`.
        options: passed to `from_pretrained` of its class.

    Raises:
        GenrefineError: no such model, one of another kind, or damaged files.
    """
    folder = find_model(name, options)
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        kind = with_current_addresses(index)["_class_name"]
    except FileNotFoundError:
        kind = ClassPipeline.__name__  # which says what is wrong
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GenrefineError(
            f"'{folder}/model_index.json' does not say what it is ({error}); fetch or save the model again"
        ) from error
    if kind not in KINDS:
        raise GenrefineError(f"'{folder}' holds a {kind}; expected a {' or a '.join(KINDS)}; check the path")
    loaded: ClassPipeline | TextPipeline = KINDS[kind].from_pretrained(folder, **options)
    return loaded
