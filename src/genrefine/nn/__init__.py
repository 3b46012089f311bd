"""Shared network layers that know nothing of generative refinement."""
