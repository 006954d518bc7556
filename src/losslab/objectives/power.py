from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class Power(Objective):
    """Beyond log-likelihood: (1 - p^alpha) / alpha, whose gradient is that of -sg(p^alpha) log p.

    Source: arXiv 2510.00526; checked against its code. alpha -> 0 is SFT, alpha = 1 has DFT's gradient, alpha 10 is
    their example; of their values from 0.1 to 10 the best is near 1 where the model knows the data well. alpha below 0
    is `Band` without limits.
    """

    alpha: float = key(10.0, "the weight is p^alpha: near 0 = SFT, 1 = DFT; loss=band takes 0 and less", above=0)

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"The power loss needs alpha above 0 (near 0 it is SFT), not {self.alpha}.")

    def loss(self, t: Targets) -> Tensor:
        return -torch.expm1(self.alpha * t.logp) / self.alpha
