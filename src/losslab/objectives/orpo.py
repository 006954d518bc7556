from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Scope, Targets, Tensor, torch
from losslab.objectives.dpo import logsigmoid


@dataclass(frozen=True)
class ORPO(Objective):
    """Odds ratio preference optimisation: -m_chosen - odds_weight * log sigmoid(logit_chosen - logit_rejected),
    m = mean_t log p, logit = log(e^m / (1 - e^m)).

    Source: arXiv 2403.07691, equations 4, 6 and 7 as in TRL's trainer; weight 0.1 is TRL's default. TRL's first term
    includes the prompt's tokens, here it is the mean over the answer. Sequences 2i and 2i + 1 of a micro-batch are the
    chosen and the rejected answer of pair i. One term per pair: its natural normaliser is the number of pairs.
    """

    scope: ClassVar[Scope] = "sequence"
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})
    odds_weight: float = key(0.1, "of the odds ratio; 0 = SFT on the chosen answers", low=0)

    def loss(self, t: Targets) -> Tensor:
        assert t.sequences % 2 == 0
        mean = t.sequence_mean(t.logp)
        below = mean.clamp(max=-1e-6)  # at a mean of 0 the odds, and their gradient, are infinite
        logit = below - torch.log(-torch.expm1(below))
        return -mean[0::2] - self.odds_weight * logsigmoid(logit[0::2] - logit[1::2])
