from dataclasses import dataclass
from typing import Literal

from losslab.objectives import Objective, Targets, Tensor


@dataclass(frozen=True)
class Threshold(Objective):
    """SFT on likely tokens: -1[p >= tau] log p; with direction "below", on unlikely ones: -1[p <= tau] log p.

    Source: arXiv 2601.09195 (ProFit), whose tau is 0.1 and whose code divides by all answer tokens, as is the default
    of train.normaliser; arXiv 2510.00526 (thresholded likelihood), whose tau is 0.2 and whose code divides by the kept
    tokens: set train.normaliser=kept_tokens. A middle band is `Band`.
    """

    tau: float = 0.1
    direction: Literal["above", "below"] = "above"

    def __post_init__(self) -> None:
        if self.direction not in ("above", "below"):
            raise ValueError(f"The threshold's direction is 'above' or 'below', not '{self.direction}'.")

    def loss(self, t: Targets) -> Tensor:
        kept = t.p >= self.tau if self.direction == "above" else t.p <= self.tau
        return kept * -t.logp
