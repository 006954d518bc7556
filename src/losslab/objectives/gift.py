import math
from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class GIFT(Objective):
    """GIFT: the cross-entropy with softmax(log p_ref + beta * onehot), which moves the reference towards the target.

    It is computed as g (-log p) + (1 - g) KL(reference || policy), g = sigmoid(log p_ref + log(e^beta - 1)), which
    differs by a constant, the entropy of the reference times 1 - g. At beta 20 g is 0.98 for p_ref = 1e-7, so training
    differs from SFT only for tokens that the reference almost excludes. Source: arXiv 2601.09233 v2; checked against
    the official trainer (zzy1127/GIFT, fsdp_gift_trainer.py): beta 20. It adds 1e-10 to every p_ref
    first, so that there g is at least 0.046 (here 0.0005 for p_ref = 1e-12). Its optional smoothing, off by default, is
    not implemented.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_logp", "reference_distribution"})
    beta: float = key(20.0, "what is added to the log-probability of the target under the reference", above=0)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"GIFT needs beta above 0, not {self.beta}.")

    def loss(self, t: Targets) -> Tensor:
        assert t.reference_logp is not None
        raised = t.reference_logp + self.beta + math.log(-math.expm1(-self.beta))
        share = torch.sigmoid(raised)
        return -share * t.logp + torch.sigmoid(-raised) * t.reference_kl
