"""Make: pictures of a prompt or class, while they are refined; again, varied, kept, restored."""

import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.media.sheets import image_grid
from genrefine.media.writing import save_clip, save_png
from genrefine.pipelines import entropy_map
from genrefine.studio.controls import How, What, ask_from, updates
from genrefine.studio.host import Host, ask_of, enlarged
from genrefine.studio.making import Progress, Sample, Stop, make
from genrefine.studio.parts import QUICK, SMALL, begin, dropped, facts, told
from genrefine.studio.render import progress_line, quiet_line

KEPT = 24
"""Results that a session remembers."""
KEPT_FILES = 64
"""Results that wait on disk to be served."""
_WRITTEN: deque[Path] = deque()
VARIED = 0.35
"""Share of the positions that "vary" makes anew: those that the model finds most open."""


def sheet(clips: list[list[Image.Image]], side: int = 512) -> Image.Image:
    """Return the samples as they stand in one picture; of clips the frame in the middle."""
    shown = [frames[len(frames) // 2] for frames in clips if frames]
    columns = 1 if len(shown) == 1 else 2 if len(shown) <= 4 else 4
    large = [enlarged(one, max(96, side // columns - 8)) for one in shown]
    return large[0] if len(large) == 1 else image_grid(large, columns=columns)


def tell(progress: Progress) -> str:
    """Return the line below the pictures."""
    if progress.is_stopped:
        return quiet_line(progress.words)
    return progress_line(progress.done, progress.total, progress.words)


def described(sample: Sample) -> str:
    """Return what made a sample, as HTML."""
    settings = sample.notes["settings"]
    budget = "adaptive" if settings.get("adaptive") else "fixed"
    rows = {
        "shows": sample.prompt or "anything",
        "seed": str(sample.ask.seed),
        "steps": f"{sample.notes['num_steps'][0]} ({budget}), {sample.notes['num_evaluations'][0]} evaluations",
        "guidance": f"{settings['guidance_scale']:g}",
        "temperature": f"{settings['temperature']:g}",
        "kernel": str(settings["kernel"]),
        "size": f"{sample.frames[0].width} x {sample.frames[0].height}",
    }
    if sample.is_edit:
        rows["strength"] = f"{settings['strength']:g}, from another picture"
    return facts(rows)


def write(sample: Sample, frames_per_second: float | None = None) -> str:
    """Write a sample with its settings into a new temporary folder and return the path.

    Args:
        sample: to write.
        frames_per_second: of a clip.
    """
    words = "".join(letter if letter.isalnum() else "-" for letter in sample.prompt)[:48].strip("-") or "picture"
    folder = Path(tempfile.mkdtemp(prefix="genrefine-"))
    _WRITTEN.append(folder)
    while len(_WRITTEN) > KEPT_FILES:  # gradio has copied what it serves
        shutil.rmtree(_WRITTEN.popleft(), ignore_errors=True)
    if len(sample.frames) > 1:
        path = folder / f"{words}-seed{sample.ask.seed}.mp4"
        save_clip(sample.frames, path, frames_per_second=frames_per_second or 12.0, metadata=sample.notes)
    else:
        path = folder / f"{words}-seed{sample.ask.seed}.png"
        save_png(sample.frames[0], path, sample.notes)
    return str(path)


def gallery_of(samples: list[Sample]) -> list[tuple[Image.Image, str]]:
    """Return what the gallery shows."""
    return [(enlarged(one.frames[0], 192), f"seed {one.ask.seed}") for one in samples]


class MakeTab:
    """The tab, and what others need of it: the sample that is chosen.

    Args:
        host: whose model makes the pictures.
        opening: samples that are there when the page opens.
    """

    def __init__(self, host: Host, opening: list[Sample]) -> None:
        self.host = host
        self.samples = gr.State(list(opening), time_to_live=3600)
        self.chosen = gr.State(0 if opening else None, time_to_live=3600)
        self.asked = gr.State(Stop(), time_to_live=3600)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.what = What(host)
                with gr.Row():
                    self.go = gr.Button("Make", variant="primary", elem_id="make-go")
                    self.stop = gr.Button("Stop", elem_id="make-stop")
                self.how = How(host)
                if host.card.prompts and not host.class_names:
                    self._offer(host)
                self.restore = gr.UploadButton(
                    "Restore settings from a PNG of ours", file_types=[".png"], size="sm", elem_id="make-restore"
                )
            with gr.Column(scale=3, min_width=300):
                first = opening[0] if opening else None
                self.preview = gr.Image(
                    sheet([first.frames]) if first else None,
                    label="Picture", interactive=False, height=440, buttons=["fullscreen"], elem_id="make-preview",
                )  # fmt: skip
                self.line = gr.HTML(quiet_line("ready"), elem_id="make-line")
                gr.HTML("<p class='caption'>Made here, newest first</p>")
                self.gallery = gr.Gallery(
                    gallery_of(opening), label="Made here, newest first", show_label=False, columns=6, height=170,
                    allow_preview=False,
                    interactive=False, elem_id="make-gallery", selected_index=0 if opening else None, buttons=[],
                    fit_columns=False, object_fit="contain",
                )  # fmt: skip
                with gr.Row():
                    self.again = gr.Button("Again", size="sm", elem_id="make-again")
                    self.vary = gr.Button("Vary", size="sm", elem_id="make-vary")
                    self.save = gr.DownloadButton(
                        "Download", size="sm", value=write(first) if first else None, elem_id="make-download"
                    )
                self.details = gr.HTML(described(first) if first else "", elem_id="make-details")
        self._wire()

    def _offer(self, host: Host) -> None:
        """Lay out the card's examples, which set the prompt and its style."""
        parts = list(self.what.parts.values())
        gr.Examples([list(host.parted(one))[: len(parts)] for one in host.card.prompts], parts, label="Examples")

    def _wire(self) -> None:
        parts = {**self.what.parts, **self.how.parts}
        self.names = list(parts)
        shown = [self.preview, self.line, self.gallery, self.samples, self.chosen, self.details, self.save]
        inputs = [self.asked, self.samples, *parts.values()]
        begin(self.go.click, told(self._make), self.asked, inputs, shown)
        begin(self.again.click, told(self._again), self.asked, [self.asked, self.samples, self.chosen], shown)
        begin(self.vary.click, told(self._vary), self.asked, [self.asked, self.samples, self.chosen], shown)
        if not self.host.class_names:
            begin(self.what.what.submit, told(self._make), self.asked, inputs, shown)
        self.stop.click(Stop.ask, self.asked, None, **QUICK)
        self.gallery.select(
            self._choose, [self.samples], [self.chosen, self.preview, self.details, self.save, self.line], **QUICK
        )
        self.restore.upload(told(self._restore), [self.restore], [*parts.values(), self.line], **SMALL)

    def _make(self, stop: Stop, samples: list[Sample], *values: Any) -> Iterator[Any]:
        yield from self._followed(samples, make(self.host, ask_from(self.host, self.names, list(values)), stop))

    def _again(self, stop: Stop, samples: list[Sample], chosen: int | None) -> Iterator[Any]:
        sample = _sample(samples, chosen)
        if sample.is_edit:
            raise GenrefineError("this one was made from another picture; make it again in Edit")
        yield from self._followed(samples, make(self.host, sample.ask, stop))

    def _vary(self, stop: Stop, samples: list[Sample], chosen: int | None) -> Iterator[Any]:
        sample = _sample(samples, chosen)
        ask = replace(sample.ask, seed=None, count=min(4, self.host.limits.images))
        found = entropy_map(self.host.pipeline, sample.frames[0], self.host.prompt(ask))
        edit = {"image": sample.frames[0], "mask_image": found.mask(share=VARIED, grow=0), "blend": False}
        yield from self._followed(samples, make(self.host, ask, stop, **edit))

    def _followed(self, samples: list[Sample], steps: Iterator[Progress]) -> Iterator[Any]:
        skip = gr.skip()
        for progress in steps:
            if progress.samples is None:
                view = sheet(progress.clips) if progress.clips and any(progress.clips) else skip
                yield view, tell(progress), skip, skip, skip, skip, skip
                continue
            kept = [*progress.samples, *samples][:KEPT]
            words = f"{len(progress.samples)} made in {progress.seconds:.1f} s"
            first = progress.samples[0]
            gallery = gr.Gallery(gallery_of(kept), selected_index=0)
            view = sheet([one.frames for one in progress.samples])
            yield view, quiet_line(words), gallery, kept, 0, described(first), write(first)

    def _choose(self, samples: list[Sample], event: gr.SelectData) -> Any:
        index = int(event.index)
        if not 0 <= index < len(samples):
            return [gr.skip()] * 5
        sample = samples[index]
        return index, sheet([sample.frames]), described(sample), write(sample), quiet_line(sample.caption)

    def _restore(self, path: str | None) -> Any:
        if path is None:
            raise GenrefineError("drop a PNG that this studio or `genrefine generate` wrote")
        dropped(path, self.host.limits)
        try:
            ask, said = ask_of(path, self.host)
        except GenrefineError as error:
            raise GenrefineError(str(error).replace(path, Path(path).name)) from error
        line = quiet_line("settings restored" + (f"; {said}" if said else ""))
        return [*updates(ask, self.names, self.host), line]


def _sample(samples: list[Sample], chosen: int | None) -> Sample:
    if chosen is None or not 0 <= chosen < len(samples):
        raise GenrefineError("there is no picture yet; make one first")
    return samples[chosen]
