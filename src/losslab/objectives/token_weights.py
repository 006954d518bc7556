from dataclasses import dataclass
from typing import ClassVar

from losslab.objectives import Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class TokenWeights(Objective):
    """SFT with weights that the data have: -w log p, w from `dataset.weights_column`, a number for each answer token.

    It serves selections that are made once and outside, such as the tokens of high excess loss (Rho-1, arXiv
    2404.07965) or those whose replacement makes an answer wrong (CFT, arXiv 2510.10974). Whether the sum is divided by
    all answer tokens or by those of a weight that is not 0 is `train.normaliser`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"token_weight"})

    def loss(self, t: Targets) -> Tensor:
        assert t.token_weight is not None
        return -t.token_weight * t.logp
