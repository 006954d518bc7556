from dataclasses import dataclass

from losslab.objectives import Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class DEFT(Objective):
    """Dynamic entropy fine-tuning: (1 - p^a) / (a + 1e-6), a = sg(sum_v p_v^2); near SFT where unsure, DFT where sure.

    Source: arXiv 2602.11424; checked against the `DEFT` branch of the official code (luludus/DEFT).
    """

    def statistic(self, probabilities: Tensor) -> Tensor:
        return torch.linalg.vecdot(probabilities, probabilities)

    def loss(self, t: Targets) -> Tensor:
        return -torch.expm1(t.statistic * t.logp) / (t.statistic + 1e-6)
