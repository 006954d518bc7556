from dataclasses import dataclass
from typing import ClassVar, Literal

from losslab.keys import key
from losslab.objectives import Objective, Scope, Targets, Tensor


@dataclass(frozen=True)
class SequenceDFT(Objective):
    """DFT with one weight per sequence: -sg(prod_t p_t) log p, or -sg(exp(mean_t log p_t)) log p ("geometric").

    Source: arXiv 2508.05629, Table 5, where both fall behind the token level. The product underflows to a weight of
    zero for most sequences beyond some hundred tokens; that is the method, not a fault.
    """

    scope: ClassVar[Scope] = "sequence"
    level: Literal["product", "geometric"] = key(
        "product", "weight of a sequence: the product of its probabilities, or their geometric mean"
    )

    def __post_init__(self) -> None:
        if self.level not in ("product", "geometric"):
            raise ValueError(f"The level of sequence DFT is 'product' or 'geometric', not '{self.level}'.")

    def loss(self, t: Targets) -> Tensor:
        pool = t.sequence_sum if self.level == "product" else t.sequence_mean
        return -pool(t.logp.detach()).exp()[t.sequence] * t.logp
