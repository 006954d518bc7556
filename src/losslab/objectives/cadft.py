from dataclasses import dataclass
from typing import ClassVar

from losslab.objectives import Need, Objective, Scope, Targets, Tensor


@dataclass(frozen=True)
class CADFT(Objective):
    """Compatibility-aware DFT: -sg(p c) log p, c = exp(-beta max(0, z)), z = z-score of the sequence's mean NLL.

    Source: arXiv 2606.11206, known here from summaries only: not checked against the paper's equations, and its
    rewriting of demonstrations is not here. The z-score is over the global batch, by the population deviation.
    """

    scope: ClassVar[Scope] = "batch"
    needs: ClassVar[frozenset[Need]] = frozenset({"batch_nll"})
    beta: float = 1.0

    def loss(self, t: Targets) -> Tensor:
        assert t.batch_nll is not None and t.sequence_nll is not None
        deviation = t.batch_nll.std(correction=0).clamp(min=1e-6)
        z = (t.sequence_nll - t.batch_nll.mean()) / deviation
        compatibility = (-self.beta * z.clamp(min=0)).exp()
        return -t.p * compatibility[t.sequence] * t.logp
