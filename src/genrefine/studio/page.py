"""The page: six tabs over one model, one queue, and limits."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from genrefine.pipelines.inspection import inspected
from genrefine.studio.clips_tab import ClipsTab
from genrefine.studio.codes_tab import CodesTab
from genrefine.studio.edit_tab import EditTab
from genrefine.studio.host import Host
from genrefine.studio.look_tab import LookTab, Run
from genrefine.studio.make_tab import MakeTab
from genrefine.studio.making import Sample
from genrefine.studio.parts import CSS, theme
from genrefine.studio.train_tab import TrainTab

OPENING_STEPS = 12
SESSIONS = 32
"""Visitors whose pictures are kept in memory at a time."""
KEEP_FILES = (600, 3600)
"""Seconds between two cleanings of temporary files, and their age by then."""


def opening_of(host: Host) -> tuple[Sample, Run]:
    """Make the picture that is there when the page opens, and keep every step of it."""
    ask = replace(host.defaults(), seed=0, count=1, adaptive=False, steps=min(OPENING_STEPS, host.limits.steps))
    request = host.prepare(ask)
    run = list(inspected(host.pipeline, request))
    last, entropies = run[-1], [step.mean_entropy for step in run]
    evaluations = sum(step.num_evaluations for step in run)
    notes = host.notes(request, 0, len(run), evaluations, entropies)
    return Sample(last.pictures[:1], ask, notes, host.prompt(ask) or ""), run


def build(host: Host, runs: Path | None = None) -> gr.Blocks:
    """Return the page of a model.

    Args:
        host: the model and its limits.
        runs: folder below which runs of training are shown; None for none.
    """
    opening, run = opening_of(host)
    kind = f"{len(host.class_names)} classes" if host.class_names else "prompts"
    height, width = host.pipeline.picture_size
    with gr.Blocks(title="genrefine studio", analytics_enabled=False, delete_cache=KEEP_FILES) as page:
        gr.HTML(
            f"<div class='head'><h1>genrefine studio</h1><p>{escape(host.name)}: {kind}, "
            f"{width} x {height}, "
            f"{host.pipeline.refiner.num_parameters() / 1e6:.1f} M parameters on "
            f"{escape(str(host.pipeline._execution_device))}</p></div>"
        )
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Make", id="make"):
                made = MakeTab(host, [opening])
            with gr.Tab("Edit", id="edit"):
                edit = EditTab(host, opening)
            with gr.Tab("Look inside", id="look"):
                look = LookTab(host, run)
            with gr.Tab("Codes", id="codes"):
                codes = CodesTab(host, opening)
            if host.frame_choices:
                with gr.Tab("Clips", id="clips"):
                    clips: Any = ClipsTab(host)
            else:
                clips = None
            with gr.Tab("Train", id="train"):
                train = TrainTab(host, runs)
        for tab in (edit, look, codes, clips):
            if tab is not None:
                tab.wire(made.samples, made.chosen)
        train.wire(tabs)
    page.queue(default_concurrency_limit=1, max_size=host.limits.queue, api_open=False)
    return page


@contextmanager
def temporary_files() -> Iterator[None]:
    """Let everything that the page writes lie in one temporary folder, which goes away with it."""
    folder = tempfile.mkdtemp(prefix="genrefine-studio-")
    before = {name: os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")}
    os.environ |= {"GRADIO_TEMP_DIR": os.path.join(folder, "served"), "GRADIO_ANALYTICS_ENABLED": "False"}
    tempdir, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = tempdir
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def serve(host: Host, address: str, port: int, runs: Path | None = None, wait: bool = True) -> Any:
    """Serve the page; return what closes it, or do not return until it is interrupted.

    Args:
        host: the model and its limits.
        address: to listen at; 127.0.0.1 is this machine only.
        port: to listen at.
        runs: folder of runs.
        wait: whether to stay until an interrupt.
    """
    page = build(host, runs)
    page.launch(
        server_name=address,
        server_port=port,
        share=False,
        quiet=True,
        show_error=False,
        prevent_thread_lock=not wait,
        max_file_size=host.limits.upload_megabytes * 10**6,
        state_session_capacity=SESSIONS,
        footer_links=[],
        ssr_mode=False,
        theme=theme(),
        css=CSS,
    )
    return page
