import math
from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class LUFFY(Objective):
    """LUFFY's shaping on demonstrations: -p / (p + gamma), differentiated.

    The weight p gamma / (p + gamma)^2 is largest at p = gamma: tokens that are unlikely, but not hopeless. Source:
    arXiv 2504.14945; checked against the off-policy ratio of the official code (ElliottYan/LUFFY, mix_core_alg.py):
    gamma 0.1. Its on-policy part is not here.
    """

    gamma: float = key(0.1, "probability of the tokens with the largest weight", above=0)

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"LUFFY's shaping needs gamma above 0, not {self.gamma}.")

    def loss(self, t: Targets) -> Tensor:
        return -torch.sigmoid(t.logp - math.log(self.gamma))
