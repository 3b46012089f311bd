"""A refiner that is right: exact posteriors of a small known distribution, to test samplers against.

Let the codes of one position, Y = (Y_1 .. Y_channels), follow a known joint distribution over a few outcomes,
independently at every position of the map. Given noisy codes x at signal t (method section 3), Bayes' rule gives

    P(Y = y | x, t)  ~  P(y) * product over channels of  [ t 1{x_c = y_c} + (1 - t) / K ]

and the best a network can do, which predicts elements one by one, is the marginal of every channel under it. A
sampler that is
fed with these logits makes errors of its own only: whatever its codes get wrong about the joint distribution is the
sampler's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError


@dataclass(frozen=True)
class ExactRefiner:
    """Return the logits of the exact posterior of every code.

    Args:
        outcomes: the possible codes of one position.
        probabilities: probability of every outcome, one row for each picture class; the null class is their mean.
        code_classes: K, classes of one code.

    Raises:
        GenrefineError: if a row is not a distribution.

    Example:
        >>> twins = ExactRefiner(torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0.8, 0.2]]), code_classes=2)
        >>> noisy = torch.tensor([0, 1]).reshape(1, 2, 1, 1, 1)
        >>> twins(noisy, torch.tensor([0.0]), ClassCondition.of([0], 1)).softmax(-1).flatten().tolist()
        [0.800000011920929, 0.20000000298023224, 0.800000011920929, 0.20000000298023224]
    """

    outcomes: Int[Tensor, "outcomes channels"]
    probabilities: Float[Tensor, "labels outcomes"]
    code_classes: int

    def __post_init__(self) -> None:
        totals = self.probabilities.double().sum(dim=1)
        if self.probabilities.min() < 0 or (totals - 1).abs().max() > 1e-5:
            raise GenrefineError(
                f"every row of probabilities must be a distribution; got rows adding up to {totals.tolist()}"
            )

    def __call__(
        self, codes: Int[Tensor, "batch channels t h w"], signal: Float[Tensor, "batch"], condition: ClassCondition
    ) -> Float[Tensor, "batch channels t h w classes"]:
        """Return log P(Y_c = v | x, t, class), float32; -inf where v cannot be."""
        rows = torch.cat([self.probabilities, self.probabilities.mean(dim=0, keepdim=True)]).double()
        prior = rows[condition.labels]  # batch outcomes
        t = signal.double()[:, None, None, None, None, None]
        agrees = codes[:, None] == self.outcomes[None, :, :, None, None, None]  # batch outcomes channels t h w
        likelihood = (t * agrees + (1 - t) / self.code_classes).prod(dim=2)  # batch outcomes t h w
        joint = prior[:, :, None, None, None] * likelihood
        posterior = joint / joint.sum(dim=1, keepdim=True)
        values = one_hot(self.outcomes.long(), self.code_classes).double()  # outcomes channels classes
        return torch.einsum("bothw,ock->bcthwk", posterior, values).log().float()
