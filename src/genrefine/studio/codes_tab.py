"""Codes: what the tokenizer keeps of a picture, round by round, and what a single bit plane does."""

from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.evaluation.pixels import psnr
from genrefine.hbq import HBQ, to_bits, to_index
from genrefine.media.pixels import to_pil
from genrefine.pipelines.canvas import Canvas
from genrefine.studio.host import Host, enlarged
from genrefine.studio.making import Sample
from genrefine.studio.parts import MODEL, dropped, facts, picture_drop, told
from genrefine.studio.render import SIDE, error_map

MOST_ROUNDS = 8
NONE, ALL = "none", "all channels"
OWN, FULL = "the model's size", "its own size"


@torch.no_grad()
def through_codes(
    host: Host, picture: Image.Image, rounds: int, flipped: int = 0, channel: int | None = None, own_size: bool = False
) -> tuple[Image.Image, Image.Image, dict[str, str]]:
    """Return a picture as the tokenizer sees it, what its codes hold of it, and the numbers.

    Args:
        host: whose tokenizer it is.
        picture: of any size.
        rounds: of HBQ, which need not be those of the model.
        flipped: round whose bits are turned over, counted from 1; 0 for none.
        channel: latent channel whose bits are; None for all.
        own_size: work at the picture's own size, to the next whole position, in place of the model's.

    Raises:
        GenrefineError: rounds, a round or a channel that do not exist, or a picture beyond the limit of the page.
    """
    tokenizer = host.pipeline.visual_tokenizer
    if not 0 <= flipped <= rounds or (channel is not None and not 0 <= channel < tokenizer.latent_dim):
        raise GenrefineError(
            f"round {flipped} of channel {channel} does not exist; there are {rounds} rounds of "
            f"{tokenizer.latent_dim} channels"
        )
    size = host.pipeline.picture_size
    if own_size:
        stride = tokenizer.spatial_stride
        size = -(-picture.height // stride) * stride, -(-picture.width // stride) * stride
        host.limits.require("side", max(size))
    pixels = Canvas(picture, np.zeros(picture.size[::-1], dtype=bool), size).pixels()
    device, dtype = host.pipeline._execution_device, tokenizer.dtype
    latents = tokenizer.latents(pixels.to(device, dtype)).float()
    hbq = HBQ(rounds, "index")
    index = hbq.encode(latents)
    if flipped:
        bits = to_bits(index, rounds).unflatten(1, (rounds, -1))
        chosen = slice(None) if channel is None else slice(channel, channel + 1)
        bits[:, flipped - 1, chosen] = 1 - bits[:, flipped - 1, chosen]
        index = to_index(bits.flatten(1, 2), rounds)
    made = tokenizer.decode_latents(hbq.decode(index).to(dtype)).float().cpu()
    count, positions = index.numel() * rounds, index[0, 0].numel()
    own = " (the model's own)" if rounds == tokenizer.hbq.rounds else ""
    rows = {
        "PSNR": f"{min(float(psnr(made, pixels)[0]), 99.0):.2f} dB",
        "rounds": f"{rounds}{own}, error of a latent value at most {2.0**-rounds:g}",
        "codes": f"{positions} positions of {tokenizer.latent_dim} channels",
        "bits": f"{count:,}, {count / (size[0] * size[1]):.3f} a pixel",
        "size": f"{size[1]} x {size[0]} pixels",
    }
    if flipped:
        rows["turned over"] = f"round {flipped} of {'all channels' if channel is None else f'channel {channel}'}"
    return to_pil(pixels)[0], to_pil(made)[0], rows


class CodesTab:
    """The tab.

    Args:
        host: whose tokenizer it shows.
        opening: sample that is there when the page opens.
    """

    def __init__(self, host: Host, opening: Sample | None) -> None:
        self.host = host
        picture = opening.frames[0] if opening else None
        self.picture = gr.State(picture, time_to_live=3600)
        channels = host.pipeline.visual_tokenizer.latent_dim
        own = host.pipeline.visual_tokenizer.hbq.rounds
        shown = self._show(picture, own, 0, ALL, OWN) if picture else [None, None, None, ""]
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                self.drop = picture_drop(label="Any picture", height=190, elem_id="codes-drop")
                self.take = gr.Button("Take the one from Make", size="sm", elem_id="codes-take")
                self.rounds = gr.Slider(
                    1, MOST_ROUNDS, min(own, MOST_ROUNDS), step=1, label="Rounds of HBQ",
                    info=f"The model has {own}; each round halves the error of a latent value.", elem_id="codes-rounds",
                )  # fmt: skip
                self.flip = gr.Slider(
                    0, MOST_ROUNDS, 0, step=1, label="Turn the bits of a round over", info="0 for none.",
                    elem_id="codes-flip",
                )  # fmt: skip
                self.channel = gr.Dropdown(
                    [ALL, *map(str, range(channels))], value=ALL, label="Of latent channel", elem_id="codes-channel"
                )
                self.size = gr.Radio([OWN, FULL], value=OWN, label="Work at", elem_id="codes-size")
            with gr.Column(scale=4, min_width=300):
                with gr.Row():
                    self.panels = [
                        gr.Image(
                            value, label=label, interactive=False, buttons=[], height=300, min_width=180, elem_id=key
                        )
                        for value, label, key in zip(
                            shown[:3],
                            ("Picture", "What its codes hold", "Error, four times"),
                            ("codes-picture", "codes-made", "codes-error"),
                            strict=True,
                        )
                    ]
                self.facts = gr.HTML(shown[3], elem_id="codes-facts")

    def wire(self, samples: Any, chosen: Any) -> None:
        """Connect the controls; `samples` and `chosen` are the states of Make."""
        given = [self.rounds, self.flip, self.channel, self.size]
        shown = [*self.panels, self.facts]
        show = told(self._show)
        for slider in (self.rounds, self.flip):
            slider.input(show, [self.picture, *given], shown, trigger_mode="always_last", **MODEL)
        for choice in (self.channel, self.size):
            choice.input(show, [self.picture, *given], shown, **MODEL)
        self.drop.upload(told(self._drop), [self.drop, *given], [self.picture, *shown], **MODEL)
        self.take.click(told(self._take), [samples, chosen, *given], [self.picture, *shown], **MODEL)

    def _show(self, picture: Image.Image | None, rounds: float, flip: float, channel: str, size: str) -> list[Any]:
        if picture is None:
            raise GenrefineError("drop a picture first, or take one from Make")
        one = None if channel == ALL else int(channel)
        seen, made, rows = through_codes(self.host, picture, int(rounds), int(flip), one, size == FULL)
        views = [enlarged(view, SIDE) for view in (seen, made, error_map(made, seen))]
        return [*views, facts(rows)]

    def _drop(self, path: str | None, *given: Any) -> list[Any]:
        picture = dropped(path, self.host.limits)
        return [picture, *self._show(picture, *given)]

    def _take(self, samples: list[Sample], chosen: int | None, *given: Any) -> list[Any]:
        if not samples or chosen is None:
            raise GenrefineError("Make holds no picture yet")
        return [samples[chosen].frames[0], *self._show(samples[chosen].frames[0], *given)]
