from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Scope, Targets, Tensor


@dataclass(frozen=True)
class KTO(Objective):
    """Kahneman-Tversky optimisation, of answers that are right or wrong by themselves. With m = sum_t (log p - log
    p_ref) a right one has the loss 1 - sigmoid(beta (m - z)), a wrong one 1 - sigmoid(beta (z - m)), times its weight.

    z is the mean of m over the batch's questions with answers to other questions, at least 0, and held constant. One
    term per answer, so its natural normaliser is their number. Source: arXiv 2402.01306, equation 7 as TRL cites it
    (the paper was not read), and TRL's KTOTrainer, whose loss and z it has to 1e-4 on one batch. TRL's z is that of a
    micro-batch, here it is the global batch's. TRL advises weights such that weight times number of the right answers
    is 1 to 4/3 times that of the wrong ones.
    """

    scope: ClassVar[Scope] = "sequence"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference_logp", "reward", "mismatched_kl"})
    beta: float = key(0.1, "factor of the margin to the reference; at 0 nothing is learned", above=0)
    right_weight: float = key(1.0, "of right answers; 0 = they are left out", low=0)
    wrong_weight: float = key(1.0, "of wrong answers; 0 = they are left out", low=0)

    def loss(self, t: Targets) -> Tensor:
        assert t.reference_logp is not None and t.reward is not None and t.mismatched_kl is not None
        margin = t.sequence_sum(t.logp - t.reference_logp) - t.mismatched_kl
        weight = self.wrong_weight + (self.right_weight - self.wrong_weight) * t.reward
        return weight * (self.beta * (1 - 2 * t.reward) * margin).sigmoid()
