from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor


@dataclass(frozen=True)
class IDFT(Objective):
    """In-distribution fine-tuning: -sg(p^g) log p, g = clip(exp(-(log p + H) / beta), low, high), H = entropy of the
    whole distribution.

    Near SFT for a token that is more likely than expected from the entropy, beyond DFT for one that is less likely.
    Source: arXiv 2602.12222; checked against the trainer that the official script runs (zhangmiaosen2000/
    Towards-On-Policy-SFT, fsdp_polylog_trainer.py): beta 1, limits 0.1 and 2, no warm-up, since March 2026 (commit
    eb0f3e7): before, and perhaps in the paper's runs, p^g was differentiated too. Its entropy adds 1e-10 inside the
    logarithm. The paper was not read.
    """

    beta: float = key(1.0, "divisor of log p + entropy in the exponent, not 0")
    low: float = key(0.1, "smallest exponent of p in the weight; 0 = no limit", low=0)
    high: float = key(2.0, "largest exponent of p in the weight", above=0)

    def __post_init__(self) -> None:
        if self.beta == 0:
            raise ValueError("IDFT divides by beta: give a number other than 0.")

    def loss(self, t: Targets) -> Tensor:
        logp = t.logp.detach()
        exponent = (-(logp + t.entropy) / self.beta).exp().clamp(self.low, self.high)
        return -(exponent * logp).exp() * t.logp
