from dataclasses import dataclass
from typing import Literal

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor


@dataclass(frozen=True)
class Threshold(Objective):
    """SFT on likely tokens: -1[p >= tau] log p; with direction "below", on unlikely ones: -1[p <= tau] log p.

    Source: arXiv 2601.09195 (ProFit), whose tau is 0.1 and whose code divides by all answer tokens, as is the default
    of train.normaliser; arXiv 2510.00526 (thresholded likelihood), whose tau is 0.2 and whose code divides by the kept
    tokens: set train.normaliser=kept_tokens. A middle band is `Band`.
    """

    tau: float = key(0.1, "limit of p between tokens that are trained and others", low=0, high=1)
    direction: Literal["above", "below"] = key(
        "above", "the side of tau on which tokens are trained; those at tau always are"
    )

    def __post_init__(self) -> None:
        if self.direction not in ("above", "below"):
            raise ValueError(f"The threshold's direction is 'above' or 'below', not '{self.direction}'.")

    def loss(self, t: Targets) -> Tensor:
        kept = t.p >= self.tau if self.direction == "above" else t.p <= self.tau
        return kept * -t.logp
