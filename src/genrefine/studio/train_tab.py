"""Train: loss and accuracy of a run over its updates and by signal, previews over time, live."""

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.studio.host import Host
from genrefine.studio.parts import QUICK, SMALL, told
from genrefine.studio.render import quiet_line
from genrefine.studio.runs import by_signal, find_runs, names_of, over_updates, previews_of, read_metrics, update_of

EVERY = 5.0
"""Seconds between two looks at a run."""
MOST_COMPARED = 20
"""Runs whose numbers decide which lines the plots can have."""
WITHOUT = (
    "Start the studio with `--runs FOLDER` to watch training: every run below that folder (`genrefine train ... --out "
    "FOLDER/NAME`) can be chosen here. The page reads nothing else."
)


class TrainTab:
    """The tab.

    Args:
        host: of the page.
        root: folder of runs; None for none.
    """

    def __init__(self, host: Host, root: Path | None) -> None:
        self.host, self.root = host, root
        if root is None:
            gr.Markdown(WITHOUT, elem_id="train-without")
            return
        names = find_runs(root)
        known = [read_metrics(root / name) for name in names[:MOST_COMPARED]]
        self.shown = {
            word: tuple(sorted({name for rows in known for name in names_of(rows, word)}))
            for word in ("loss", "accuracy")
        }
        with gr.Row(equal_height=False):
            self.run = gr.Dropdown(
                names, value=names[0] if names else None, label="Run", scale=3, min_width=220, elem_id="train-run"
            )
            self.live = gr.Checkbox(
                True, label=f"Live, every {EVERY:g} seconds", scale=2, min_width=180, elem_id="train-live"
            )
            self.again = gr.Button("Look for runs", size="sm", scale=1, min_width=120, elem_id="train-find")
        line, plots, number, picture = self._look(names[0] if names else None, None)
        self.line = gr.HTML(quiet_line(line), elem_id="train-line")
        given: dict[str, Any] = {"height": 240, "buttons": []}
        with gr.Row():
            self.loss = gr.LinePlot(
                plots[0],
                x="update",
                y="value",
                color="what",
                title="Loss",
                y_title="loss",
                elem_id="train-loss",
                **given,
            )
            self.accuracy = gr.LinePlot(
                plots[1], x="update", y="value", color="what", title="Accuracy of codes", y_title="accuracy",
                elem_id="train-accuracy", **given,
            )  # fmt: skip
        with gr.Row():
            self.loss_by = gr.LinePlot(
                plots[2], x="signal", y="value", color="when", title="Loss by signal", y_title="loss", x_lim=[0, 1],
                elem_id="train-loss-by-signal", **given,
            )  # fmt: skip
            self.accuracy_by = gr.LinePlot(
                plots[3], x="signal", y="value", color="when", title="Accuracy by signal", y_title="accuracy",
                x_lim=[0, 1], elem_id="train-accuracy-by-signal", **given,
            )  # fmt: skip
        self.which = gr.Slider(
            1, max(2, number), max(1, number), step=1, label="Preview", visible=number > 1, elem_id="train-which"
        )
        self.preview = gr.Image(
            picture, label="Drawn with the averaged weights", visible=number > 0,
            interactive=False, height=420, buttons=["fullscreen"],
            elem_id="train-preview",
        )  # fmt: skip

    def wire(self, tabs: Any) -> None:
        """Connect the controls; the run is read again and again only while its tab is open."""
        if self.root is None:
            return
        plots = [self.line, self.loss, self.accuracy, self.loss_by, self.accuracy_by]
        everything = [*plots, self.which, self.preview]
        show = told(self._show)
        self.run.input(lambda run: self._told(run, None), self.run, everything, **SMALL)
        self.again.click(self._find, [self.run], [self.run], **SMALL)
        self.which.input(told(self._preview), [self.run, self.which], [self.line, self.preview], **SMALL)
        timer = gr.Timer(EVERY, active=False)
        timer.tick(show, [self.run, self.which], everything, **SMALL)
        self.live.input(lambda on: gr.Timer(active=on), self.live, timer, **QUICK)
        tabs.select(_while_open, self.live, timer, **QUICK)

    def _told(self, run: str | None, which: float | None) -> list[Any]:
        return told(self._show)(run, which)  # type: ignore[no-any-return]

    def _find(self, run: str | None) -> Any:
        names = find_runs(self.root)
        return gr.Dropdown(names, value=run if run in names else (names[0] if names else None))

    def _folder(self, run: str | None) -> Path:
        if self.root is None or run not in find_runs(self.root):
            raise GenrefineError("there is no such run below the folder of --runs; look for runs again")
        return self.root / run

    def _show(self, run: str | None, which: float | None) -> list[Any]:
        line, plots, number, picture = self._look(run, which)
        count = len(previews_of(self._folder(run))) if number else 0
        return [
            quiet_line(line),
            *plots,
            gr.update(maximum=max(2, count), value=max(1, number), visible=count > 1),
            picture,
        ]

    def _look(self, run: str | None, which: float | None) -> tuple[str, list[Any], int, Image.Image | None]:
        """Return line, plots, number and picture of a preview; the newest one is followed if it was the one shown."""
        if run is None:
            return "there is no run yet", [None] * 4, 0, None
        folder = self._folder(run)
        rows, previews = read_metrics(folder), previews_of(folder)
        if not rows:
            return "the run has logged nothing yet", [None] * 4, 0, None
        last = rows[-1]
        words = f"update {last['step']:,}"
        for name, form in (("loss", ".4f"), ("accuracy", ".4f"), ("items_per_second", ".2f")):
            if name in last:
                words += f", {name.replace('_', ' ')} {last[name]:{form}}"
        plots = [over_updates(rows, self.shown[word] or names_of(rows, word)) for word in ("loss", "accuracy")]
        plots += [by_signal(rows, word) for word in ("loss", "accuracy")]
        stays = which is not None and int(which) < len(previews) - 1
        number = int(which) if stays and which is not None else len(previews)
        return words, plots, number, _opened(previews, number)

    def _preview(self, run: str | None, which: float) -> list[Any]:
        previews = previews_of(self._folder(run))
        if not previews:
            return [quiet_line("there is no preview yet"), None]
        number = min(max(int(which), 1), len(previews))
        return [quiet_line(f"preview at update {update_of(previews[number - 1]):,}"), _opened(previews, number)]


def _while_open(is_live: bool, event: gr.SelectData) -> Any:
    return gr.Timer(active=is_live and event.value == "Train")


def _opened(previews: list[Path], number: int) -> Image.Image | None:
    if not previews:
        return None
    with Image.open(previews[min(max(number, 1), len(previews)) - 1]) as picture:
        return picture.convert("RGB")
