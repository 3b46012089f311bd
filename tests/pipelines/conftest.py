"""A tiny trained-looking pipeline, made once and saved once."""

from pathlib import Path

import pytest

from genrefine import ClassPipeline, TextPipeline
from tiny_models import tiny_pipeline, tiny_text_pipeline


@pytest.fixture(scope="session")
def pipe() -> ClassPipeline:
    """Return a pipeline that no test may change."""
    return tiny_pipeline()


@pytest.fixture(scope="session")
def saved(pipe: ClassPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of that pipeline, which no test may change."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_pipe() -> TextPipeline:
    """Return a text pipeline that no test may change."""
    return tiny_text_pipeline()


@pytest.fixture(scope="session")
def saved_text(text_pipe: TextPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of that pipeline, which no test may change."""
    folder = tmp_path_factory.mktemp("model") / "tiny-text"
    text_pipe.save_pretrained(folder)
    return folder
