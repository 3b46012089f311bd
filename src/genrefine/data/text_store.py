"""Captions encoded once: the embeddings of all tokens in one safetensors file, memory-mapped.

Row ``r`` of the file's table is caption ``r``: its tokens are ``embeddings[starts[r] : starts[r + 1]]``, in float16.
Row 0 is the empty caption, the null condition. The file records the encoder's fingerprint and a hash of the list of
captions, and is refused where either is another one.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float16, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genrefine.conditioning.text_encoder import TextEncoder, readable_prompt
from genrefine.errors import GenrefineError
from genrefine.files import replacing

FILE = "embeddings.safetensors"
FORMAT = "genrefine-text-1"


class TextStore:
    """Give the embeddings of a caption.

    `create` makes a store, `open` opens one.

    Args:
        captions: all captions, the empty one first.
        embeddings: of the tokens of all captions, one caption after another.
        starts: first token of each caption, and the number of tokens.
    """

    def __init__(
        self,
        captions: Sequence[str],
        embeddings: Float16[Tensor, "tokens channels"],
        starts: Int64[Tensor, "captions_and_end"],
    ) -> None:
        self._rows = {caption: row for row, caption in enumerate(captions)}
        self._embeddings, self._starts = embeddings, starts.tolist()

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: TextEncoder,
        captions: Sequence[str],
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> "TextStore":
        """Encode every caption once and return the opened store.

        Args:
            path: folder to make.
            encoder: reads the captions.
            captions: any number; equal ones are kept once.
            batch_size: captions per run of the encoder.
            progress: called with (captions done, captions in all) after each batch.

        Raises:
            GenrefineError: a caption is no text, or the folder cannot be written.
        """
        table = table_of(captions)
        order = sorted(range(len(table)), key=lambda row: len(table[row]))  # alike lengths share a run of the encoder
        pieces: list[Tensor] = [torch.empty(0)] * len(table)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, tokens in zip(rows, encoder.encode([table[r] for r in rows], batch_size), strict=True):
                pieces[row] = tokens.cpu().half()
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
        embeddings = torch.cat(pieces)
        if not bool(embeddings.isfinite().all()):
            raise GenrefineError("text embeddings must be numbers within float16's range; use another text encoder")
        starts = torch.tensor([0, *(len(piece) for piece in pieces)]).cumsum(0)
        folder = Path(path)
        metadata = {"format": FORMAT, "encoder": encoder_fingerprint(encoder), "captions": _hash(table)}
        try:
            with replacing(folder / FILE) as temporary:
                save_file({"embeddings": embeddings, "starts": starts}, temporary, metadata)
        except (OSError, SafetensorError) as error:
            raise GenrefineError(f"cannot write to {folder}: {error}; give a folder you may write to") from error
        return cls.open(folder, encoder, captions)

    @classmethod
    def open(cls, path: str | Path, encoder: TextEncoder, captions: Sequence[str]) -> "TextStore":
        """Open a store and check that it holds these captions as this encoder reads them.

        Raises:
            GenrefineError: no store, a broken one, or one of another encoder or of other captions.
        """
        file, table = Path(path) / FILE, table_of(captions)
        try:
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                found = {key: metadata.get(key) for key in ("format", "encoder", "captions")}
                expected = {"format": FORMAT, "encoder": encoder_fingerprint(encoder), "captions": _hash(table)}
                wrong = [key for key in expected if found[key] != expected[key]]
                if wrong:
                    raise GenrefineError(
                        f"text store '{path}' was made with another {wrong[0]}: expected {expected[wrong[0]][:12]}, "
                        f"got {str(found[wrong[0]])[:12]}; remove it, or give what it was made with"
                    )
                return cls(table, opened.get_tensor("embeddings"), opened.get_tensor("starts"))
        except (OSError, SafetensorError) as error:
            raise GenrefineError(f"cannot read text store '{path}' ({error}); remove it to encode anew") from error

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Float[Tensor, "tokens channels"]:
        """Return the embeddings of one caption in float32, one row per token."""
        return self._embeddings[self._starts[row] : self._starts[row + 1]].float()

    def row(self, caption: str) -> int:
        """Return the row of a caption, which must be one of the store's."""
        return self._rows[readable_prompt(caption)]

    @property
    def channels(self) -> int:
        """Channels of an embedding."""
        return int(self._embeddings.shape[1])


def table_of(captions: Sequence[str]) -> list[str]:
    """Return the captions a store keeps, in its order: the empty one, then each once."""
    return list(dict.fromkeys(["", *(readable_prompt(caption) for caption in captions)]))


def encoder_fingerprint(encoder: TextEncoder) -> str:
    """Return a SHA-256 over everything that decides an embedding: weights, configuration, vocabulary, token limit."""
    digest = hashlib.sha256(f"{type(encoder.model).__name__} {encoder.max_tokens}".encode())
    digest.update(json.dumps(_vocabulary(encoder.tokenizer), sort_keys=True).encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _vocabulary(tokenizer: Any) -> Any:
    """Return how a transformers tokenizer cuts texts, without truncation and padding, which every call sets anew."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    return {key: value for key, value in json.loads(fast.to_str()).items() if key not in ("truncation", "padding")}


def _hash(captions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(captions).encode()).hexdigest()
