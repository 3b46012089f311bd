"""Clips: made from a prompt, begun with a picture, played and looked at frame by frame."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.pipelines.text_request import cover
from genrefine.studio.controls import How, What, ask_from
from genrefine.studio.host import Host, enlarged
from genrefine.studio.make_tab import sheet, tell, write
from genrefine.studio.making import Sample, Stop, make
from genrefine.studio.parts import QUICK, SMALL, begin, dropped, picture_drop, told
from genrefine.studio.render import SIDE, quiet_line


class ClipsTab:
    """The tab.

    Args:
        host: whose model makes clips.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.clip, self.start = gr.State(None, time_to_live=3600), gr.State(None, time_to_live=3600)
        self.asked = gr.State(Stop(), time_to_live=3600)
        choices = host.frame_choices
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.what = What(host)
                self.frames = gr.Dropdown(choices, value=choices[min(3, len(choices) - 1)], label="Frames")
                if host.is_first_frame_taken:
                    with gr.Row():
                        self.first: Any = picture_drop(label="First frame, if any", height=170, elem_id="clips-first")
                        with gr.Column(min_width=140):
                            self.take: Any = gr.Button("Take the one from Make", size="sm", elem_id="clips-take")
                            self.forget: Any = gr.Button("Without a first frame", size="sm", elem_id="clips-forget")
                else:
                    self.first = self.take = self.forget = None
                self.how = How(host, count=False)
                with gr.Row():
                    self.go = gr.Button("Make a clip", variant="primary", elem_id="clips-go")
                    self.stop = gr.Button("Stop", elem_id="clips-stop")
                self.line = gr.HTML(quiet_line("ready"), elem_id="clips-line")
            with gr.Column(scale=3, min_width=300):
                self.video = gr.Video(
                    label="Clip", interactive=False, autoplay=True, loop=True, height=340, buttons=[],
                    elem_id="clips-video",
                )  # fmt: skip
                self.scrub = gr.Slider(1, max(choices[0], 2), 1, step=1, label="Frame", elem_id="clips-scrub")
                self.frame = gr.Image(
                    label="In mind, and frame by frame",
                    interactive=False,
                    height=300,
                    buttons=[],
                    elem_id="clips-frame",
                )
                self.save = gr.DownloadButton("Download", size="sm", elem_id="clips-download")

    def wire(self, samples: Any, chosen: Any) -> None:
        """Connect the controls; `samples` and `chosen` are the states of Make."""
        parts = {**self.what.parts, **self.how.parts, "frames": self.frames}
        self.names = list(parts)
        shown = [self.line, self.frame, self.video, self.clip, self.scrub, self.save]
        begin(self.go.click, told(self._make), self.asked, [self.asked, self.start, *parts.values()], shown)
        self.stop.click(Stop.ask, self.asked, None, **QUICK)
        self.scrub.input(self._scrub, [self.clip, self.scrub], [self.frame], trigger_mode="always_last", **QUICK)
        if self.first is not None:
            self.first.upload(told(self._drop), [self.first], [self.start, self.line, self.frame], **SMALL)
            self.first.clear(self._forget, None, [self.first, self.start, self.line, self.frame], **SMALL)
            self.take.click(told(self._take), [samples, chosen], [self.start, self.line, self.frame], **SMALL)
            self.forget.click(self._forget, None, [self.first, self.start, self.line, self.frame], **SMALL)

    def _begin(self, picture: Image.Image) -> list[Any]:
        height, width = self.host.pipeline.picture_size
        fitting = picture if picture.size == (width, height) else cover(picture, width, height)
        return [fitting, quiet_line("the clip begins with this picture"), enlarged(fitting, SIDE)]

    def _drop(self, path: str | None) -> list[Any]:
        picture = dropped(path, self.host.limits)
        if picture is None:
            raise GenrefineError("drop a picture first")
        return self._begin(picture)

    def _take(self, samples: list[Sample], chosen: int | None) -> list[Any]:
        if not samples or chosen is None:
            raise GenrefineError("Make holds no picture yet")
        return self._begin(samples[chosen].frames[0])

    def _forget(self) -> list[Any]:
        return [None, None, quiet_line("the clip begins with nothing"), None]

    def _make(self, stop: Stop, start: Image.Image | None, *values: Any) -> Iterator[Any]:
        ask, skip = ask_from(self.host, self.names, list(values)), gr.skip()
        given = {} if start is None else {"first_frame": start}
        for progress in make(self.host, ask, stop, **given):
            if progress.samples is None:
                view = sheet(progress.clips, SIDE) if progress.clips and any(progress.clips) else skip
                yield tell(progress), view, skip, skip, skip, skip
                continue
            clip = progress.samples[0]
            path = write(clip, self.host.pipeline.frames_per_second)
            words = f"{len(clip.frames)} frames in {progress.seconds:.1f} s, seed {clip.ask.seed}"
            scrub = gr.Slider(maximum=len(clip.frames), value=1)
            yield quiet_line(words), enlarged(clip.frames[0], SIDE), path, clip.frames, scrub, path

    def _scrub(self, frames: list[Image.Image] | None, number: float) -> Any:
        if not frames:
            return None
        return np.asarray(enlarged(frames[min(max(int(number), 1), len(frames)) - 1], SIDE))
