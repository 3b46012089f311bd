"""A saved tiny model and a way to run the command line inside the test process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from genrefine.cli import main
from tiny_models import tiny_pipeline, tiny_text_pipeline, tiny_tokenizer

PRESETS = {"fast": {"num_inference_steps": 1, "guidance_scale": 7.0}}


@dataclass(frozen=True)
class Answer:
    """What one run of the command line said."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Forget accelerate's process-wide state, which keeps the precision of the first run of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a pipeline folder that no test may change."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline(presets=PRESETS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a text pipeline for stills and clips of 1 + 2k frames that no test may change."""
    folder = tmp_path_factory.mktemp("text-model") / "tiny-text"
    tiny_text_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def still_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a text pipeline that makes stills only."""
    folder = tmp_path_factory.mktemp("still-model") / "stills"
    tiny_text_pipeline(tokenizer=tiny_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image folder: 16 x 16 pictures in two classes, twice, as splits `train` and `test`."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("animals/noto", "food/fluent"):
            (folder / split / name).mkdir(parents=True)
            for index in range(4):
                content = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(content).save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture
def genrefine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Return a function that runs `genrefine ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's way to end after help and wrong usage
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run
