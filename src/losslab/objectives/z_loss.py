from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Distributions, Objective, Targets, Tensor


@dataclass(frozen=True)
class ZLoss(Objective):
    """SFT with logits held near zero: -log p + z_weight (log Z)^2, Z = sum_v exp(logit_v).

    Source: arXiv 2204.02311 (PaLM), section 5, with its weight. The metric `z` is the mean of (log Z)^2.
    """

    metrics: ClassVar[tuple[str, ...]] = ("z",)
    z_weight: float = key(1e-4, "of the squared logarithm of the normaliser; 0 = SFT", low=0)

    def row_term(self, d: Distributions) -> Tensor:
        return d.logsumexp.square()

    def loss(self, t: Targets) -> Tensor:
        return -t.logp + self.z_weight * t.row_term

    def measure(self, t: Targets) -> tuple[Tensor, ...]:
        return (t.row_term,)
