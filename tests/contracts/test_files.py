"""What every file of the project keeps to."""

import ast
import re
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


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_files_stay_within_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_are_named_after_a_concept_and_open_with_it(path):
    parts = set(path.relative_to(ROOT).with_suffix("").parts)
    assert not parts & FORBIDDEN_NAMES
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("pattern", FORBIDDEN_TEXT)
def test_forbidden_text_occurs_nowhere_in_the_package(pattern):
    found = [path.relative_to(ROOT) for path in SOURCES if re.search(pattern, path.read_text(encoding="utf-8"))]
    assert found == [], FORBIDDEN_TEXT[pattern]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_everything_public_says_what_it_does(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = []
    for owner in [tree, *[node for node in tree.body if isinstance(node, ast.ClassDef)]]:
        if isinstance(owner, ast.ClassDef) and owner.name.startswith("_"):
            continue
        for node in owner.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            # A network's forward is described by its class.
            if node.name != "forward" and not ast.get_docstring(node):
                silent.append(node.name)
    assert silent == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_draw_names_its_generator(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    draws = [call for call in calls if re.fullmatch(r"torch\.(rand\w*|bernoulli|multinomial)", ast.unparse(call.func))]
    assert [ast.unparse(call) for call in draws if "generator" not in {word.arg for word in call.keywords}] == []


def test_tests_carry_no_skips_that_hide_them():
    text = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    assert not re.search(r"@pytest\.mark\.(skip|xfail)\b(?!if)", text)


def test_the_refinement_loop_fits_on_one_screen():
    tree = ast.parse((ROOT / "sampling/sampler.py").read_text(encoding="utf-8"))
    (refine,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "refine")
    (loop,) = (node for node in refine.body if isinstance(node, ast.For))
    assert loop.end_lineno - loop.lineno < 40
