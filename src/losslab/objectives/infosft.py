import math
from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class InfoSFT(Objective):
    """InfoSFT: -sg(p max(0, 1 - logit(p) / logit(ceiling))) log p: DFT for doubtful tokens, nothing for sure ones.

    logit(p) = log(p / (1 - p)). The weight is 0 for p >= ceiling, equals p at p = 1/2, and exceeds p below that.
    Source: arXiv 2605.14967; formula and ceiling 0.93 are those of the official code (Helloworld10011/InfoSFT,
    infosft_loss.py). The paper was not read.
    """

    ceiling: float = key(0.93, "probability from which a token has no weight", above=0.5, below=1)

    def __post_init__(self) -> None:
        if not 0.5 < self.ceiling < 1:
            raise ValueError(f"InfoSFT's ceiling is a probability above 0.5 and below 1, not {self.ceiling}.")

    def loss(self, t: Targets) -> Tensor:
        logp = t.logp.detach()
        logit = logp - torch.log(-torch.expm1(logp))  # infinite at p = 1, where the weight is 0
        share = 1 - logit / math.log(self.ceiling / (1 - self.ceiling))
        return -t.p * share.clamp(min=0) * t.logp
