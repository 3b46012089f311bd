"""The forward process: mix clean codes with uniform noise (method section 3; paper section 3.2).

Let Y be the clean codes, N uniform random codes and t the signal, 0 = noise .. 1 = clean. The noisy codes are

    X_t = S * Y + (1 - S) * N,      S ~ Bernoulli(t) for every code by itself

There is no mask token: a blank is a random value. In training the signal of a sample follows a law: class-to-image uses
t = sigmoid(Normal(-0.8, 0.8)), text models sigmoid(Normal(-1.3, 1.3)). A shift by a moves a signal towards noise,

    n = 1 - t,      n <- a n / (1 + (a - 1) n),      t = 1 - n

which larger pictures need (a = sqrt(height * width) / 256), since neighbouring codes repeat what noise hides.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError


@dataclass(frozen=True)
class Corrupted:
    """Noisy codes and how they came about.

    Args:
        noisy: X_t, what the refiner sees.
        kept: S, True where the clean code was kept.
        noise: N.
    """

    noisy: Int[Tensor, "batch channels t h w"]
    kept: Bool[Tensor, "batch channels t h w"]
    noise: Int[Tensor, "batch channels t h w"]


def corrupt(
    codes: Int[Tensor, "batch channels t h w"],
    signal: Float[Tensor, "batch"],
    code_classes: int,
    generator: torch.Generator,
) -> Corrupted:
    """Keep each code with probability `signal`, replace the others by uniform noise.

    Args:
        codes: clean codes Y, in 0 .. code_classes - 1.
        signal: t of each sample, in [0, 1].
        code_classes: classes of one code.
        generator: source of the draws, on the device of the codes: first the noise, then the mask.
    """
    device = codes.device
    noise = torch.randint(code_classes, codes.shape, generator=generator, device=device, dtype=codes.dtype)
    uniform = torch.rand(codes.shape, generator=generator, device=device)
    kept = uniform < signal.to(device)[:, None, None, None, None]
    return Corrupted(torch.where(kept, codes, noise), kept, noise)


def shift_signal(signal: Float[Tensor, "*shape"], shift: float) -> Float[Tensor, "*shape"]:
    """Move a signal towards noise.

    Args:
        signal: t in [0, 1].
        shift: a > 0; 1 changes nothing, more gives more noise.

    Raises:
        GenrefineError: if the shift is not a positive number.
    """
    require_shift(shift)
    return signal / (signal + shift * (1 - signal))  # the rule above, written so that 0 and 1 stay exact


def require_shift(shift: float) -> None:
    """Refuse a shift that is not positive and finite."""
    if not 0 < shift < float("inf"):
        raise GenrefineError(f"a shift must be a positive number, 1 for none; got {shift}")


@dataclass(frozen=True)
class LogitNormalSignal:
    """Draw training signals t = sigmoid(Normal(mean, std)), then shift them.

    Args:
        mean: of the normal; the published class models use -0.8.
        std: of the normal, at least 0; the published class models use 0.8.
        shift: see `shift_signal`; 1 for none.
    """

    mean: float = -0.8
    std: float = 0.8
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.std < float("inf") and abs(self.mean) < float("inf")):
            raise GenrefineError(f"a signal law needs a finite mean and std >= 0; got {self.mean} and {self.std}")
        require_shift(self.shift)

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "num_samples"]:
        """Draw one signal per sample, on the generator's device."""
        normal = torch.randn(num_samples, generator=generator, device=generator.device)
        return shift_signal(torch.sigmoid(self.mean + self.std * normal), self.shift)
