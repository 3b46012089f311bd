"""The model behind the page: requests with limits, the records that go with a sample, what its card offers.

Nothing here knows of the page, so that notebooks and other programs can use it and tests need no browser.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.media.writing import read_png_metadata
from genrefine.pipelines import ClassPipeline, TextPipeline
from genrefine.sampling.options import OPTIONS, SWITCHING_KERNEL
from genrefine.studio.limits import Limits

AS_TYPED = "as typed"
_CONTROLLED = {"num_inference_steps", "guidance_scale"}
"""Options whose control has another name in `Ask`."""


@dataclass(frozen=True)
class Card:
    """What a model's card offers for the page.

    Args:
        prompts: examples, the first of which opens the page.
        styles: prompts with `{}` in the place of what is to be shown.
    """

    prompts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)


def read_card(folder: Path | None) -> Card:
    """Read `widget` and `styles` from the front matter of a folder's README.md; nothing where there is none."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if folder is None or not (folder / "README.md").is_file():
        return Card()
    try:
        data: Any = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict()
    except (ValueError, OSError, TypeError, YAMLError):
        return Card()
    widget, styles = data.get("widget"), data.get("styles")
    examples, patterns = (one if isinstance(one, list) else [] for one in (widget, styles))
    prompts = [one["text"] for one in examples if isinstance(one, dict) and isinstance(one.get("text"), str)]
    return Card(prompts, [one for one in patterns if isinstance(one, str) and one.count("{}") == 1])


@dataclass(frozen=True)
class Ask:
    """One request, as the controls of the page say it.

    Args:
        what: a prompt, or the name of a class.
        style: of the card, or `AS_TYPED`.
        negative: what guidance leads away from.
        seed: of the first sample; None draws one.
        count: samples.
        adaptive: let the entropy decide the steps.
        steps: refinements of a fixed budget.
        guidance: scale.
        temperature: divides the logits.
        kernel: from state to state.
        frames: of a clip; 1 for a still.
        other: further sampling options as JSON.
    """

    what: str = ""
    style: str = AS_TYPED
    negative: str = ""
    seed: int | None = None
    count: int = 1
    adaptive: bool = False
    steps: int = 50
    guidance: float = 1.0
    temperature: float = 1.0
    kernel: str = "refresh"
    frames: int = 1
    other: str = ""


