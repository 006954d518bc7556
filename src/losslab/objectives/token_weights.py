from dataclasses import dataclass
from typing import ClassVar

from losslab.objectives import Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class TokenWeights(Objective):
    """SFT with weights from the data: -w log p, w from `dataset.weights_column`, one number per answer token.

    For selections computed outside losslab, such as tokens of high excess loss (Rho-1, arXiv 2404.07965) or those whose
    replacement makes an answer wrong (CFT, arXiv 2510.10974). By default the sum is divided by all answer tokens;
    train.normaliser=kept_tokens divides it by those of non-zero weight, as Rho-1's formula does (from memory).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"token_weight"})

    def loss(self, t: Targets) -> Tensor:
        assert t.token_weight is not None
        return -t.token_weight * t.logp
