from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Scope, Targets, Tensor


@dataclass(frozen=True)
class CADFT(Objective):
    """Compatibility-aware DFT: -sg(p c) log p, c = exp(-beta max(0, z)), z = z-score of the sequence's mean NLL.

    Source: arXiv 2606.11206, from a detailed note on the paper, which confirms weight, beta 1 and the z-score over the
    global batch, but not whether the deviation is that of the population, as here. The paper averages over sequences,
    here over tokens. Its rewriting of demonstrations is not implemented: every 1,000 steps from step 3,000 on, half of
    the 0.5% of the rows with the highest moving average of z is replaced by samples of the model. A run of the length
    of the DFT paper's (390 steps) never reaches it.
    """

    scope: ClassVar[Scope] = "batch"
    needs: ClassVar[frozenset[Need]] = frozenset({"batch_nll"})
    beta: float = key(1.0, "how fast the weight falls with the z-score of a sequence; 0 = DFT", low=0)

    def loss(self, t: Targets) -> Tensor:
        assert t.batch_nll is not None and t.sequence_nll is not None
        deviation = t.batch_nll.std(correction=0).clamp(min=1e-6)
        z = (t.sequence_nll - t.batch_nll.mean()) / deviation
        compatibility = (-self.beta * z.clamp(min=0)).exp()
        return -t.p * compatibility[t.sequence] * t.logp
