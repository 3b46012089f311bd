"""Nodes of generative refinement networks for ComfyUI (V3 interface)."""

from .nodes import GenrefineExtension


async def comfy_entrypoint() -> GenrefineExtension:
    """Return the pack, where ComfyUI looks for it."""
    return GenrefineExtension()
