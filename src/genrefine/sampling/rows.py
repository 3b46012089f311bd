"""The book-keeping of a batch whose samples take different numbers of steps (method section 4).

Each sample has signals of its own, t_1 .. t_total, known up to the decision of the step budget at first and to the end
afterwards.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrefine.sampling.settings import SamplingSettings


class ActiveRows:
    """The samples that still take part, and where each of them stands.

    Args:
        settings: budget, schedule, temperature and what the network is told.
        num_samples: samples of the batch.
        start: signal that all begin at.
    """

    def __init__(self, settings: SamplingSettings, num_samples: int, start: float = 0.0) -> None:
        self.settings, self.num_samples = settings, num_samples
        self.active: Int[Tensor, "active"] = torch.arange(num_samples)
        self.signal: Float[Tensor, "active"] = torch.full((num_samples,), start)
        self.num_steps: Int[Tensor, "active"] | None = None
        self.temperature: Float[Tensor, "active"] = torch.full((num_samples,), settings.temperature)
        self._warmup = self._signals(settings.steps.before())
        self._ways: Float[Tensor, "active steps"] = self._warmup.expand(num_samples, -1)
        self._completed = 0

    def decide(self, entropy: Float[Tensor, "active"]) -> None:
        """At the step after the warm-up, let the entropy of each sample decide what remains for it; else do nothing."""
        if self._completed != len(self._warmup):
            return
        rests = [self.settings.steps.after(value) for value in entropy.tolist()]
        ways = [torch.cat([self._warmup, self._signals(rest.progress)]) for rest in rests]
        self.num_steps = torch.tensor([len(way) for way in ways])
        self._ways = torch.nn.utils.rnn.pad_sequence(ways, batch_first=True, padding_value=1.0)
        self.temperature = self.settings.temperature * torch.tensor([rest.temperature_factor for rest in rests])

    @property
    def next_signal(self) -> Float[Tensor, "active"]:
        """The signal that each sample is to have after this step."""
        return self._ways[:, self._completed]

    def advance(
        self, held: Bool[Tensor, "active channels t h w"]
    ) -> tuple[Float[Tensor, "active"], Bool[Tensor, "active"]]:
        """Return the signal that each sample has after this step, and for which samples it was the last.

        Args:
            held: the elements that hold a prediction after it.
        """
        signal = self.settings.signal.after(self.next_signal, held)
        finished = self.settings.signal.ends(self.signal)
        if self.num_steps is not None:
            self.num_steps = torch.where(finished, self._completed + 1, self.num_steps)
            finished = self.num_steps == self._completed + 1
        self._completed += 1
        return signal, finished

    def keep(self, going: Int[Tensor, "going"], signal: Float[Tensor, "active"]) -> None:
        """Go on with some of the samples, from their signals."""
        self.active, self.signal, self.temperature = self.active[going], signal[going], self.temperature[going]
        self._ways = self._ways[going]
        if self.num_steps is not None:
            self.num_steps = self.num_steps[going]

    def _signals(self, progress: Tensor) -> Tensor:
        return self.settings.schedule(progress).float()
