"""Every name that code reads is defined. Linters are told to let names in jaxtyping's strings be, and see none."""

import builtins
import importlib
import symtable
from collections.abc import Iterator
from pathlib import Path

import pytest

import genrefine

ROOT = Path(genrefine.__file__).parent
MODULES = sorted(
    path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if "zoo/" not in path.as_posix().removeprefix(ROOT.as_posix()) or path.name == "__init__.py"
)


def read_globals(table: symtable.SymbolTable) -> Iterator[tuple[str, str]]:
    """Yield scope and name of everything that is looked up outside of all functions and classes."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and symbol.is_global():
            yield table.get_name(), symbol.get_name()
    for child in table.get_children():
        yield from read_globals(child)


def undefined(source: str, names: set[str]) -> list[str]:
    table = symtable.symtable(source, "module", "exec")
    found = [pair for child in table.get_children() for pair in read_globals(child)]
    return [f"{name} in {scope}" for scope, name in found if name not in names and not hasattr(builtins, name)]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_names_are_defined(name):
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert undefined(Path(module.__file__).read_text(encoding="utf-8"), set(vars(module))) == []


def test_the_check_sees_what_is_missing():
    assert undefined("def f(x):\n    return y + x + len(x)\n", {"f"}) == ["y in f"]
    assert undefined("class A:\n    def g(self):\n        return cast(int, z)\n", {"A", "z"}) == ["cast in g"]
    assert undefined("import os\ndef f() -> 'batch dim':\n    z = 1\n    return [os, z]\n", {"f", "os"}) == []
