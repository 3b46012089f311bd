"""Look inside: one or two runs, step by step and position by position."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import pandas as pd

from genrefine.errors import GenrefineError
from genrefine.pipelines.inspection import InspectedStep, inspected
from genrefine.studio.controls import How, What, ask_from
from genrefine.studio.host import Host
from genrefine.studio.making import Sample, Stop
from genrefine.studio.parts import QUICK, begin, told
from genrefine.studio.render import (
    bits_table,
    position_at,
    progress_line,
    quiet_line,
    show_entropy,
    show_fates,
    show_picture,
    step_line,
)

Run = list[InspectedStep]
NAMES = ("A", "B")
_PANELS: dict[str, Any] = {
    "mind": ("in mind", show_picture),
    "fates": ("kept, filled, erased", show_fates),
    "entropy": ("entropy, dark is open", show_entropy),
}
HINT = "<p>Click a position in any of the pictures to see its codes.</p>"


def entropies(runs: list[Run]) -> pd.DataFrame:
    """Return the mean entropy of every run over its signal, for the plot.

    A plot keeps the names that it began with, so a run that is not there has a point, which no line is drawn of.
    """
    rows = [
        {"signal": round(step.signal, 4), "entropy": round(step.mean_entropy, 5), "run": name}
        for name, run in zip(NAMES, [*runs, *(run[:1] for run in runs[:1] * (len(NAMES) - len(runs)))], strict=False)
        for step in run
    ]
    return pd.DataFrame(rows, columns=["signal", "entropy", "run"])


class LookTab:
    """The tab.

    Args:
        host: whose model is looked at.
        opening: a run that is there when the page opens.
    """

    def __init__(self, host: Host, opening: Run) -> None:
        self.host = host
        runs = [opening] if opening else []
        self.asked = gr.State(Stop(), time_to_live=3600)
        self.runs, self.position = gr.State(runs, time_to_live=3600), gr.State(None, time_to_live=3600)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.what = What(host)
                with gr.Tabs():
                    with gr.Tab("Run A"):
                        self.first = How(host, count=False, negative=False)
                    with gr.Tab("Run B"):
                        self.both = gr.Checkbox(False, label="Compare with a second run", elem_id="look-both")
                        self.second = How(host, count=False, negative=False)
                with gr.Row():
                    self.go = gr.Button("Look", variant="primary", elem_id="look-go")
                    self.stop = gr.Button("Stop", elem_id="look-stop")
                self.take = gr.Button("Look at the one chosen in Make", size="sm", elem_id="look-take")
                self.line = gr.HTML(quiet_line("ready"), elem_id="look-line")
            with gr.Column(scale=5, min_width=320):
                last = max(len(opening) - 1, 1)
                with gr.Row():
                    self.step = gr.Slider(1, last + 1, 1, step=1, label="Step", elem_id="look-step")
                    frames = opening[0].entropy.shape[0] if opening else 1
                    self.frame = gr.Slider(
                        0, max(frames - 1, 1), 0, step=1, label="Latent frame", visible=frames > 1, elem_id="look-frame"
                    )
                self.panels: list[Any] = []
                self.lines: list[Any] = []
                self.rows: list[Any] = []
                for name in NAMES:
                    self._run(name, opening[0] if opening and name == "A" else None)
                self.plot = gr.LinePlot(
                    entropies(runs), x="signal", y="entropy", color="run", height=200, x_lim=[0, 1],
                    title="Mean entropy over the signal", buttons=[],
                    color_map={"A": "#4c78b1", "B": "#e27d60"}, elem_id="look-plot",
                )  # fmt: skip
                with gr.Row(elem_classes="bits-box"):
                    self.bits = [gr.HTML(HINT if name == "A" else "", elem_id=f"look-bits-{name}") for name in NAMES]

    def _run(self, name: str, first: InspectedStep | None) -> None:
        """Lay out line and pictures of one run."""
        with gr.Group(visible=name == "A") as group:
            self.lines.append(gr.HTML("" if first is None else step_line(first), elem_id=f"look-line-{name}"))
            with gr.Row():
                for key, (label, draw) in _PANELS.items():
                    with gr.Column(min_width=150):
                        gr.HTML(f"<p class='caption'>{name}: {label}</p>")
                        panel = gr.Image(
                            None if first is None else draw(first), show_label=False, label=f"{name}: {label}",
                            interactive=False, buttons=[], height=260, alt_text=f"run {name}, {label}",
                            elem_id=f"look-{name}-{key}",
                        )  # fmt: skip
                    self.panels.append(panel)
        self.rows.append(group)

    def wire(self, samples: Any, chosen: Any) -> None:
        """Connect the controls; `samples` and `chosen` are the states of Make."""
        what, first, second = self.what.parts, self.first.parts, self.second.parts
        self.names, self.numbers = [list(what), list(first), list(second)], (len(what), len(first))
        shown = [self.step, self.frame, *self.lines, *self.panels, *self.bits]
        outputs = [self.line, self.runs, self.plot, *self.rows, *shown]
        given = [*what.values(), *first.values(), *second.values()]
        self.outputs = len(outputs)
        begin(self.go.click, told(self._look), self.asked, [self.asked, self.position, self.both, *given], outputs)
        taking = [self.asked, self.position, samples, chosen]
        begin(self.take.click, told(self._take), self.asked, taking, outputs)
        self.stop.click(Stop.ask, self.asked, None, **QUICK)
        where = [self.runs, self.step, self.frame, self.position]
        views = [*self.lines, *self.panels, *self.bits]
        self.step.input(self._views, where, views, trigger_mode="always_last", **QUICK)
        self.frame.input(self._views, where, views, trigger_mode="always_last", **QUICK)
        for panel in self.panels:
            panel.select(self._point, [self.runs, self.step, self.frame, panel], [self.position, *views], **QUICK)

    def _look(self, stop: Stop, position: Any, both: bool, *values: Any) -> Iterator[Any]:
        of_what, of_first = self.numbers
        names, what = self.names, list(values[:of_what])
        asks = [ask_from(self.host, names[0] + names[1], what + list(values[of_what : of_what + of_first]))]
        if both:
            asks.append(ask_from(self.host, names[0] + names[2], what + list(values[of_what + of_first :])))
        yield from self._followed(
            stop, position, [(f"run {name}", ask) for name, ask in zip(NAMES, asks, strict=False)]
        )

    def _take(self, stop: Stop, position: Any, samples: list[Sample], chosen: int | None) -> Iterator[Any]:
        if not samples or chosen is None:
            raise GenrefineError("Make holds no picture yet")
        if samples[chosen].is_edit:
            raise GenrefineError("this one was made from another picture, which its settings do not hold")
        yield from self._followed(stop, position, [(samples[chosen].caption, samples[chosen].ask)])

    def _followed(self, stop: Stop, position: Any, asks: list[tuple[str, Any]]) -> Iterator[Any]:
        runs: list[Run] = []
        skip = [gr.skip()] * (self.outputs - 1)
        for name, ask in asks:
            request = self.host.prepare(replace(ask, count=1))
            run: Run = []
            for step in inspected(self.host.pipeline, request):
                run.append(step)
                if stop.asked:
                    yield quiet_line(f"stopped after step {step.index + 1} of {name}"), *skip
                    return
                words = f"{name}: step {step.index + 1} of {step.num_steps or '?'}"
                yield progress_line(step.index + 1, step.num_steps, words), *skip
            runs.append(run)
        longest, frames = max(map(len, runs)), runs[0][0].entropy.shape[0]
        position = position if position is None or _fits(position, runs[0][0]) else None
        words = "; ".join(
            f"run {name}: {len(run)} steps, {sum(step.num_evaluations for step in run)} evaluations"
            for name, run in zip(NAMES, runs, strict=False)
        )
        yield (
            quiet_line(words),
            runs,
            entropies(runs),
            *[gr.Group(visible=index < len(runs)) for index in range(len(NAMES))],
            gr.Slider(maximum=max(longest, 2), value=longest),
            gr.Slider(maximum=max(frames - 1, 1), value=0, visible=frames > 1),
            *self._views(runs, longest, 0, position),
        )

    def _views(self, runs: list[Run], step: float, frame: float, position: Any) -> list[Any]:
        """Return lines, panels and tables of a step; a run that has ended stays at its last one."""
        lines: list[Any] = []
        panels: list[Any] = []
        tables: list[Any] = []
        for index in range(len(NAMES)):
            if index >= len(runs):
                lines.append("")
                panels += [None] * 3
                tables.append("")
                continue
            shown = runs[index][min(max(int(step), 1), len(runs[index])) - 1]
            latent = min(int(frame), shown.entropy.shape[0] - 1)
            lines.append(step_line(shown))
            panels += [draw(shown, position, latent) for _, draw in _PANELS.values()]
            tables.append(bits_table(shown, tuple(position), latent) if position else HINT if index == 0 else "")
        return [*lines, *panels, *tables]

    def _point(self, runs: list[Run], step: float, frame: float, panel: Any, event: gr.SelectData) -> list[Any]:
        if not runs or panel is None:
            return [gr.skip()] * (1 + len(self.lines) + len(self.panels) + len(self.bits))
        grid = runs[0][0].entropy.shape[1:]
        position = position_at(event.index, (panel.shape[1], panel.shape[0]), (int(grid[0]), int(grid[1])))
        return [position, *self._views(runs, step, frame, position)]


def _fits(position: Any, step: InspectedStep) -> bool:
    return bool(position[0] < step.entropy.shape[1] and position[1] < step.entropy.shape[2])
