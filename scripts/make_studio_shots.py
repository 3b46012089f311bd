"""Take the screenshots of `docs/studio.md`: every tab, wide and narrow, light and dark, with something in it.

    python scripts/make_studio_shots.py --runs runs -o docs/images

Needs the extra `studio`, playwright and a Chromium (on the path, or named by GENREFINE_BROWSER).
"""

import argparse
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

WIDE, NARROW = (1280, 900), (390, 844)
SCALE = 0.6
PAPER = (235, 233, 227)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PATIENCE = 600_000
"""Milliseconds; a clip takes a while on two cores."""


def make(page: Any) -> None:
    """Make four pictures."""
    fill(page, "Prompt", "umbrella")
    choose(page, "Style", "fluent emoji of {}")
    page.get_by_label("number input for Pictures").first.fill("4")
    page.get_by_label("number input for Pictures").first.blur()
    page.locator("#make-go").click()
    page.locator("#make-line").get_by_text("4 made in").wait_for()


def edit(page: Any) -> None:
    """Let a prompt change the opening picture."""
    fill(page, "Prompt", "blue heart")
    page.get_by_label("what the prompt changes").check()
    page.locator("#edit-look").click()
    page.locator("#edit-line").get_by_text("nats per code").wait_for()
    page.locator("#edit-go").click()
    page.locator("#edit-line").get_by_text(" made in ").wait_for()
    page.wait_for_timeout(1500)


def look(page: Any) -> None:
    """Compare two kernels and look at a position."""
    page.get_by_role("tab", name="Run B").click()
    page.locator("#look-both input").check()
    page.get_by_role("button", name=re.compile("^Sampling")).locator("visible=true").first.click()
    choose(page, "Kernel", "exact")
    page.locator("#look-go").click()
    page.locator("#look-line").get_by_text("run B: ").get_by_text("evaluations").wait_for()
    slider = page.locator("#look-step input[type=range]")
    slider.focus()
    for _ in range(8):
        slider.press("ArrowLeft")
    picture = page.locator("#look-A-mind img")
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] * 0.55, "y": box["height"] * 0.3})
    page.locator("#look-bits-A table").wait_for()


def codes(page: Any) -> None:
    """Show two rounds."""
    slider = page.locator("#codes-rounds input[type=range]")
    slider.focus()
    slider.press("ArrowLeft")
    page.locator("#codes-facts").get_by_text("at most 0.25").wait_for()


def clips(page: Any) -> None:
    """Make a clip."""
    fill(page, "Prompt", "red heart")
    choose(page, "Style", "animated emoji of {}")
    page.locator("#clips-go").click()
    page.locator("#clips-line").get_by_text("frames in").wait_for()
    page.wait_for_timeout(2000)


def train(page: Any) -> None:
    """Wait for the plots."""
    page.wait_for_timeout(1500)


TABS: dict[str, Callable[[Any], None]] = {
    "Make": make,
    "Edit": edit,
    "Look inside": look,
    "Codes": codes,
    "Clips": clips,
    "Train": train,
}


def fill(page: Any, label: str, words: str) -> None:
    """Type into the field of the open tab."""
    page.get_by_label(label, exact=True).locator("visible=true").first.fill(words)


def choose(page: Any, label: str, choice: str) -> None:
    """Choose from a list of the open tab."""
    page.get_by_label(label, exact=True).locator("visible=true").first.click()
    page.get_by_role("option", name=choice, exact=True).locator("visible=true").first.click()


def shots(page: Any) -> list[Image.Image]:
    """Return the page wide and narrow."""
    taken = []
    for size in (WIDE, NARROW):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.wait_for_timeout(1200)
        page.evaluate("window.scrollTo(0, 0)")
        picture = Image.open(io.BytesIO(page.screenshot(full_page=size == WIDE))).convert("RGB")
        small = round(picture.width * SCALE), round(picture.height * SCALE)
        taken.append(picture.resize(small, Image.Resampling.LANCZOS))
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    return taken


def sheet(pictures: list[Image.Image], gap: int = 16) -> Image.Image:
    """Lay pictures side by side; of few colors, as screens are, so that the file stays small."""
    height = max(picture.height for picture in pictures) + 2 * gap
    whole = Image.new("RGB", (sum(picture.width + gap for picture in pictures) + gap, height), PAPER)
    left = gap
    for picture in pictures:
        whole.paste(picture, (left, gap))
        left += picture.width + gap
    return whole.quantize(256, dither=Image.Dither.NONE)


def main() -> None:
    """Serve the shipped model, go through the tabs, write a sheet for each."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description="Take the screenshots of docs/studio.md.")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--runs", type=Path, required=True, help="folder of runs of training")
    parser.add_argument("--only", nargs="+", choices=list(TABS), default=list(TABS))
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "genrefine", "studio", "--model", options.model, "--port", str(port)]
    with subprocess.Popen([*command, "--runs", str(options.runs)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while "Ctrl-C" not in (line := process.stdout.readline()):
                if not line and process.poll() is not None:
                    raise SystemExit("error: the studio did not start")
            with sync_playwright() as playwright:
                program = shutil.which(os.environ.get("GENREFINE_BROWSER") or "chromium")
                browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
                taken: dict[str, list[list[Image.Image]]] = {name: [] for name in options.only}
                for theme in ("light", "dark"):
                    page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
                    page.set_default_timeout(PATIENCE)
                    page.goto(f"http://127.0.0.1:{port}/?__theme={theme}")
                    for name in options.only:
                        start = time.perf_counter()
                        page.get_by_role("tab", name=name, exact=True).first.click()
                        page.wait_for_timeout(1500)
                        TABS[name](page)
                        taken[name].append(shots(page))
                        print(f"{name}, {theme}: {time.perf_counter() - start:.0f} s", flush=True)
                    page.close()
                browser.close()
        finally:
            process.terminate()
    for name, ((wide, narrow), (dark_wide, dark_narrow)) in taken.items():
        path = options.output / f"studio-{name.lower().replace(' ', '-')}.png"
        sheet([wide, dark_wide, narrow, dark_narrow]).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
