from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Scope, Targets, Tensor, torch


@dataclass(frozen=True)
class DPO(Objective):
    """Direct preference optimisation: -log sigmoid(beta (m_chosen - m_rejected)), m = sum_t (log p - log p_ref).

    Source: arXiv 2305.18290, equation 7. Sequences 2i and 2i + 1 of a micro-batch are the chosen and the rejected
    answer of pair i. One term per pair, so its natural normaliser is the number of pairs.
    """

    scope: ClassVar[Scope] = "sequence"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference_logp", "pairs"})
    beta: float = key(0.1, "factor of the margin to the reference; at 0 nothing is learned", above=0)

    def loss(self, t: Targets) -> Tensor:
        assert t.reference_logp is not None and t.sequences % 2 == 0
        margin = t.sequence_sum(t.logp - t.reference_logp)
        return -logsigmoid(self.beta * (margin[0::2] - margin[1::2]))


def logsigmoid(values: Tensor) -> Tensor:
    return torch.nn.functional.logsigmoid(values)
