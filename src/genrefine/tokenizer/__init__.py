"""Pixels <-> codes: the causal autoencoder around hierarchical binary quantization."""

from genrefine.tokenizer.tokenizer import PUBLISHED, VisualTokenizer

__all__ = ["PUBLISHED", "VisualTokenizer"]
