from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor


@dataclass(frozen=True)
class DFT(Objective):
    """Dynamic fine-tuning: -sg(max(p, floor)) log p, whose gradient is that of -p where p is above the floor.

    Source: arXiv 2508.05629, token level (the method of the paper). `floor` 0.1 is the advice of its authors for tokens
    that a model never learns, such as the end of an answer; 0 is the paper, 1 is SFT.
    """

    floor: float = key(0.0, "smallest weight of a token: 0 = the paper, 1 = SFT", low=0, high=1)

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"DFT's floor is a probability: give a number from 0 to 1, not {self.floor}.")

    def loss(self, t: Targets) -> Tensor:
        return -t.p.clamp(min=self.floor) * t.logp
