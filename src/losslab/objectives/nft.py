from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losslab.objectives import Need, Objective, Targets

RATES = (0.02, 0.98)  # of success, between which the official code keeps them
LARGEST = 10.0  # logarithm of a ratio


@dataclass(frozen=True)
class NFT(Objective):
    """Negative-aware fine-tuning: likelihood of the right answers, and of the wrong ones under an implicit policy.

    With R = p / p_old of a token and r the share of right answers to its question, a right answer has the loss
    -(1 - r) log R and a wrong one -(1 - r) log max((1 - r R) / (1 - r), floor), where the maximum passes the gradient
    straight through. At R = 1 the weight of a token is its reward less r, as in Dr. GRPO. Questions whose answers are
    all right, or all wrong, have no part in it; train.normaliser=kept_tokens does not count their tokens either.

    Source: arXiv 2505.18116; read from its code (NVlabs/NFT, dp_actor.py and train_7B.sh): the ratio by token, the
    straight-through maximum with floor 1, the factor 1 - r, r kept in [0.02, 0.98], log R at most 10, and questions
    of one kind filtered out. There answers are drawn anew every few steps and token losses are summed over a constant;
    offline the old policy is the reference, and the loop divides by a number of tokens. The paper itself was not read
    beyond its abstract.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_logp", "reward"})
    floor: float = 1.0

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError("the floor of NFT must be above 0")

    def loss(self, t: Targets) -> Tensor:
        assert t.reference_logp is not None and t.reward is not None and t.success_rate is not None
        reward, rate = t.reward[t.sequence], t.success_rate[t.sequence]
        mixed = (rate > 0) & (rate < 1)
        rate = rate.clamp(*RATES)
        log_ratio = (t.logp - t.reference_logp).clamp(max=LARGEST)
        negative = (1 - rate * log_ratio.exp()) / (1 - rate)
        held = negative + (negative.clamp(min=self.floor) - negative).detach()
        return -mixed * (1 - rate) * (reward * log_ratio + (1 - reward) * held.log())
