"""The nodes: names, inputs and outputs in ComfyUI's V3 interface; `functions` does the work."""

from typing import Any

from comfy_api.latest import ComfyAPISync, ComfyExtension, io
from PIL import Image

from . import functions

Pipeline = io.Custom("GENREFINE_PIPELINE")
CATEGORY = "genrefine"
SAVED = "0 takes what is saved with the model"


def _sampling_inputs() -> list[Any]:
    return [
        io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=True),
        io.Boolean.Input("adaptive", default=True, tooltip="let the entropy of the picture decide its steps"),
        io.Int.Input("steps", default=0, min=0, max=1000, tooltip=f"of a fixed budget; {SAVED}"),
        io.Float.Input("guidance", default=0.0, min=0.0, max=20.0, step=0.1, tooltip=SAVED),
        io.Float.Input("temperature", default=0.0, min=0.0, max=5.0, step=0.05, tooltip=SAVED),
    ]


def _tell(done: int, total: int, picture: Image.Image | None) -> None:
    ComfyAPISync().execution.set_progress(done, total, preview_image=picture)


class GenrefineLoad(io.ComfyNode):
    """Load a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what the node takes and gives."""
        return io.Schema(
            node_id="GenrefineLoad",
            display_name="Load refinement model",
            category=CATEGORY,
            description="A model folder, a shipped model (emoji, emoji-class) or org/name on the hub.",
            inputs=[
                io.String.Input("model", default="emoji"),
                io.Combo.Input("device", options=["cpu", "cuda", "mps"], default="cpu"),
                io.Combo.Input("dtype", options=["float32", "bfloat16", "float16"], default="float32"),
            ],
            outputs=[Pipeline.Output(display_name="pipeline")],
        )

    @classmethod
    def execute(cls, model: str, device: str, dtype: str) -> io.NodeOutput:
        """Load it, or return the one that is loaded."""
        return io.NodeOutput(functions.load(model, device, dtype))


class GenrefineMake(io.ComfyNode):
    """Make pictures or a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what the node takes and gives."""
        return io.Schema(
            node_id="GenrefineMake",
            display_name="Make by refinement",
            category=CATEGORY,
            description="Pictures of a prompt or class, or the frames of one clip.",
            inputs=[
                Pipeline.Input("pipeline"),
                io.String.Input("prompt", multiline=True, default="noto emoji of red heart"),
                io.Int.Input("count", default=1, min=1, max=64, tooltip="pictures, from seeds that follow"),
                io.Int.Input("frames", default=1, min=1, max=257, tooltip="1 for stills"),
                *_sampling_inputs(),
            ],
            outputs=[io.Image.Output(display_name="images"), io.String.Output(display_name="how")],
        )

    @classmethod
    def execute(
        cls, pipeline: Any, prompt: str, count: int, frames: int, seed: int, adaptive: bool, steps: int,
        guidance: float, temperature: float,
    ) -> io.NodeOutput:  # fmt: skip
        """Make them."""
        settings = functions.sampling(pipeline, adaptive, steps, guidance, temperature)
        return io.NodeOutput(*functions.make(pipeline, prompt, seed, count, frames, _tell, **settings))


class GenrefineEdit(io.ComfyNode):
    """Edit pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what the node takes and gives."""
        return io.Schema(
            node_id="GenrefineEdit",
            display_name="Edit by refinement",
            category=CATEGORY,
            description="Paint the masked part of pictures anew, begin from them, or let them grow.",
            inputs=[
                Pipeline.Input("pipeline"),
                io.Image.Input("images"),
                io.String.Input("prompt", multiline=True, default=""),
                io.Mask.Input("mask", optional=True),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05),
                io.Int.Input("left", default=0, min=0, max=4096),
                io.Int.Input("top", default=0, min=0, max=4096),
                io.Int.Input("right", default=0, min=0, max=4096),
                io.Int.Input("bottom", default=0, min=0, max=4096),
                *_sampling_inputs(),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    def execute(
        cls, pipeline: Any, images: Any, prompt: str, strength: float, left: int, top: int, right: int, bottom: int,
        seed: int, adaptive: bool, steps: int, guidance: float, temperature: float, mask: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Edit them."""
        settings = functions.sampling(pipeline, adaptive, steps, guidance, temperature)
        margins = (left, top, right, bottom)
        return io.NodeOutput(functions.edit(pipeline, images, prompt, seed, mask, strength, margins, _tell, **settings))


class GenrefineFindChange(io.ComfyNode):
    """Find what a prompt would change."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what the node takes and gives."""
        return io.Schema(
            node_id="GenrefineFindChange",
            display_name="Find what a prompt would change",
            category=CATEGORY,
            description="A mask read off exact likelihoods; without an old prompt, of what the model finds unlikely.",
            inputs=[
                Pipeline.Input("pipeline"),
                io.Image.Input("images"),
                io.String.Input("old", default=""),
                io.String.Input("new", default=""),
                io.Float.Input("share", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="0 lets the map decide"),
            ],
            outputs=[io.Mask.Output(display_name="mask"), io.Image.Output(display_name="map")],
        )

    @classmethod
    def execute(cls, pipeline: Any, images: Any, old: str, new: str, share: float) -> io.NodeOutput:
        """Find it."""
        return io.NodeOutput(*functions.find(pipeline, images, old, new, share))


class GenrefineLookInside(io.ComfyNode):
    """Look at every step of a refinement."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what the node takes and gives."""
        return io.Schema(
            node_id="GenrefineLookInside",
            display_name="Look inside a refinement",
            category=CATEGORY,
            description="One picture per step: in mind; kept, filled, erased and blank codes; entropy.",
            inputs=[
                Pipeline.Input("pipeline"),
                io.String.Input("prompt", multiline=True, default="noto emoji of red heart"),
                *_sampling_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="in mind"),
                io.Image.Output(display_name="codes"),
                io.Image.Output(display_name="entropy"),
            ],
        )

    @classmethod
    def execute(
        cls, pipeline: Any, prompt: str, seed: int, adaptive: bool, steps: int, guidance: float, temperature: float
    ) -> io.NodeOutput:
        """Look at them."""
        settings = functions.sampling(pipeline, adaptive, steps, guidance, temperature)
        return io.NodeOutput(*functions.look(pipeline, prompt, seed, _tell, **settings))


class GenrefineExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return [GenrefineLoad, GenrefineMake, GenrefineEdit, GenrefineFindChange, GenrefineLookInside]
