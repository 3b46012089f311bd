"""The controls of a request: what to make, from which seed, how. They are read into an `Ask`."""

from dataclasses import fields, replace
from typing import Any

import gradio as gr

from genrefine.errors import GenrefineError
from genrefine.sampling.options import KERNELS, SWITCHING_KERNEL
from genrefine.studio.host import AS_TYPED, Ask, Host

ADAPTIVE, FIXED = "adaptive", "fixed"
NO_CLASS = "no class"
BUDGET_INFO = "Adaptive: the entropy of each sample decides how many steps it gets."


class What:
    """Controls that say what is to be made: a prompt with its style, or a class."""

    def __init__(self, host: Host) -> None:
        own = host.defaults()
        if host.class_names:
            self.what: Any = gr.Dropdown([*host.class_names, NO_CLASS], value=own.what, label="Class")
            self.style: Any = None
            return
        self.what = gr.Textbox(
            own.what, label="Prompt", lines=1, max_lines=4, max_length=host.limits.prompt_characters, autofocus=True
        )
        self.style = None
        if host.card.styles:
            self.style = gr.Dropdown(
                [AS_TYPED, *host.card.styles], value=own.style, label="Style", info="{} is where the prompt goes."
            )

    @property
    def parts(self) -> dict[str, Any]:
        """The controls by the name of their field."""
        named = {"what": self.what, "style": self.style}
        return {name: part for name, part in named.items() if part is not None}


class How:
    """Controls that say how it is made."""

    def __init__(self, host: Host, count: bool = True, negative: bool = True) -> None:
        own = host.defaults()
        self.parts: dict[str, Any] = {}
        with gr.Row():
            self.parts["seed"] = gr.Number(
                0, label="Seed", info="Empty: drawn.", precision=0, minimum=0, maximum=2**53, min_width=110
            )
            if count and host.limits.images > 1:
                self.parts["count"] = gr.Slider(1, host.limits.images, 1, step=1, label="Pictures", min_width=140)
        budgets = [ADAPTIVE, FIXED] if host.is_calibrated else [FIXED]
        with gr.Row():
            self.parts["adaptive"] = gr.Radio(
                budgets, value=budgets[0], label="Step budget", info=BUDGET_INFO if host.is_calibrated else None
            )
        self.parts["steps"] = gr.Slider(
            1, host.limits.steps, own.steps, step=1, label="Steps", visible=not own.adaptive
        )
        self.parts["adaptive"].change(
            lambda budget: gr.Slider(visible=budget == FIXED), self.parts["adaptive"], self.parts["steps"],
            queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        with gr.Accordion("Sampling", open=False):
            self.parts["guidance"] = gr.Slider(
                1, 10, own.guidance, step=0.1, label="Guidance", info="Weight of prompt or class; 1 is off."
            )
            self.parts["temperature"] = gr.Slider(
                0.1, 2, own.temperature, step=0.05, label="Temperature", info="Below 1 is safer, above more varied."
            )
            self.parts["kernel"] = gr.Dropdown(
                [name for name in KERNELS if name != SWITCHING_KERNEL], value=own.kernel, label="Kernel"
            )
            if negative and not host.class_names:
                self.parts["negative"] = gr.Textbox("", label="Negative prompt", info="What guidance leads away from.")
            self.parts["other"] = gr.Textbox(
                "", label="Other settings", info='JSON, such as {"schedule": "cosine"}.', max_length=500
            )


def ask_from(host: Host, names: list[str], values: list[Any]) -> Ask:
    """Return the request that controls say.

    Args:
        host: whose defaults stand for controls that are not there.
        names: fields of `Ask`, one per control.
        values: of the controls.

    Raises:
        GenrefineError: a seed that is no whole number of at least 0.
    """
    given = dict(zip(names, values, strict=True))
    if "adaptive" in given:
        given["adaptive"] = given["adaptive"] == ADAPTIVE
    if given.get("what") == NO_CLASS or given.get("what") is None:
        given["what"] = ""
    if (seed := given.get("seed")) is not None:
        if seed != int(seed) or not 0 <= seed <= 2**53:
            raise GenrefineError(f"a seed is a whole number from 0 on; got {seed}")
        given["seed"] = int(seed)
    for name in ("count", "steps", "frames"):
        if name in given:
            given[name] = int(given[name])
    return replace(host.defaults(), **{"style": AS_TYPED, **given})


def updates(ask: Ask, names: list[str], host: Host) -> list[Any]:
    """Return what the controls are to show for a request: the inverse of `ask_from`."""
    values = {part.name: getattr(ask, part.name) for part in fields(Ask)}
    values["adaptive"] = ADAPTIVE if ask.adaptive else FIXED
    values["steps"] = gr.Slider(value=min(ask.steps, host.limits.steps), visible=not ask.adaptive)
    if host.class_names and not ask.what:
        values["what"] = NO_CLASS
    return [values[name] for name in names]
