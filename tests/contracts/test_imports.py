"""Importing costs nothing and does nothing; the public names are there."""

import json
import os
import subprocess
import sys
import time

import pytest

import genrefine
from genrefine import hbq, zoo

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "datasets", "numpy", "PIL", "av", "rich", "gradio")
# The names that documentation, users and other programs rely on.
PUBLIC = {
    "ClassPipeline": ["from_pretrained", "save_pretrained", "to", "refine", "decode", "class_names", "__call__"],
    "ClassRefiner": ["forward", "from_pretrained", "save_pretrained"],
    "GenrefineError": [],
    "HBQ": ["encode", "decode", "straight_through", "code_classes", "code_channels"],
    "RefinementSampler": ["from_pretrained", "save_pretrained", "refine"],
    "TextPipeline": ["from_pretrained", "save_pretrained", "to", "prepare", "run", "refine", "decode", "__call__"],
    "TextRefiner": ["forward", "prepare", "from_pretrained", "save_pretrained"],
    "load": [],
    "VisualTokenizer": ["encode", "decode", "grid", "fingerprint", "from_pretrained", "save_pretrained"],
}


def run_python(code: str, cwd: object = None) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["genrefine", "genrefine.cli", "genrefine.zoo", "genrefine.errors"])
def test_light_modules_import_nothing_heavy(module):
    loaded = json.loads(run_python(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"))
    assert not set(HEAVY) & {name.split(".")[0] for name in loaded}


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["--version"], ["train", "--help"]])
def test_help_answers_at_once_without_torch(words):
    code = (
        "import sys\nfrom genrefine.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"assert not set({HEAVY!r}) & set(sys.modules)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert run_python(code)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3


def test_importing_every_module_does_nothing_else(tmp_path):
    code = """
import os, pkgutil, random, sys, threading, warnings, logging
import numpy, torch
import diffusers.pipelines.pipeline_utils, datasets, accelerate, torchmetrics, gradio  # what these do is not ours
before = (dict(os.environ), random.getstate()[1], torch.get_rng_state().sum().item(), torch.get_default_dtype(),
          torch.get_num_threads(), torch.is_grad_enabled(), len(logging.getLogger().handlers), os.getcwd())
threads = threading.active_count()
environment = dict(os.environ)
import genrefine
names = [m.name for m in pkgutil.walk_packages(genrefine.__path__, 'genrefine.') if not m.name.endswith('__main__')]
with warnings.catch_warnings():
    warnings.simplefilter('error')
    for name in names:
        __import__(name)
after = (before[0], random.getstate()[1], torch.get_rng_state().sum().item(), torch.get_default_dtype(),
         torch.get_num_threads(), torch.is_grad_enabled(), len(logging.getLogger().handlers), os.getcwd())
assert before == after
assert threading.active_count() == threads
assert dict(os.environ) == environment
print(len(names))
"""
    assert int(run_python(code, tmp_path)) > 40
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_there(name):
    owner = getattr(genrefine, name)
    assert name in genrefine.__all__
    assert [attribute for attribute in PUBLIC[name] if not hasattr(owner, attribute)] == []


def test_the_package_lists_exactly_its_public_names():
    assert {name for name in dir(genrefine) if not name.startswith("_")} == set(PUBLIC)
    assert callable(hbq.pack_bits)
    assert callable(hbq.unpack_bits)
    assert {"load", "names", "path"} <= set(dir(zoo))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        genrefine.Nothing  # noqa: B018
