"""What the documents say is true: their examples run, what they name exists."""

import argparse
import importlib
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from tests.docs.documents import (
    CHECKOUT,
    DOCUMENTS,
    LANGUAGES,
    Block,
    blocks_of,
    inline_code_of,
    links_of,
    name_of,
    prose_of,
)
from tests.docs.stand_in import BUDGET, CLASS_NAMES

import genrefine
from genrefine import RefinementSampler, presets, zoo
from genrefine.cli import VERBS, _parse, main
from genrefine.cli.train import _parse_changes
from genrefine.experiments.settings import RefinerRun, TextRun, TokenizerRun
from genrefine.sampling.options import OPTIONS, SamplingOptions

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
PROGRAMS = {"genrefine", "make", "python", "pip", "git", "accelerate", "torchrun", "tensorboard", "mkdocs", "hf"}


def make_targets() -> set[str]:
    return set(re.findall(r"^(\w+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))


def check_command(words: list[str]) -> None:
    """Fail on a command that could not even start."""
    program, arguments = words[0], words[1:]
    assert program in PROGRAMS, f"unknown program in {words}"
    if program == "genrefine":
        check_genrefine(arguments)
    elif program == "make":
        assert set(arguments) <= make_targets(), words
    elif program in ("accelerate", "torchrun", "torchrun"):
        module = arguments.index("-m")
        assert program == "torchrun" or arguments[0] == "launch", words
        assert importlib.util.find_spec(f"{arguments[module + 1]}.__main__"), words
        check_genrefine(arguments[module + 2 :])
    elif program == "python":
        check_script(arguments)


def check_genrefine(words: list[str]) -> None:
    """Parse the words of a verb and look up every setting they name."""
    try:
        options = _parse(words)
    except SystemExit as end:
        assert end.code == 0, f"genrefine {' '.join(words)}"  # noqa: PT017 (help and version end so)
        return
    given = {name: getattr(options, name, None) for name in OPTIONS}
    RefinementSampler(entropy_steps=BUDGET).settings(**{k: v for k, v in given.items() if v is not None})
    if options.verb == "train" and options.preset:
        presets.get(options.preset, _parse_changes(options.set))


def check_script(words: list[str]) -> None:
    """Look up a script of the checkout and the options that are given to it."""
    script = CHECKOUT / words[0]
    assert script.is_file(), words
    source = script.read_text(encoding="utf-8")
    if script.parent.name == "benchmarks":
        source += (script.parent / "measuring.py").read_text(encoding="utf-8")
    for word in words[1:]:
        if word.startswith("-"):
            assert f'"{word}"' in source, f"{words[0]} has no option {word}"


def run_block(block: Block, namespace: dict[str, object], where: str) -> None:
    """Carry out the Python or the `genrefine` commands of a block."""
    if block.language == "python":
        exec(compile("\n" * block.line + block.content, where, "exec"), namespace)
    elif block.language == "bash":
        for words in block.commands:
            if words[0] == "genrefine":
                assert main(words[1:]) == 0, f"{where}:{block.line}: {' '.join(words)}"


@every_document
def test_examples_run_in_their_order(path: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    for block in blocks_of(path):
        if block.is_run:
            run_block(block, namespace, name_of(path))


@every_document
def test_every_command_names_what_exists(path: Path) -> None:
    for block in blocks_of(path):
        assert block.language in LANGUAGES, f"{name_of(path)}:{block.line} is '{block.language}'"
        assert block.is_run or block.language == "bash", f"{name_of(path)}:{block.line}: Python is always run"
        if block.language == "bash":
            for words in block.commands:
                check_command(words)


@every_document
def test_links_and_pictures_exist(path: Path) -> None:
    here = [link.partition("#")[0] for link in links_of(path) if "://" not in link and not link.startswith("#")]
    assert [link for link in here if not (path.parent / link).exists()] == []


@every_document
def test_no_placeholder_remains(path: Path) -> None:
    """Numbers are measured once the shipped model is trained; until then this fails, and has to."""
    assert sorted(set(re.findall(r"\{\{\w+\}\}", path.read_text(encoding="utf-8")))) == []


def parsers() -> Iterator[argparse.ArgumentParser]:
    """Yield the parser of every verb and of every subject within one."""

    def inside(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for one in action.choices.values():
                    yield from inside(one)

    for verb in VERBS:
        parser = argparse.ArgumentParser(allow_abbrev=False)
        importlib.import_module(f"genrefine.cli.{verb}").add_options(parser)
        yield from inside(parser)


@every_document
def test_named_options_verbs_and_targets_exist(path: Path) -> None:
    options = {word for parser in parsers() for word in parser._option_string_actions} | {"--help"}
    for code in inline_code_of(path):
        words = code.split()
        if words[0].startswith("--"):
            assert words[0] in options, code
        elif words[0] == "make" and len(words) == 2:
            assert words[1] in make_targets(), code
        elif words[0] == "genrefine" and len(words) > 1:
            assert words[1] in {*VERBS, "VERB"}, code
            assert {word for word in words if word.startswith("--")} <= options, code
        elif words[0] == "python" and len(words) > 1:
            check_script(words[1:])


def settings_names(kind: type, prefix: str = "") -> Iterator[str]:
    for part in fields(kind):
        yield prefix + part.name
        if is_dataclass(part.type):
            yield from settings_names(part.type, f"{prefix}{part.name}.")


def test_the_table_of_sampling_options_is_their_declaration() -> None:
    rows = [
        f"| `{option.name}` | `{option.default}` | {option.metadata['help']} |" for option in fields(SamplingOptions)
    ]
    table = "\n".join(["| option | default | |", "|---|---|---|", *rows])
    assert table in (CHECKOUT / "docs/sampling.md").read_text(encoding="utf-8"), f"expected\n{table}"


@every_document
def test_named_settings_exist(path: Path) -> None:
    known = {name for run in (TokenizerRun, RefinerRun, TextRun) for name in settings_names(run)}
    groups = {name.split(".")[0] for name in known if "." in name}
    pattern = re.compile(rf"((?:{'|'.join(groups)})\.\w+)(?:=.*)?")
    named = [
        match[1] for code in inline_code_of(path) if (match := pattern.fullmatch(code)) and not code.endswith(".py")
    ]
    assert [name for name in named if name not in known] == []


@every_document
def test_named_code_exists(path: Path) -> None:
    for name in inline_code_of(path):
        if not re.fullmatch(r"genrefine(\.\w+)+", name):
            continue
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:length]))
                break
            except ModuleNotFoundError:
                continue
        for part in parts[length:]:
            known = getattr(found, "__dataclass_fields__", {})
            assert hasattr(found, part) or part in known, name
            found = getattr(found, part, None)


@every_document
def test_named_files_exist(path: Path) -> None:
    tops = "|".join(p.name for p in CHECKOUT.iterdir() if p.is_dir() and not p.name.startswith("."))
    for code in inline_code_of(path):
        if re.fullmatch(rf"(?:{tops})/[\w./*-]+", code) and not code.startswith("runs/"):
            assert list(CHECKOUT.glob(code.rstrip("/"))), code


def test_class_names_in_the_documents_are_those_of_the_data() -> None:
    for path in DOCUMENTS:
        for word in re.findall(r"[a-z-]+/(?:noto|fluent|twemoji)\b", path.read_text(encoding="utf-8")):
            assert word in CLASS_NAMES, f"{name_of(path)}: {word}"


def test_the_readme_maps_the_real_tree() -> None:
    (tree,) = (b.content for b in blocks_of(CHECKOUT / "README.md") if b.content.startswith("src/genrefine/"))
    mapped, stack = set(), []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in line.split("  ")[depth].split(", "):
            parent = Path(*stack[:depth])
            assert (CHECKOUT / parent / name).exists(), parent / name
            mapped.add((parent / name).as_posix())
        stack = [*stack[:depth], name]
    tracked = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line and not line.startswith(".")}
    parts = {line.split("/")[2] for line in tracked.splitlines() if line.startswith("src/genrefine/")}
    expected = (folders - {"src"}) | {f"src/genrefine/{part}" for part in parts if not part.startswith(("_", "py."))}
    assert expected - mapped == set()