class Host:
    """A pipeline and what may be asked of it.

    Args:
        pipeline: makes the samples.
        name: of the model; of a folder its last part is kept.
        limits: of a request.
        card: examples and styles.
    """

    def __init__(
        self, pipeline: ClassPipeline | TextPipeline, name: str, limits: Limits, card: Card | None = None
    ) -> None:
        self.pipeline, self.limits, self.card = pipeline, limits, card or Card()
        self.name = Path(name).name if Path(name).is_dir() else name  # visitors learn no paths of this machine
        pipeline.set_progress_bar_config(disable=True)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; none for a model of prompts."""
        return self.pipeline.class_names if isinstance(self.pipeline, ClassPipeline) else []

    @property
    def is_calibrated(self) -> bool:
        """Whether the entropy can decide the steps."""
        return self.pipeline.sampler.config.entropy_steps is not None

    @property
    def frame_choices(self) -> list[int]:
        """Frames that a clip can have; none for a model of stills."""
        stride = self.pipeline.visual_tokenizer.temporal_stride
        if self.class_names or stride == 1:
            return []
        return list(range(1 + stride, self.limits.frames + 1, stride))

    @property
    def is_first_frame_taken(self) -> bool:
        """Whether a clip can begin with a given picture."""
        return bool(self.frame_choices) and self.pipeline.refiner.config.attention != "prefix"

    def defaults(self) -> Ask:
        """Return what the model's own settings would do, of the card's first example."""
        saved = self.pipeline.sampler.options()
        what, style = self.parted((self.card.prompts or [""])[0])
        return Ask(
            what=self.class_names[0] if self.class_names else what,
            style=style,
            adaptive=self.is_calibrated,
            steps=min(saved.num_inference_steps, self.limits.steps),
            guidance=saved.guidance_scale,
            temperature=saved.temperature,
            kernel=saved.kernel if saved.kernel != SWITCHING_KERNEL else "refresh",
        )

    def parted(self, prompt: str) -> tuple[str, str]:
        """Return what a prompt shows and its style, the first of the card that fits; else `AS_TYPED`."""
        for style in self.card.styles:
            before, after = style.split("{}")
            if prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before + after):
                return prompt[len(before) : len(prompt) - len(after)], style
        return prompt, AS_TYPED

    def prompt(self, ask: Ask) -> str | None:
        """Return the prompt or class name in full; None for no class.

        Raises:
            GenrefineError: a prompt beyond the limit, or a style without a place for it.
        """
        self.limits.require("prompt_characters", max(len(ask.what or ""), len(ask.negative or "")))
        if self.class_names:
            return ask.what or None
        what = (ask.what or "").strip()
        if ask.style in (None, "", AS_TYPED):
            return what
        if ask.style.count("{}") != 1 or len(ask.style) > self.limits.prompt_characters:
            raise GenrefineError(f"a style has {{}} once, in the place of the prompt; got {ask.style[:100]!r}")
        return ask.style.replace("{}", what)

    def arguments(self, ask: Ask) -> dict[str, Any]:
        """Return arguments of `prepare`, within the limits.

        Raises:
            GenrefineError: a limit is passed, or the model is not calibrated.
        """
        for name, value in (("images", ask.count), ("frames", ask.frames)):
            self.limits.require(name, value)
        budget = self.pipeline.sampler.settings(self.pipeline.sampler.options(adaptive=True)) if ask.adaptive else None
        self.limits.require("steps", budget.steps.max_steps if budget else int(ask.steps))
        given: dict[str, Any] = {
            "seed": ask.seed,
            "num_images_per_prompt": ask.count,
            "guidance_scale": float(ask.guidance) if ask.what.strip() else 1.0,
            "temperature": float(ask.temperature),
            "kernel": ask.kernel,
            **({"adaptive": True} if ask.adaptive else {"num_inference_steps": int(ask.steps)}),
            **_other_options(ask.other),
        }
        if not self.class_names:
            given |= {"negative_prompt": (ask.negative or "").strip(), "num_frames": ask.frames}
        return given

    def prepare(self, ask: Ask, **edit: Any) -> Any:
        """Return the request of the pipeline; `edit` holds image, mask_image and the like.

        Raises:
            GenrefineError: as `arguments` and the pipeline's `prepare`.
        """
        return self.pipeline.prepare(self.prompt(ask), **{**self.arguments(ask), **edit})

    def notes(self, request: Any, row: int, num_steps: int, num_evaluations: int, entropy: list[float]) -> Any:
        """Return what is kept beside a sample, as `genrefine generate` keeps it."""
        return {
            "model": self.name,
            "settings": request.settings,
            "class_labels" if self.class_names else "prompts": [request.labels[row]],
            "seeds": [request.seeds[row]],
            "num_steps": [num_steps],
            "num_evaluations": [num_evaluations],
            "entropy": [entropy],
        }


def ask_of(path: str | Path, host: Host) -> tuple[Ask, str]:
    """Return the request that a PNG of ours carries, and a line about what it does not say.

    Args:
        path: of the picture.
        host: whose defaults fill in what is not said.

    Raises:
        GenrefineError: it is no picture of ours, or its settings make no sense.
    """
    try:
        notes = read_png_metadata(path)
        settings = notes["settings"]
        labels = notes.get("class_labels") if host.class_names else notes.get("prompts")
        own, options = host.defaults(), host.pipeline.sampler.options()
        saved = {name: _plain(getattr(options, name)) for name in _OTHER}
        if labels is None:
            raise GenrefineError("this picture is of the other kind of model: classes or prompts; restart with --model")
        ask = Ask(
            what=str(labels[0] or ""),
            negative=str(settings.get("negative_prompt") or ""),
            seed=int(notes["seeds"][0]),
            adaptive=bool(settings.get("adaptive", False)),
            steps=int(settings.get("num_inference_steps", own.steps)),
            guidance=float(settings.get("guidance_scale", own.guidance)),
            temperature=float(settings.get("temperature", own.temperature)),
            kernel=str(settings.get("kernel", own.kernel)),
            frames=int(settings.get("num_frames", 1)),
            other=json.dumps(
                {name: settings[name] for name in _OTHER if settings.get(name, saved[name]) != saved[name]}
            ),
        )
    except (KeyError, TypeError, ValueError, IndexError, json.JSONDecodeError) as error:
        if isinstance(error, GenrefineError):
            raise
        raise GenrefineError(
            "the settings in this picture cannot be read; it was changed by another program"
        ) from error
    model = str(notes.get("model"))
    said = [f"made by '{model}'" if host.name not in (model, Path(model).name) else ""]
    said += ["an edit: its picture is not in the file" if "strength" in settings else ""]
    return ask, "; ".join(word for word in said if word)


def _other_options(text: str) -> dict[str, Any]:
    if not (text or "").strip():
        return {}
    try:
        given: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise GenrefineError(f'other settings are JSON such as {{"schedule": "cosine"}}; got {text[:80]!r}') from error
    if not isinstance(given, dict) or not set(given) <= set(_OTHER):
        raise GenrefineError(f"other settings name some of {', '.join(_OTHER)}; got {text[:80]!r}")
    return given


_OTHER = tuple(name for name in OPTIONS if name not in {part.name for part in fields(Ask)} | _CONTROLLED)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def enlarged(picture: Image.Image, side: int, smooth: bool = True) -> Image.Image:
    """Return a picture scaled so that its longer side is near `side`: what is small is shown large."""
    factor = side / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    how = Image.Resampling.LANCZOS if smooth or factor < 1 else Image.Resampling.NEAREST
    return picture.resize(size, how)
