"""The layers of the package: imports point down only, so that every part can be read without those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import genrefine

ROOT = Path(genrefine.__file__).parent
LAYERS = [
    {"errors", "nn"},
    {"hbq", "files", "corruption", "conditioning", "resolutions"},
    {"sampling", "tokenizer", "refiner", "media", "model_folder", "registry"},
    {"data", "evaluation"},
    {"training", "pipelines", "convert"},
    {"experiments", "zoo"},
    {"presets"},
    {"cli", "studio"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
NEVER = [
    *[("sampling", network) for network in ("tokenizer", "refiner", "nn", "model_folder")],
    *[("refiner", name) for name in ("sampling", "tokenizer", "media")],
    ("data", "nn"),
    ("training", "pipelines"),
    ("pipelines", "training"),
    ("convert", "training"),
    ("nn", "errors"),
]


def top_level_names() -> set[str]:
    files = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    return files | {path.parent.name for path in ROOT.glob("*/__init__.py")}


def imported(path: Path) -> Iterator[str]:
    """Yield the part of the package behind every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "genrefine" and len(parts) > 1 and parts[1] in RANK:
                yield parts[1]


def arrows() -> dict[str, set[str]]:
    """Return, for every part of the package, the other parts that it imports."""
    found: dict[str, set[str]] = {name: set() for name in top_level_names()}
    for name in found:
        files = [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").is_file() else (ROOT / name).rglob("*.py")
        for file in files:
            found[name] |= set(imported(file)) - {name}
    return found


def test_every_part_has_a_layer():
    assert top_level_names() <= RANK.keys()


def test_imports_never_point_up():
    upward = [(a, b) for a, targets in arrows().items() for b in targets if RANK[b] > RANK[a]]
    assert upward == []


def test_parts_that_must_not_know_each_other_do_not():
    found = arrows()
    assert [(part, other) for part, other in NEVER if other in found.get(part, set())] == []


def test_no_two_parts_depend_on_each_other():
    found = arrows()
    reached = {name: set(targets) for name, targets in found.items()}
    for _ in found:
        for name in reached:
            reached[name] |= {far for near in reached[name] for far in reached.get(near, set())}
    assert [name for name, targets in reached.items() if name in targets] == []


def test_relative_imports_are_not_used():
    for path in ROOT.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], path