def pages_of(nav: list[dict[str, object]]) -> Iterator[str]:
    for entry in nav:
        for part in entry.values():
            yield from pages_of(part) if isinstance(part, list) else [str(part)]


def test_the_site_shows_every_page() -> None:
    site = yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))
    shown = set(pages_of(site["nav"]))
    docs = CHECKOUT / "docs"
    assert shown == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}


def test_prose_is_plain() -> None:
    for path in DOCUMENTS:
        strange = {character for character in prose_of(path) if ord(character) > 0x1FF}
        assert not strange, f"{name_of(path)}: {strange}"


def test_the_stand_in_of_these_tests_is_like_the_shipped_model() -> None:
    shipped = zoo.load("emoji-class")
    assert shipped.class_names == CLASS_NAMES
    assert shipped.picture_size == (64, 64)
    assert shipped.sampler.is_calibrated


def test_the_readme_is_short() -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|<!--.*?-->", " ", text, flags=re.DOTALL)
    words = re.findall(r"\w[\w'.-]*", re.sub(r"\]\([^)]*\)", "]", prose))
    assert len(words) <= 700, len(words)


def test_the_version_stands_once() -> None:
    cited = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    changes = re.findall(r"^## (\S+)", (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert genrefine.__version__ == cited == changes[0]
