"""Read the project's Markdown: fenced blocks, inline code, links.

A bash block below `<!-- not run: REASON -->` is checked word by word, but not run.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DOCUMENTS = [
    *(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]
LANGUAGES = {"python", "bash", "text", "bibtex"}
NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    content: str
    line: int
    is_run: bool

    @property
    def commands(self) -> list[list[str]]:
        """Words of every command of a bash block, continued lines joined and comments dropped."""
        lines = self.content.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def name_of(path: Path) -> str:
    """Return the path of a document inside the checkout."""
    return path.relative_to(CHECKOUT).as_posix()


def blocks_of(path: Path) -> list[Block]:
    """Return the fenced blocks of a document in order."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip().splitlines()
        marked = bool(before) and NOT_RUN.fullmatch(before[-1].strip()) is not None
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], match[2], line, not marked))
    return found


def prose_of(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def inline_code_of(path: Path) -> list[str]:
    """Return the pieces of inline code of a document."""
    return INLINE.findall(prose_of(path))


def links_of(path: Path) -> list[str]:
    """Return the targets of links and pictures of a document."""
    return [markdown or html for markdown, html in LINK.findall(prose_of(path))]
