"""One independent random stream per sample (method section 3: the noise N and the fresh draws of every step).

A seed names one sample: seed s gives the same codes alone, in any batch and in any order, whatever the other samples
do. Every sample therefore owns a `torch.Generator`, and the sampler takes draws from it in one fixed order:

    noise N (once);  then per step  e ~ Exponential(1), one per element and class;  u ~ Uniform[0, 1), one per element

A label with probabilities p_k is drawn as the winner of an exponential race, argmax_k p_k / e_k.

Draws happen on the generator's device, the CPU for seeds, and then move, so that devices agree. Exponentials are made
from float64 uniforms: torch's own `exponential_` takes another path (and other numbers) where MKL is missing.

`RandomSource` is all that the sampler knows of randomness. `SeededSource` draws from seeds, `RecordedSource` replays
numbers that another program drew, to compare the two programs label by label.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError

_MASK64 = 2**64 - 1


@runtime_checkable
class RandomSource(Protocol):
    """What the sampler asks of randomness: one row per sample, each row from its own stream."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def select(self, indices: Int[Tensor, "selected"]) -> "RandomSource":
        """Return the streams at these positions; they continue where they are."""
        ...

    def codes(self, code_classes: int, shape: Sequence[int]) -> Int[Tensor, "batch ..."]:
        """Draw uniform codes."""
        ...

    def exponential(self, shape: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Draw from Exponential(1)."""
        ...

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Draw from Uniform[0, 1)."""
        ...


class SeededSource:
    """Hold one generator per sample.

    Args:
        seeds: one whole number in 0 .. 2**63 - 1 per sample; below 2**32 the stream is that of
            `torch.Generator().manual_seed(seed)`.
        device: where the draws go.

    Raises:
        GenrefineError: if a seed is not such a number, or if there are none.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._generators = [torch.Generator("cpu").manual_seed(_stream_seed(seed)) for seed in seeds]
        self._device = torch.device(device)
        _require_some(self._generators)

    @classmethod
    def from_generators(
        cls, generators: Sequence[torch.Generator], device: torch.device | str = "cpu"
    ) -> "SeededSource":
        """Use given generators, one per sample; they advance as samples are drawn.

        Raises:
            GenrefineError: if there are none, or if one generator stands for two samples.
        """
        _require_some(generators)
        if len({id(generator) for generator in generators}) < len(generators):
            raise GenrefineError(
                "every sample needs a generator of its own; got the same one twice; pass one per sample"
            )
        return cls._of(list(generators), torch.device(device))

    @classmethod
    def _of(cls, generators: list[torch.Generator], device: torch.device) -> "SeededSource":
        streams = cls.__new__(cls)
        streams._generators = generators
        streams._device = device
        return streams

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, indices: Int[Tensor, "selected"]) -> "SeededSource":
        """Return the streams at these positions, sharing their generators."""
        return self._of([self._generators[index] for index in indices.tolist()], self._device)

    def codes(self, code_classes: int, shape: Sequence[int]) -> Int[Tensor, "batch ..."]:
        """Draw uniform codes in 0 .. code_classes - 1 as int32, `(len(self), *shape)`."""
        return self._stack(
            torch.randint(code_classes, tuple(shape), generator=g, device=g.device, dtype=torch.int32)
            for g in self._generators
        )

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Draw from Uniform[0, 1) as float32, `(len(self), *shape)`."""
        return self._stack(torch.rand(tuple(shape), generator=g, device=g.device) for g in self._generators)

    def exponential(self, shape: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Draw from Exponential(1) as float32, greater than 0, `(len(self), *shape)`."""
        return self._stack(_exponential(shape, generator) for generator in self._generators)

    def _stack(self, draws: Iterable[Tensor]) -> Tensor:
        return torch.stack([draw.to(self._device) for draw in draws])


class RecordedSource:
    """Replay recorded draws instead of drawing.

    Args:
        noise: N, the codes that each sample starts from.
        exponentials: e of every step, classes last.
        uniforms: u of every step.

    Raises:
        GenrefineError: if the three are not of the same samples, steps and codes.

    Example:
        >>> noise, e = torch.zeros(2, 1, 1, 1, 1, dtype=torch.int32), torch.ones(3, 2, 1, 1, 1, 1, 4)
        >>> draws = RecordedSource(noise, e, torch.rand(3, 2, 1, 1, 1, 1))
        >>> len(draws), draws.select(torch.tensor([1])).exponential((1, 1, 1, 1, 4)).shape
        (2, torch.Size([1, 1, 1, 1, 1, 4]))
    """

    def __init__(
        self,
        noise: Int[Tensor, "batch channels t h w"],
        exponentials: Float[Tensor, "steps batch channels t h w classes"],
        uniforms: Float[Tensor, "steps batch channels t h w"],
    ) -> None:
        if exponentials.shape[:-1] != uniforms.shape or uniforms.shape[1:] != noise.shape:
            raise GenrefineError(
                "recorded draws must be of the same steps, samples and codes; got noise "
                f"{tuple(noise.shape)}, exponentials {tuple(exponentials.shape)}, uniforms {tuple(uniforms.shape)}"
            )
        self._noise, self._exponentials, self._uniforms = noise.int(), exponentials, uniforms
        self._rows = torch.arange(len(noise), device=noise.device)
        self._step = 0

    def __len__(self) -> int:
        return len(self._rows)

    def select(self, indices: Int[Tensor, "selected"]) -> "RecordedSource":
        """Return the draws of these samples from the present step on."""
        selected = RecordedSource(self._noise, self._exponentials, self._uniforms)
        selected._rows, selected._step = self._rows[indices.to(self._rows.device)], self._step
        return selected

    def codes(self, code_classes: int, shape: Sequence[int]) -> Int[Tensor, "batch ..."]:
        """Return the recorded noise."""
        return self._checked(self._noise[self._rows], shape)

    def exponential(self, shape: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Return the recorded exponentials of this step."""
        return self._checked(self._at_step(self._exponentials), shape)

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Return the recorded uniforms of this step and go on to the next: they are its last draw."""
        drawn = self._checked(self._at_step(self._uniforms), shape)
        self._step += 1
        return drawn

    def _at_step(self, recorded: Tensor) -> Tensor:
        if self._step >= len(recorded):
            raise GenrefineError(f"the recording has draws for {len(recorded)} steps; the sampler asks for more")
        return recorded[self._step][self._rows]

    @staticmethod
    def _checked(drawn: Tensor, shape: Sequence[int]) -> Tensor:
        if drawn.shape[1:] != tuple(shape):
            raise GenrefineError(f"the recording has draws of {tuple(drawn.shape[1:])}; the sampler asks for {shape}")
        return drawn


def _exponential(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    # 24-bit uniforms would make every small exponential a multiple of 2**-24; other devices may lack float64.
    dtype = torch.float64 if generator.device.type == "cpu" else torch.float32
    uniform = torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=dtype)
    return uniform.neg_().log1p_().neg_().clamp_min_(2.0**-54).float()  # a zero would win every race


def _stream_seed(seed: int) -> int:
    """Map a seed to what torch's CPU generator can tell apart: it reads the low 32 bits only."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise GenrefineError(f"a seed must be a whole number in 0 .. 2**63 - 1; got {seed!r}")
    seed = int(seed)
    if seed < 2**32:
        return seed
    # splitmix64 spreads the high bits, so that s and s + 2**32 do not share a stream.
    mixed = (seed + 0x9E3779B97F4A7C15) & _MASK64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK64
    return (mixed ^ (mixed >> 31)) >> 32


def _require_some(generators: Sequence[torch.Generator]) -> None:
    if not generators:
        raise GenrefineError("at least one seed or generator is needed, one per sample; got none")


def checked_noise(
    noise: Int[Tensor, "..."], drawn: Int[Tensor, "batch channels t h w"], code_classes: int
) -> Int[Tensor, "batch channels t h w"]:
    """Return a caller's noise in the dtype and on the device of drawn noise.

    Raises:
        GenrefineError: it has another shape or values that are no codes.
    """
    if noise.shape != drawn.shape or noise.min() < 0 or noise.max() >= code_classes:
        raise GenrefineError(
            f"noise must be codes of shape {tuple(drawn.shape)} in 0 .. {code_classes - 1}; "
            f"got shape {tuple(noise.shape)} in {noise.min()} .. {noise.max()}"
        )
    return noise.to(drawn)
