"""Edit: drop a picture, paint a part, say what it is to show; or let the model find what a prompt would change."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.pipelines import CodeMap, change_map, surprise_map
from genrefine.studio.controls import NO_CLASS, How, What, ask_from
from genrefine.studio.host import Host, enlarged
from genrefine.studio.make_tab import described, sheet, tell, write
from genrefine.studio.making import Sample, Stop, make
from genrefine.studio.parts import MODEL, QUICK, SMALL, begin, dropped, picture_drop, told
from genrefine.studio.render import overlay, quiet_line

EDITOR_SIDE = 512
"""Pixels of the longer side of what is painted on; the mask is brought to the picture's own size."""
PAINTED, CHANGED, MENDED, WHOLE = "what I paint", "what the prompt changes", "what looks damaged", "the whole picture"
WAYS = [PAINTED, CHANGED, MENDED, WHOLE]


def canvas_of(picture: Image.Image | None) -> Any:
    """Return what the editor shows of a picture."""
    if picture is None:
        return None
    return {"background": enlarged(picture, EDITOR_SIDE), "layers": [], "composite": None}


def painted_mask(editor: Any, size: tuple[int, int]) -> Image.Image | None:
    """Return what was painted, at the size of the picture; None where nothing was.

    Args:
        editor: value of the editor.
        size: width and height of the picture.
    """
    layers = [np.asarray(layer.convert("RGBA"))[..., 3] for layer in (editor or {}).get("layers") or []]
    marked = [layer for layer in layers if (layer > 127).any()]
    if not marked:
        return None
    whole = np.max(np.stack([layer > 127 for layer in marked]), axis=0)
    box = Image.fromarray(whole.astype(np.uint8) * 255)
    return box.resize(size, Image.Resampling.BOX).point(lambda level: 255 if level else 0)


