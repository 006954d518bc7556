from dataclasses import dataclass

from losslab.objectives import Objective, Targets, Tensor


@dataclass(frozen=True)
class SFT(Objective):
    """Supervised fine-tuning: -log p, the cross-entropy of the demonstration."""

    def loss(self, t: Targets) -> Tensor:
        return -t.logp
