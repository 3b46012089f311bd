"""A page served by the command line over a tiny model, and a real browser that looks at it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tiny_models import tiny_pipeline, tiny_text_pipeline

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CARD = "---\nwidget:\n  - text: a red heart\nstyles:\n  - a {}\n  - a blue {}\n---\n# tiny\n"


def browser_program() -> str | None:
    """Return the browser that is there: `GENREFINE_BROWSER`, or a Chromium on the path."""
    names = [os.environ.get("GENREFINE_BROWSER"), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Served:
    """A running studio."""

    url: str
    folder: Path
    process: Any
    log: Path


@dataclass
class Look:
    """A browser's page, and what it complained about."""

    page: Any
    errors: list[str]

    def tab(self, name: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=name, exact=True).first.click()

    def says(self, place: str, words: str, seconds: float = 30) -> str:
        """Wait until a line of the page holds some words, and return the line."""
        line = self.page.locator(f"#{place}")
        within = line.get_by_role("status") if place.endswith("-line") else line
        within.get_by_text(words).first.wait_for(timeout=seconds * 1000)
        return str(line.inner_text())

    def forget(self, place: str) -> None:
        """Mark what a line says now as seen, so that `says` waits for what comes."""
        self.page.locator(f"#{place} [role=status]").evaluate("line => line.removeAttribute('role')")

    def refusal(self, seconds: float = 30) -> str:
        """Wait for what the page refuses with, take it away, and return it."""
        toast = self.page.locator(".toast-body.error").first
        toast.wait_for(timeout=seconds * 1000)
        words = str(toast.inner_text())
        toast.locator(".toast-close").click()
        return words

    def number(self, place: str, value: float) -> None:
        """Set a slider by its number field."""
        field = self.page.locator(f"#{place} input[type=number]")
        field.fill(str(value))
        field.press("Enter")
        field.blur()


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model of prompts, with a card, and with a run of training beside it."""
    folder = tmp_path_factory.mktemp("studio") / "tiny"
    tiny_text_pipeline().save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Return a function that serves a model folder by `genrefine studio`."""
    running = []

    def start(model: Path, *words: str) -> Served:
        pytest.importorskip("gradio", reason="the page needs gradio: pip install 'genrefine[studio]'")
        port, log = free_port(), tmp_path_factory.mktemp("log") / "studio.log"
        command = [sys.executable, "-m", "genrefine", "studio", "--model", str(model), "--port", str(port), *words]
        with log.open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent)
        running.append(process)
        for _ in range(600):
            if "Ctrl-C ends" in log.read_text() or process.poll() is not None:
                break
            time.sleep(0.2)
        assert process.poll() is None, log.read_text()
        return Served(f"http://127.0.0.1:{port}", model, process, log)

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model of classes."""
    folder = tmp_path_factory.mktemp("studio-classes") / "tiny-class"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a browser; without one, or without what drives it, the tests are skipped and say so."""
    program = browser_program()
    if program is None:
        pytest.skip("no browser: install chromium, or name one in GENREFINE_BROWSER")
    driver = pytest.importorskip("playwright.sync_api", reason="no driver of a browser: pip install playwright")
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def look(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Look]]:
    """Return a function that opens an address; a page that complained on its console fails the test."""
    looks = []

    def opened(url: str, width: int = 1280, height: int = 900, first: str = "Make") -> Look:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(20_000)
        one = Look(page, [])
        page.on("console", lambda said: one.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: one.errors.append(str(error)))
        page.goto(url, timeout=60_000)
        page.get_by_role("tab", name=first, exact=True).first.wait_for()
        looks.append(one)
        return one

    yield opened
    for one in looks:
        one.page.close()
    assert [error for one in looks for error in one.errors] == []
