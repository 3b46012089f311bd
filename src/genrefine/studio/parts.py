"""Pieces that all tabs share: how errors are told, pictures dropped, and what the page looks like."""

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.pipelines.canvas import read_picture
from genrefine.studio.limits import Limits
from genrefine.studio.making import Stop

MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
"""How an event is queued that needs the model: one at a time, whoever asks."""
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""How an event is handled that only shows what is there and refuses nothing."""
SMALL: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
"""How an event is handled that needs no model and may refuse: through the queue, which tells refusals in one line."""


def begin(event: Any, handler: Any, stop: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Let an event start work that can be stopped.

    Args:
        event: such as `button.click`.
        handler: does the work; its first input is the state of `stop`.
        stop: the state that holds a `making.Stop`.
        inputs, outputs: of the handler.
    """
    event(Stop.arm, stop, None, **QUICK).then(handler, inputs, outputs, **MODEL)


def picture_drop(**settings: Any) -> gr.Image:
    """Return a control for a picture that is dropped; its value is the path of the uploaded file, which is not opened.

    gradio would open it and show the library's own words; `dropped` reads it by our decoder, which refuses bombs. A
    class of our own would do, but for gradio writing a stub file beside the module of every subclass.
    """
    control = gr.Image(
        **{"type": "filepath", "sources": ["upload", "clipboard"], "buttons": [], "height": 240, **settings}
    )
    control.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return control


def dropped(path: str | None, limits: Limits, what: str = "picture") -> Image.Image | None:
    """Return what was dropped, upright and flattened on white; None where nothing was.

    Raises:
        GenrefineError: it is no picture, or too large.
    """
    if path is None:
        return None
    size = Path(path).stat().st_size
    if size > limits.upload_megabytes * 10**6:
        raise GenrefineError(
            f"the {what} may have {limits.upload_megabytes} MB; got {size / 1e6:.1f}; make it smaller, or start the "
            "studio with --max-upload-megabytes"
        )
    try:
        return read_picture(path, what)
    except GenrefineError as error:
        raise GenrefineError(str(error).replace(path, Path(path).name)) from error  # no paths of this machine


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Let a handler's refusals appear on the page as one line; everything else is a defect and stays an error."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*arguments: Any) -> Iterator[Any]:
            try:
                yield from handler(*arguments)
            except GenrefineError as error:
                raise _shown(error) from error

        return steps

    @functools.wraps(handler)
    def whole(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except GenrefineError as error:
            raise _shown(error) from error

    return whole


def _shown(error: GenrefineError) -> gr.Error:
    return gr.Error(str(error), title="Not done", duration=12, print_exception=False)


def theme() -> Any:
    """Return calm colors and fonts of the system, so that nothing is fetched from elsewhere."""
    blue = gr.themes.Color(
        "#f1f5fb", "#dde7f4", "#bfd1ea", "#97b4da", "#6f95c8", "#4c78b1", "#3b639e", "#315282", "#28426a", "#1f3352",
        "#162540", name="genrefine",
    )  # fmt: skip
    return gr.themes.Base(
        primary_hue=blue,
        secondary_hue=blue,
        neutral_hue=gr.themes.colors.gray,
        radius_size=gr.themes.sizes.radius_md,
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        block_label_text_color="*body_text_color_subdued",
        slider_color="*primary_500",
    )


CSS = """
.gradio-container { width: 100% !important; }
.gradio-container main { width: 100%; max-width: 1240px; margin: 0 auto; }
#edit-editor .source-wrap, #edit-editor button[aria-label="Paste"] { display: none; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .35rem 1rem; padding: .4rem .2rem 0; }
.head h1 { font-size: 1.35rem; font-weight: 650; margin: 0; letter-spacing: -.01em; }
.head p { margin: 0; color: var(--body-text-color-subdued); font-size: .92rem; }
.progress { display: flex; align-items: center; gap: .8rem; min-height: 1.6rem; font-size: .92rem;
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.progress progress { width: 10rem; max-width: 40%; height: .5rem; accent-color: var(--primary-500); }
.step-line { display: flex; flex-wrap: wrap; gap: .3rem .9rem; align-items: center; font-size: .9rem;
  min-height: 1.8rem; font-variant-numeric: tabular-nums; }
.chip { padding: .05rem .5rem; border-radius: 1rem; color: #14181f; white-space: nowrap; }
.chip.kept { background: #9db7dd; } .chip.filled { background: #a8dccb; } .chip.erased { background: #f1b29f; }
.chip.blank { background: #ebe9e3; }
table.bits { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; width: 100%; }
table.bits caption { text-align: left; padding: .2rem 0 .5rem; color: var(--body-text-color-subdued); }
table.bits th, table.bits td { padding: .12rem .5rem; text-align: center;
  border: 1px solid var(--border-color-primary); }
table.bits th { font-weight: 500; color: var(--body-text-color-subdued); }
table.bits td[style] { background: color-mix(in srgb, var(--primary-400) calc(var(--sure) * 55%), transparent); }
table.bits td.against { outline: 2px solid #d5573b; outline-offset: -2px; }
.caption { margin: 0; font-size: .85rem; color: var(--body-text-color-subdued); }
.bits-box { overflow-x: auto; }
.facts { font-variant-numeric: tabular-nums; font-size: .95rem; }
.facts dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: .2rem 0; }
.facts dt { color: var(--body-text-color-subdued); } .facts dd { margin: 0; }
.pixels img { image-rendering: pixelated; }
:focus-visible { outline: 2px solid var(--primary-500) !important; outline-offset: 2px; }
@media (max-width: 640px) { .gradio-container { padding: .4rem !important; } .head h1 { font-size: 1.15rem; } }
"""


def facts(rows: dict[str, str]) -> str:
    """Return names and values as a list in HTML."""
    from html import escape

    inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    return f"<div class='facts'><dl>{inside}</dl></div>"
