from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class NFT(Objective):
    """Negative-aware fine-tuning: the likelihood of right answers, and that of wrong ones under an implicit policy.

    With R = p / p_old of a token and r the share of right answers to its question, a right answer has the loss -(1 - r)
    log R and a wrong one -(1 - r) log max((1 - r R) / (1 - r), floor), whose maximum passes the gradient straight
    through. At R = 1 the weight of a token is its reward minus r, as in Dr. GRPO. Questions with only right or only
    wrong answers give no gradient; with train.normaliser=kept_tokens their tokens are not counted either.

    Source: arXiv 2505.18116. From the authors' code (NVlabs/NFT: dp_actor.py, ray_nft_trainer.py, train_7B.sh): the
    ratio per token, the straight-through maximum with floor 1, the factor 1 - r, r clamped to 0.02 to 0.98, log R to at
    most 10, and the filter of questions with only right or only wrong answers. There answers are sampled again every
    few steps; offline the old policy is the reference model. There token losses are divided by a constant, here by the
    batch's tokens. Only the abstract of the paper was read, not its equations.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_logp", "reward"})
    floor: float = key(1.0, "smallest ratio in the logarithm of a wrong answer's loss", above=0)

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"NFT needs a floor above 0, not {self.floor}.")

    def loss(self, t: Targets) -> Tensor:
        assert t.reference_logp is not None and t.reward is not None and t.success_rate is not None
        reward, rate = t.reward[t.sequence], t.success_rate[t.sequence]
        mixed = (rate > 0) & (rate < 1)
        rate = rate.clamp(0.02, 0.98)
        log_ratio = (t.logp - t.reference_logp).clamp(max=10.0)
        negative = (1 - rate * log_ratio.exp()) / (1 - rate)
        negative = negative + (negative.clamp(min=self.floor) - negative).detach()
        return -(mixed * (1 - rate)) * (reward * log_ratio + (1 - reward) * negative.log())
