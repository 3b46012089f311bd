"""What every file of the project keeps to."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import genrefine

ROOT = Path(genrefine.__file__).parent
TESTS = Path(__file__).parents[1]
SOURCES = sorted(ROOT.rglob("*.py"))
ALL = SOURCES + sorted(TESTS.rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "util", "misc", "common", "helpers", "helper", "base", "core"}
FORBIDDEN_TEXT = {
    r"from __future__ import annotations": "jaxtyping reads annotations at run time",
    r"\.cuda\(": "the caller chooses the device",
    r"\b(TODO|FIXME|XXX)\b": "unfinished work is not committed",
    r"pickle\.load|weights_only=False": "foreign pickles are not executed",
}


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Return every module of the package, parsed, under its name in it."""
    return {path.relative_to(ROOT).as_posix(): ast.parse(text_of(path)) for path in SOURCES}


def silent(tree: ast.Module) -> list[str]:
    """Return the public functions and classes of a module, and of its public classes, without a docstring."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    nodes = [node for owner in [tree, *classes] for node in owner.body]
    public = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    # A network's forward is described by its class.
    return [node.name for node in public if node.name != "forward" and not ast.get_docstring(node)]


def unseeded(tree: ast.Module) -> list[str]:
    """Return the calls of torch's random functions that name no generator."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    draws = [call for call in calls if re.fullmatch(r"torch\.(rand\w*|bernoulli|multinomial)", ast.unparse(call.func))]
    return [ast.unparse(call) for call in draws if "generator" not in {word.arg for word in call.keywords}]


def test_files_stay_within_400_lines():
    lengths = {str(path): len(text_of(path).splitlines()) for path in ALL}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_modules_are_named_after_a_concept_and_open_with_it(trees):
    assert [name for name in trees if set(Path(name).with_suffix("").parts) & FORBIDDEN_NAMES] == []
    assert [name for name, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_forbidden_text_occurs_nowhere_in_the_package():
    found = [
        (str(path), why) for path in SOURCES for bad, why in FORBIDDEN_TEXT.items() if re.search(bad, text_of(path))
    ]
    assert found == []


def test_everything_public_says_what_it_does(trees):
    assert {name: silent(tree) for name, tree in trees.items() if silent(tree)} == {}


def test_every_draw_names_its_generator(trees):
    assert {name: unseeded(tree) for name, tree in trees.items() if unseeded(tree)} == {}


def test_tests_carry_no_skips_that_hide_them():
    text = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    assert not re.search(r"@pytest\.mark\.(skip|xfail)\b(?!if)", text)


def test_no_two_test_files_have_one_name():
    """Without packages among the tests, pytest would import one of them for both."""
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_refinement_loop_fits_on_one_screen():
    tree = ast.parse((ROOT / "sampling/sampler.py").read_text(encoding="utf-8"))
    (refine,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "refine")
    (loop,) = (node for node in refine.body if isinstance(node, ast.For))
    assert loop.end_lineno - loop.lineno < 40