class EditTab:
    """The tab.

    Args:
        host: whose model edits.
        opening: sample that is there when the page opens.
    """

    def __init__(self, host: Host, opening: Sample | None) -> None:
        self.host = host
        picture = opening.frames[0] if opening else None
        self.picture, self.found = gr.State(picture, time_to_live=3600), gr.State(None, time_to_live=3600)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=300):
                self.editor = gr.ImageEditor(
                    canvas_of(picture), label="Picture: paint what is to change", type="pil", layers=False,
                    sources=("clipboard",), transforms=(),
                    brush=gr.Brush(default_size=48, colors=["#ffffff"], color_mode="fixed"),
                    eraser=gr.Eraser(default_size=48), height=470, buttons=[], elem_id="edit-editor",
                )  # fmt: skip
                with gr.Row():
                    self.drop = picture_drop(label="Another picture", height=150, elem_id="edit-drop")
                    with gr.Column(min_width=140):
                        self.take = gr.Button("Take the one from Make", size="sm", elem_id="edit-take")
                        self.onward = gr.Button("Go on from the result", size="sm", elem_id="edit-onward")
                with gr.Row(equal_height=False):
                    self.slider = gr.ImageSlider(
                        label="Before and after", interactive=False, height=340, buttons=[], elem_id="edit-slider"
                    )
                    with gr.Column(min_width=260):
                        self.result = gr.Image(
                            label="Result", interactive=False, height=340, buttons=["fullscreen"], elem_id="edit-result"
                        )
                        self.save = gr.DownloadButton("Download", size="sm", elem_id="edit-download")
                self.details = gr.HTML("", elem_id="edit-details")
            with gr.Column(scale=2, min_width=300):
                self.what = What(host)
                self.way = gr.Radio(WAYS, value=PAINTED, label="Change", elem_id="edit-way")
                with gr.Group(visible=False) as self.map_group:
                    if host.class_names:
                        self.old: Any = gr.Dropdown([*host.class_names, NO_CLASS], value=NO_CLASS, label="It shows now")
                    else:
                        self.old = gr.Textbox(
                            opening.prompt if opening else "", label="It shows now", info="The prompt of the picture.",
                            max_length=host.limits.prompt_characters,
                        )  # fmt: skip
                    self.look = gr.Button("Show what would change", size="sm", elem_id="edit-look")
                    self.share = gr.Slider(
                        0, 100, 50, step=1, label="Share of the picture that changes, %", elem_id="edit-share"
                    )
                    self.map = gr.Image(
                        label="Found by the model: red changes", interactive=False, height=260, buttons=[],
                        elem_id="edit-map",
                    )  # fmt: skip
                with gr.Row():
                    self.go = gr.Button("Edit", variant="primary", elem_id="edit-go")
                    self.stop = gr.Button("Stop", elem_id="edit-stop")
                self.line = gr.HTML(quiet_line("ready"), elem_id="edit-line")
                self.strength = gr.Slider(
                    0, 1, 1, step=0.05, label="Strength", info="1 paints from nothing, less begins with the picture."
                )
                with gr.Accordion("Let it grow", open=False), gr.Row():
                    self.sides = [
                        gr.Number(0, label=f"{side}, pixels", precision=0, minimum=0, min_width=90)
                        for side in ("Left", "Top", "Right", "Bottom")
                    ]
                self.blend = gr.Checkbox(True, label="Keep the picture's own pixels elsewhere")
                self.how = How(host)
        self.last, self.asked = gr.State(None, time_to_live=3600), gr.State(Stop(), time_to_live=3600)

    def wire(self, samples: Any, chosen: Any) -> None:
        """Connect the controls; `samples` and `chosen` are the states of Make."""
        parts = {**self.what.parts, **self.how.parts}
        self.names = list(parts)
        fresh = [self.picture, self.editor, self.found, self.map, self.line]
        self.drop.upload(told(self._drop), [self.drop], fresh, **SMALL)
        self.take.click(told(self._take), [samples, chosen], [*fresh, self.old], **SMALL)
        self.onward.click(told(self._onward), [self.last], fresh, **SMALL)
        self.way.change(self._choose_way, [self.way], [self.map_group, self.old, self.strength], **SMALL)
        words = [self.way, self.old, *self.what.parts.values()]
        self.look.click(
            told(self._look), [self.picture, *words], [self.found, self.map, self.share, self.line], **MODEL
        )
        over = [self.picture, self.found, self.share]
        self.share.input(told(self._overlay), over, [self.map], trigger_mode="always_last", **SMALL)
        given = [self.picture, self.editor, self.found, self.way, self.old, self.share, self.strength, self.blend]
        shown = [self.line, self.result, self.slider, self.last, self.details, self.save]
        begin(self.go.click, told(self._edit), self.asked, [self.asked, *given, *self.sides, *parts.values()], shown)
        self.stop.click(Stop.ask, self.asked, None, **QUICK)
        for control in (self.way, self.old, *self.what.parts.values()):
            control.change(lambda: (None, None), None, [self.found, self.map], **QUICK)

    def _fresh(self, picture: Image.Image, words: str) -> list[Any]:
        return [picture, canvas_of(picture), None, None, quiet_line(words)]

    def _drop(self, path: str | None) -> list[Any]:
        picture = dropped(path, self.host.limits)
        if picture is None:
            raise GenrefineError("drop a picture first")
        return self._fresh(picture, f"{picture.width} x {picture.height} pixels")

    def _take(self, samples: list[Sample], chosen: int | None) -> list[Any]:
        if not samples or chosen is None:
            raise GenrefineError("Make holds no picture yet")
        sample = samples[chosen]
        old = (sample.prompt or NO_CLASS) if self.host.class_names else sample.prompt
        return [*self._fresh(sample.frames[0], sample.caption), old]

    def _onward(self, last: Sample | None) -> list[Any]:
        if last is None:
            raise GenrefineError("there is no result yet; edit first")
        return self._fresh(last.frames[0], "the result is the picture now")

    def _choose_way(self, way: str) -> Any:
        strength = gr.Slider(value=0.6 if way == WHOLE else 1.0)
        return gr.Group(visible=way in (CHANGED, MENDED)), gr.update(visible=way == CHANGED), strength

    def _find(self, picture: Image.Image, way: str, old: str, new: str | None) -> CodeMap:
        if way == MENDED:
            return surprise_map(self.host.pipeline, picture, new)
        self.host.limits.require("prompt_characters", len(old or ""))
        before = None if old in (None, NO_CLASS) and self.host.class_names else old
        if before == new:
            raise GenrefineError("both say the same, so nothing would change; say what it shows now, and what it is to")
        return change_map(self.host.pipeline, picture, before, new)

    def _look(self, picture: Image.Image | None, way: str, old: str, *words: Any) -> Any:
        picture = _there(picture)
        new = self.host.prompt(ask_from(self.host, list(self.what.parts), list(words)))
        found = self._find(picture, way, old, new)
        share = float(found.above().float().mean())
        line = quiet_line(f"the model parts the picture at {found.threshold:.3f} nats per code: {share:.0%} of it")
        return found, self._shown(picture, found, share), round(share * 100), line

    def _overlay(self, picture: Image.Image | None, found: CodeMap | None, share: float) -> Any:
        return None if found is None else self._shown(_there(picture), found, share / 100)

    def _shown(self, picture: Image.Image, found: CodeMap, share: float) -> Image.Image:
        grey, mask = found.picture(), found.mask(share=share)
        if isinstance(grey, list) or isinstance(mask, list):
            raise TypeError("a map of one picture has one mask")
        return overlay(picture, grey, mask)

    def _edit(
        self, stop: Stop, picture: Image.Image | None, editor: Any, found: CodeMap | None, way: str, old: str,
        share: float, strength: float, blend: bool, left: Any, top: Any, right: Any, bottom: Any, *values: Any,
    ) -> Iterator[Any]:  # fmt: skip
        picture = _there(picture)
        ask = ask_from(self.host, self.names, list(values))
        margins = [int(side or 0) for side in (left, top, right, bottom)]
        edit: dict[str, Any] = {"image": picture, "strength": float(strength), "blend": bool(blend)}
        if any(margins):
            grown = max(picture.width + margins[0] + margins[2], picture.height + margins[1] + margins[3])
            if min(margins) >= 0:
                self.host.limits.require("side", grown)
            edit["outpaint"] = margins
        if way == PAINTED:
            edit["mask_image"] = painted_mask(editor, picture.size)
            if edit["mask_image"] is None and not any(margins):
                raise GenrefineError("nothing is painted, so nothing would change; paint white over what is to change")
        elif way != WHOLE:
            if found is None:  # nobody has looked: the model's own threshold
                edit["mask_image"] = self._find(picture, way, old, self.host.prompt(ask)).mask()
            else:
                edit["mask_image"] = found.mask(share=share / 100)
        skip = gr.skip()
        for progress in make(self.host, ask, stop, **edit):
            if progress.samples is None:
                view = sheet(progress.clips) if progress.clips and any(progress.clips) else skip
                yield tell(progress), view, skip, skip, skip, skip
                continue
            first = progress.samples[0]
            made = enlarged(first.frames[0], EDITOR_SIDE)
            before = enlarged(picture, EDITOR_SIDE)
            if first.frames[0].size != picture.size:  # with margins: the picture where it was
                before = _placed(picture, margins, made.size)
            words = f"{len(progress.samples)} made in {progress.seconds:.1f} s, seed {first.ask.seed}"
            view = sheet([one.frames for one in progress.samples])
            yield quiet_line(words), view, (before, made), first, described(first), write(first)


def _placed(picture: Image.Image, margins: list[int], size: tuple[int, int]) -> Image.Image:
    """Return a picture within its margins, enlarged to a size."""
    left, top, right, bottom = margins
    whole = Image.new("RGB", (picture.width + left + right, picture.height + top + bottom), (235, 233, 227))
    whole.paste(picture, (left, top))
    return whole.resize(size, Image.Resampling.LANCZOS)


def _there(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        raise GenrefineError("there is no picture yet; drop one, or take one from Make")
    return picture
