"""Optimizers: AdamW as published, or Muon for matrices and kernels beside AdamW for everything else.

Muon (`torch.optim.Muon`) orthogonalizes the momentum of a matrix; convolution kernels are handed to it as matrices
``out x (in * kernel)``. Its rate is scaled to AdamW's root-mean-square update, so that one learning rate serves both.
Torch's own iteration runs in bfloat16 on every machine, which takes three quarters of an update where bfloat16 is
emulated; ours runs in the dtype that this machine multiplies faster (`genrefine.training.arithmetic`).
Embeddings, biases, gains, modulations and the last layer stay with AdamW.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genrefine.training.arithmetic import arithmetic_of
from genrefine.training.settings import TrainingSettings

FIRST_AND_LAST = ("embedding", "head", "modulation", "conv_in", "conv_out", "conv_quant", "conv_dequant")


def optimizer_for(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name over the weights that are trained."""
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    if settings.optimizer == "muon":
        return MuonWithAdamW(trained, settings)
    return _adamw([p for _, p in trained], settings)


def _adamw(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def orthogonalized(
    matrix: Tensor, dtype: torch.dtype, coefficients: tuple[float, float, float], num_iterations: int, eps: float
) -> Tensor:
    """Return a matrix near the closest (semi-)orthogonal one, by quintic Newton-Schulz iterations.

    X <- a X + (b X X' + c (X X')^2) X drives every singular value near 1 (Jordan et al. 2024, "Muon").
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=eps)
    for _ in range(num_iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Muon):
    """Torch's Muon, with its iteration in the dtype that the machine multiplies faster."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step: p <- p - lr s O(g + m B), B <- m B + g, s = 0.2 sqrt(max(rows, columns))."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(buffer, group["momentum"])
                dtype = arithmetic_of(p.device).dtype
                update = orthogonalized(ahead, dtype, group["ns_coefficients"], group["ns_steps"], group["eps"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.to(p.dtype), alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)
        return loss


class MuonWithAdamW(torch.optim.Optimizer):
    """Step matrices and kernels with Muon, the rest with AdamW, as one optimizer."""

    def __init__(self, named: list[tuple[str, nn.Parameter]], settings: TrainingSettings) -> None:
        matrices = [p for name, p in named if p.ndim > 1 and not any(part in name for part in FIRST_AND_LAST)]
        taken = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in taken]
        self._kernels = matrices
        self._views = [nn.Parameter(p.detach().view(len(p), -1)) for p in matrices]  # the same memory
        self._muon = Muon(self._views, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self._adamw = _adamw(rest, settings)
        super().__init__(
            [{"params": matrices}, *({"params": g["params"]} for g in self._adamw.param_groups)], {"lr": 0.0}
        )
        for group in self.param_groups:
            group["lr"] = settings.learning_rate

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step with the current ``lr`` of the groups."""
        loss = closure() if closure is not None else None
        for group in (*self._muon.param_groups, *self._adamw.param_groups):
            group["lr"] = self.param_groups[0]["lr"]
        for kernel, view in zip(self._kernels, self._views, strict=True):
            view.data = kernel.detach().view(len(kernel), -1)
            view.grad = kernel.grad.view(len(kernel), -1) if kernel.grad is not None else None
        self._muon.step()
        self._adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of both."""
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
