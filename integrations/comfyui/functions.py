"""What the nodes do, on ComfyUI's tensors and without ComfyUI: pictures are "batch height width 3" in [0, 1].

A mask is "batch height width" in [0, 1], 1 where to paint anew. A clip is a batch of its frames.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import genrefine
from genrefine.pipelines import change_map, inspect, surprise_map
from genrefine.studio.render import show_entropy, show_fates, show_picture

Progress = Callable[[int, int, Image.Image | None], None]


@lru_cache(maxsize=2)
def load(model: str, device: str = "cpu", dtype: str = "float32") -> Any:
    """Return a pipeline; the latest two stay loaded.

    Args:
        model: folder, shipped model, or "org/name" on the hub.
        device: "cpu", "cuda", "mps".
        dtype: number format of the networks.
    """
    pipe = genrefine.load(model, dtype=getattr(torch, dtype)).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sampling(pipe: Any, adaptive: bool, steps: int, guidance: float, temperature: float) -> dict[str, Any]:
    """Return sampling arguments; 0 stands for what is saved with the model.

    Args:
        pipe: the model.
        adaptive: let the entropy decide the steps, in place of `steps`.
        steps, guidance, temperature: of the call.
    """
    given: dict[str, Any] = {"guidance_scale": guidance or None, "temperature": temperature or None}
    budget = {"adaptive": True} if adaptive else {"num_inference_steps": steps or None}
    return {name: value for name, value in {**given, **budget}.items() if value is not None}


def make(
    pipe: Any,
    prompt: str,
    seed: int,
    count: int = 1,
    frames: int = 1,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[Tensor, str]:
    """Return pictures, or the frames of one clip, and a line about how they came about.

    Args:
        pipe: the model.
        prompt: or class name.
        seed: of the first sample.
        count: samples; a clip is one.
        frames: 1 for stills.
        progress: told after every step.
        settings: further arguments of the pipeline.
    """
    if frames > 1:
        settings, count = {**settings, "num_frames": frames}, 1
    told = {} if progress is None else {"callback_on_step_end": _telling(progress)}
    made = pipe(prompt or None, seed=seed, num_images_per_prompt=count, **settings, **told)
    pictures = made.frames[0] if frames > 1 else made.images
    line = f"seeds {made.seeds}, {made.num_steps} steps, {made.num_evaluations} evaluations"
    return from_pictures(pictures), line


def edit(
    pipe: Any,
    images: Tensor,
    prompt: str,
    seed: int,
    mask: Tensor | None = None,
    strength: float = 1.0,
    outpaint: Sequence[int] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Tensor:
    """Return edited pictures, each from its own mask.

    Args:
        pipe: the model.
        images: to edit, "batch height width 3".
        prompt: or class name: what they are to show.
        seed: of the first one.
        mask: "batch height width" or "1 height width", 1 where to paint anew; None for everything.
        strength: 1 paints from nothing.
        outpaint: pixels to add left, above, right and below.
        progress: told after every step.
        settings: further arguments of the pipeline.
    """
    pictures = to_pictures(images)
    given: dict[str, Any] = {"image": pictures, "strength": strength}
    if mask is not None:
        masks = [to_mask(one) for one in (mask if mask.ndim == 3 else mask[None])]
        given["mask_image"] = masks * len(pictures) if len(masks) == 1 else masks
    if outpaint is not None and any(outpaint):
        given["outpaint"] = tuple(outpaint)
    told = {} if progress is None else {"callback_on_step_end": _telling(progress)}
    prompts = [prompt or None if hasattr(pipe, "class_names") else prompt] * len(pictures)
    return from_pictures(pipe(prompts, seed=seed, **given, **settings, **told).images)


def find(pipe: Any, images: Tensor, old: str, new: str, share: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return where a prompt would change pictures: masks, and the maps that they are read off, as pictures.

    Args:
        pipe: the model.
        images: "batch height width 3".
        old: what they show; empty looks for what the model finds unlikely under `new` instead.
        new: what they are to show.
        share: of each picture that the mask takes; 0 lets the map decide.
    """
    masks, maps = [], []
    for picture in to_pictures(images):
        found = change_map(pipe, picture, old, new) if old else surprise_map(pipe, picture, new or None)
        marked: Any = found.mask(share=share or None)
        masks.append(torch.from_numpy(np.asarray(marked) >= 128).float())
        shown: Any = found.picture()
        maps.append(shown.convert("RGB"))
    return torch.stack(masks), from_pictures(maps)


def look(
    pipe: Any, prompt: str, seed: int, progress: Progress | None = None, **settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one picture per step of three kinds: the picture in mind, what became of the codes, their entropy.

    Args:
        pipe: the model.
        prompt: or class name.
        seed: of the sample.
        progress: told after every step.
        settings: further arguments of the pipeline.
    """
    kinds: tuple[list[Image.Image], ...] = ([], [], [])
    for step in inspect(pipe, prompt or None, seed=seed, **settings):
        for pictures, show in zip(kinds, (show_picture, show_fates, show_entropy), strict=True):
            pictures.append(show(step))
        if progress is not None:
            progress(step.index + 1, step.num_steps or step.index + 2, step.pictures[0])
    first, second, third = (from_pictures(pictures) for pictures in kinds)
    return first, second, third


def _telling(progress: Progress) -> Callable[..., None]:
    """Return a callback that passes on how far a call is."""

    def told(pipe: Any, step: int, signal: float, tensors: dict[str, Any]) -> None:
        progress(step + 1, max(pipe.num_timesteps, step + 1), None)

    return told


def from_pictures(pictures: Sequence[Image.Image]) -> Tensor:
    """Return pictures of one size as "batch height width 3" in [0, 1]."""
    levels = np.stack([np.asarray(one.convert("RGB")) for one in pictures])
    return torch.from_numpy(levels).float() / 255


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Return "batch height width channels" in [0, 1] as pictures; what is beyond three channels is left out."""
    levels = (images[..., :3].detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(np.ascontiguousarray(one.numpy())) for one in levels]


def to_mask(mask: Tensor) -> Image.Image:
    """Return "height width" in [0, 1] as a picture, white from one half on."""
    return Image.fromarray((mask.detach().cpu().numpy() >= 0.5).astype(np.uint8) * 255)
