"""How a pipeline turns prompts into embeddings, and does without a text encoder where it is given embeddings."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrefine.conditioning.text_encoder import TextEncoder
from genrefine.errors import GenrefineError
from genrefine.pipelines.refinement_pipeline import config_of
from genrefine.pipelines.request import resolve_count
from genrefine.pipelines.text_request import WITHOUT_ENCODER, Embeddings, Prompt, resolve_prompts


class PromptMixin:
    """Hold a text encoder and its tokenizer, or none."""

    text_encoder: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase | None
    refiner: Any
    _prompt_encoder: TextEncoder | None
    _execution_device: torch.device

    @property
    def has_encoder(self) -> bool:
        """Whether there is a text encoder; without, the pipeline takes embeddings."""
        return self.text_encoder is not None and self.tokenizer is not None

    @property
    def prompt_encoder(self) -> TextEncoder:
        """The text encoder with its tokenizer and its memory of the latest prompts.

        Raises:
            GenrefineError: there is none.
        """
        if not self.has_encoder:
            lacking = " and ".join(part for part in ("text_encoder", "tokenizer") if getattr(self, part) is None)
            raise GenrefineError(f"this pipeline has no {lacking}; {WITHOUT_ENCODER}")
        encoder = self._prompt_encoder
        if encoder is None or encoder.model is not self.text_encoder or encoder.tokenizer is not self.tokenizer:
            encoder = TextEncoder(self.text_encoder, self.tokenizer, config_of(self).max_tokens)
            self._prompt_encoder = encoder
        return encoder

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: Prompt = None,
        negative_prompt: Prompt = "",
        *,
        num_images_per_prompt: SupportsIndex = 1,
        prompt_embeds: Embeddings = None,
        negative_prompt_embeds: Embeddings = None,
    ) -> tuple[list[Float[Tensor, "_ channels"]], list[Float[Tensor, "_ channels"]]]:
        """Return embeddings of prompts and of negative prompts, as a call takes them in their place.

        A prompt has as many rows as tokens, so it is a list, one tensor per sample; no padding, no mask. A pipeline of
        nothing but `text_encoder` and `tokenizer` can do it.

        Args:
            prompt: a text, or a list of them; "" for no particular picture.
            negative_prompt: one for all prompts or one each.
            num_images_per_prompt: samples per prompt.
            prompt_embeds: in place of prompts; they come back.
            negative_prompt_embeds: in place of negative prompts.

        Raises:
            GenrefineError: there is no text encoder, or a prompt is no readable text.
        """
        count = resolve_count(num_images_per_prompt)
        alone = self.has_encoder or self.refiner is None
        channels = self.prompt_encoder.channels if alone else config_of(self.refiner).text_channels
        prompted = resolve_prompts(
            channels, self.has_encoder, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds
        )
        own, nulls = self._encoded(prompted.own), self._encoded(prompted.nulls)
        return [one for one in own for _ in range(count)], [one for one in nulls for _ in range(count)]

    def _encoded(self, prompts: Sequence[str | Tensor]) -> list[Tensor]:
        """Return embeddings in the place of texts, all encoded in one call, so that equal ones share a tensor."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        encoded = iter(self.prompt_encoder.encode(texts, device=self._execution_device) if texts else [])
        return [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]

    def _require_parts(self) -> None:
        """Refuse to make anything without the parts that this takes."""
        lacking = [part for part in ("refiner", "visual_tokenizer", "sampler") if getattr(self, part) is None]
        if lacking:
            raise GenrefineError(
                f"this pipeline has no {' and no '.join(lacking)}; it can encode prompts only; load it whole to make "
                "pictures"
            )
