"""Load a pipeline folder of either kind, by what its `model_index.json` says it is."""

import os
from typing import Any

from genrefine.errors import GenrefineError
from genrefine.files import read_json
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
    path = folder / "model_index.json"
    kind: Any = ClassPipeline.__name__  # which says what is wrong with a folder that has no index
    if path.is_file():
        kind = with_current_addresses(read_json(path, "fetch or save the model again")).get("_class_name")
    if not isinstance(kind, str) or kind not in KINDS:
        raise GenrefineError(f"'{folder}' holds a {kind}; expected a {' or a '.join(KINDS)}; check the path")
    loaded: ClassPipeline | TextPipeline = KINDS[kind].from_pretrained(folder, **options)
    return loaded
