from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class Focal(Objective):
    """Focal loss: -(1 - p)^gamma log p, differentiated through (1 - p)^gamma; the opposite emphasis of DFT.

    Source: arXiv 1708.02002, equation 4. A variant with a detached factor is another loss. gamma 0 is SFT.
    """

    gamma: float = key(2.0, "exponent of 1 - p: 0 = SFT, else 1 or more", low=0)

    def __post_init__(self) -> None:
        if self.gamma != 0 and self.gamma < 1:
            raise ValueError(
                f"Focal loss needs gamma 0 or at least 1 for a finite gradient at p = 1, not {self.gamma}."
            )

    def loss(self, t: Targets) -> Tensor:
        rest = -torch.expm1(t.logp)  # 1 - p without cancellation
        return -(rest**self.gamma) * t.logp
