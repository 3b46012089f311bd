"""Prompts -> embeddings, by any encoder that transformers can load (method section 5, text refiner).

A prompt becomes one embedding per token, the last hidden states of a frozen encoder, padding left out. The published
text models read umT5-XXL (4096 channels, up to 512 tokens); a sentence encoder of the BERT family does as well. The
empty prompt is the null condition: what the encoder says about no words at all, its closing token alone for umT5.

Prompts are encoded one at a time unless asked otherwise, so that an embedding does not depend on its company to the
last bit, and neither does the picture. The latest prompts are kept.
"""

import unicodedata
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.conditioning.text_condition import FirstFrame, TextCondition
from genrefine.errors import GenrefineError, GenrefineNotice

MAX_TOKENS = 512
_INVISIBLE = ("Zs", "Zl", "Zp", "Cf")
NAMED_CHARACTERS = 120
MOST_LAYERS = 1024


class TextEncoder:
    """Encode prompts and remember the latest ones.

    Args:
        model: a transformers encoder; it is put into evaluation mode and frozen.
        tokenizer: its transformers tokenizer.
        max_tokens: longest prompt, special tokens included; what the encoder itself can read may be less.
        cache_size: prompts to remember; 0 for none.

    Raises:
        GenrefineError: if a number is out of range.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = MAX_TOKENS, cache_size: int = 64) -> None:
        if max_tokens < 1 or cache_size < 0:
            raise GenrefineError(
                f"max_tokens must be at least 1 and cache_size at least 0; got {max_tokens} and {cache_size}"
            )
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        readable = getattr(model.config, "max_position_embeddings", None) or max_tokens
        self.max_tokens = min(max_tokens, readable, tokenizer.model_max_length)
        self.cache_size = cache_size
        self._cache: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls, name: str, max_tokens: int = MAX_TOKENS, dtype: torch.dtype | str = torch.float32, **options: Any
    ) -> "TextEncoder":
        """Load an encoder and its tokenizer; of an encoder-decoder (umT5, T5) only the encoder.

        Args:
            name: folder, or name on the Hugging Face hub, for example "google/umt5-xxl".
            max_tokens: longest prompt.
            dtype: of the weights; "auto" for that in the files.
            options: further arguments of transformers' `from_pretrained`, for example `local_files_only`.

        Raises:
            GenrefineError: if there is no such encoder, or its weights are not whole.
        """
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

        options = {**options, "trust_remote_code": False}  # said aloud: a name of the hub never brings code
        try:
            config = AutoConfig.from_pretrained(name, **options)
            for key, value in config.to_dict().items():
                if "layer" in key and isinstance(value, int) and value > MOST_LAYERS:  # built before they are compared
                    raise ValueError(f"{key} must be at most {MOST_LAYERS}, got {value:.4g}")
            encodes = type(config) in AutoModelForTextEncoding._model_mapping
            kind = AutoModelForTextEncoding if encodes else AutoModel
            model, report = kind.from_pretrained(name, dtype=dtype, output_loading_info=True, **options)
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise GenrefineError(f"no text encoder at '{name}' ({reason}); check the path or name") from error
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise GenrefineError(
                f"text encoder '{name}' must have all its weights; missing: {', '.join(missing[:3])}; fetch it again"
            )
        unused = dict(model.named_parameters())
        for key in report["missing_keys"]:  # poolers, which nobody reads: random ones would tell equal encoders apart
            torch.nn.init.zeros_(unused[key])
        if not encodes and getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()
        return cls(model, tokenizer, max_tokens)

    @property
    def channels(self) -> int:
        """Channels of an embedding."""
        return int(self.model.config.hidden_size)

    def condition(
        self,
        prompts: Sequence[str],
        negative_prompts: str | Sequence[str] = "",
        first_frames: Int[Tensor, "_ _ 1 _ _"] | Sequence[FirstFrame | None] | None = None,
    ) -> TextCondition:
        """Return the condition of these prompts.

        Args:
            prompts: one per sample.
            negative_prompts: what guidance leads away from, for all samples or one each; "" for nothing in particular.
            first_frames: clean codes of first frames, one per sample.

        Raises:
            GenrefineError: if a prompt is not text, or there is not one negative prompt per prompt.
        """
        if isinstance(negative_prompts, str):
            return TextCondition.of(self.encode(prompts), self.encode([negative_prompts])[0], first_frames)
        return TextCondition.of(self.encode(prompts), self.encode(negative_prompts), first_frames)

    def encode(
        self, prompts: Sequence[str], batch_size: int = 1, device: torch.device | None = None
    ) -> list[Float[Tensor, "_ _"]]:
        """Return the embeddings of every prompt in float32, one row per token.

        A prompt beyond the limit is cut, with a warning that names the words that were dropped.

        Args:
            prompts: any number; equal ones share one tensor.
            batch_size: prompts per run of the encoder; more are faster, and round differently.
            device: where it runs; by default where its weights are, which is elsewhere if they are offloaded.

        Raises:
            GenrefineError: if a prompt is not text or has control characters.
        """
        if isinstance(prompts, str):
            raise GenrefineError("prompts must be a list of texts; got one text; put it into a list")
        device = self.model.device if device is None else device
        texts = [readable_prompt(prompt) for prompt in prompts]
        found = {text: self._recall(text, device) for text in texts}
        new = [text for text, known in found.items() if known is None]
        for start in range(0, len(new), max(1, batch_size)):
            batch = new[start : start + max(1, batch_size)]
            for text, embedding in zip(
                batch, self._run([self._token_ids(text) for text in batch], device), strict=True
            ):
                found[text] = embedding
                self._keep_embedding(text, embedding, device)
        return [found[text] for text in texts]  # type: ignore[misc]

    def forget(self) -> None:
        """Forget the latest prompts, as measurements of speed need."""
        self._cache.clear()

    @torch.no_grad()
    def _run(self, sequences: list[list[int]], device: torch.device) -> list[Tensor]:
        longest = max(map(len, sequences))
        ids = torch.tensor([s + [self.tokenizer.pad_token_id or 0] * (longest - len(s)) for s in sequences])
        mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
        hidden = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        return [rows[: len(s)].float() for rows, s in zip(hidden, sequences, strict=True)]

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        if len(ids) <= self.max_tokens:
            return ids
        kept: list[int] = self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
        dropped = self._dropped_words(text, ids)
        named = dropped if len(dropped) <= NAMED_CHARACTERS else dropped[:NAMED_CHARACTERS].rsplit(" ", 1)[0] + " ..."
        warnings.warn(
            f"a prompt may have up to {self.max_tokens} tokens; got {len(ids)}; "
            f"dropped {len(dropped.split())} words: {named}",
            GenrefineNotice,
            stacklevel=4,
        )
        return kept

    def _dropped_words(self, text: str, ids: list[int]) -> str:
        """Return the words of a prompt that are lost in whole or in part."""
        if not self.tokenizer.is_fast:
            room = self.max_tokens - self.tokenizer.num_special_tokens_to_add()
            words: str = self.tokenizer.decode([i for i in ids if i not in self.tokenizer.all_special_ids][room:])
            return words.strip()
        kept = self.tokenizer(text, truncation=True, max_length=self.max_tokens, return_offsets_mapping=True)
        end = max(stop for _, stop in kept["offset_mapping"])
        word = end if text[end : end + 1].isspace() else text.rfind(" ", 0, end) + 1
        return text[word:].strip()

    def _key(self, text: str, device: torch.device) -> tuple[Any, ...]:
        return text, device, self.model.dtype

    def _recall(self, text: str, device: torch.device) -> Tensor | None:
        key = self._key(text, device)
        if key in self._cache:
            self._cache.move_to_end(key)
        return self._cache.get(key)

    def _keep_embedding(self, text: str, embedding: Tensor, device: torch.device) -> None:
        self._cache[self._key(text, device)] = embedding
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)


def says_nothing(prompt: str) -> bool:
    """Say whether a text has nothing but white space and characters without width."""
    return all(unicodedata.category(character) in _INVISIBLE or character in "\t\n\r" for character in prompt)


def readable_prompt(prompt: str) -> str:
    """Return a prompt without white space around it.

    Raises:
        GenrefineError: if it is not text, or has control characters or broken Unicode.
    """
    if not isinstance(prompt, str):
        raise GenrefineError(f"a prompt must be a text; got {type(prompt).__name__}")
    for position, character in enumerate(prompt):
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise GenrefineError(
                f"a prompt must be readable text; got control character U+{ord(character):04X} at position {position}; "
                "remove it"
            )
    return prompt.strip()
