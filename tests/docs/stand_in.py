"""Pipelines that take the shipped ones' places: the same classes and sizes, untrained and quick."""

from tests.tiny_models import tiny_clip_tokenizer, tiny_refiner, tiny_text_encoder, tiny_text_refiner, tiny_tokenizer

from genrefine import ClassPipeline, RefinementSampler, TextPipeline

GROUPS = [
    "activities",
    "animals-nature",
    "flags",
    "food-drink",
    "objects",
    "people-body",
    "smileys-emotion",
    "symbols",
    "travel-places",
]
CLASS_NAMES = [f"{group}/{style}" for group in GROUPS for style in ("fluent", "noto", "twemoji")]
BUDGET = {"warmup": 2, "slope": 20.0, "offset": -15.0, "min_steps": 3, "max_steps": 6}


def stand_in() -> ClassPipeline:
    """Return the pipeline."""
    tokenizer = tiny_tokenizer(channel_multipliers=(1, 1, 1), temporal_downsample=(False, False), temporal_kernel=1)
    refiner = tiny_refiner(grid=(8, 8), num_classes=len(CLASS_NAMES))
    sampler = RefinementSampler(num_inference_steps=6, guidance_scale=2.0, temperature=0.7, entropy_steps=BUDGET)
    return ClassPipeline(refiner, tokenizer, sampler, CLASS_NAMES)


def stand_in_of_prompts() -> TextPipeline:
    """Return the pipeline of prompts: stills and clips, stride 8 in space and 4 in time."""
    tokenizer = tiny_clip_tokenizer(channel_multipliers=(1, 1, 1), temporal_downsample=(True, True))
    sampler = RefinementSampler(num_inference_steps=6, guidance_scale=2.0, temperature=0.7, entropy_steps=BUDGET)
    return TextPipeline(tiny_text_refiner(), tokenizer, sampler, *tiny_text_encoder(), max_tokens=64)
