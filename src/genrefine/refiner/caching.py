"""First-block caching (diffusers' `FirstBlockCacheConfig`): skip the later blocks where the first one hardly changed.

A step whose first block adds nearly what it added at the step before takes the sum of what the other blocks added then.
The comparison is a mean over the whole batch, so that a sample then depends on its company, as it never does otherwise.
"""

from collections.abc import Callable
from typing import Any

from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor

from genrefine.errors import GenrefineError


class CacheableRefiner(CacheMixin):  # type: ignore[misc]
    """Let a refiner skip blocks, `enable_cache(FirstBlockCacheConfig(threshold=...))`; pipelines do the rest."""

    def enable_cache(self, config: Any) -> None:
        """Skip the later blocks where the first one hardly changed.

        Args:
            config: diffusers' `FirstBlockCacheConfig`; the larger its threshold, the more is skipped.

        Raises:
            GenrefineError: another way of caching, or a network whose tokens change their number or are kept by layer.
        """
        network: Any = self
        if not isinstance(config, FirstBlockCacheConfig):
            raise GenrefineError(
                f"refiners skip blocks by FirstBlockCacheConfig alone; got {type(config).__name__}; the others look "
                "for attention of diffusers' own classes"
            )
        if getattr(network.sizes, "in_context_tokens", 0) and network.sizes.in_context_start:
            raise GenrefineError(
                "first-block caching needs the same tokens in all blocks; here class tokens join at block "
                f"{network.sizes.in_context_start}; take fewer steps instead"
            )
        if getattr(network.sizes, "attention", "joint") == "prefix":
            raise GenrefineError("first-block caching needs joint attention; got prefix; take fewer steps instead")
        if len(network.blocks) < 2:
            raise GenrefineError("first-block caching needs at least two blocks; got one")
        block = type(network.blocks[0])
        TransformerBlockRegistry.register(block, TransformerBlockMetadata(return_hidden_states_index=0))
        super().enable_cache(config)

    def stepwise(self) -> Callable[..., Tensor]:
        """Return what a sampler calls at every step: the network, or with caching, the network and what it remembers.

        What is remembered ends where samples finish, or guidance begins: the rows are others then.
        """
        if not self.is_cache_enabled:
            return self  # type: ignore[return-value]
        network: Any = self
        last = 0  # so that the first call of every sampling begins anew

        def call(codes: Tensor, signal: Tensor, condition: Any) -> Tensor:
            nonlocal last
            if len(codes) != last:
                network._reset_stateful_cache()
            last = len(codes)
            with network.cache_context("rows"):
                logits: Tensor = network(codes, signal, condition)
            return logits

        return call
