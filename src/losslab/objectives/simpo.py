from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Scope, Targets, Tensor
from losslab.objectives.dpo import logsigmoid


@dataclass(frozen=True)
class SimPO(Objective):
    """Simple preference optimisation: -log sigmoid(beta (m_chosen - m_rejected) - gamma), m = mean_t log p.

    Source: arXiv 2405.14734; beta 2 and gamma 0.5 (gamma_beta_ratio 0.25) are the defaults of the official code
    (princeton-nlp/SimPO). Sequences 2i and 2i + 1 of a micro-batch are the chosen and the rejected answer of pair i.
    One term per pair, so its natural normaliser is the number of pairs.
    """

    scope: ClassVar[Scope] = "sequence"
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})
    beta: float = key(2.0, "factor of the margin between the answers; at 0 nothing is learned", above=0)
    gamma: float = key(0.5, "what is subtracted from the margin times beta; 0 = nothing")

    def loss(self, t: Targets) -> Tensor:
        assert t.sequences % 2 == 0
        mean = t.sequence_mean(t.logp)
        return -logsigmoid(self.beta * (mean[0::2] - mean[1::2]) - self.gamma)
