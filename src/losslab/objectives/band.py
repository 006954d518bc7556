from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class Band(Objective):
    """The power loss on tokens within a band: 1[low <= p <= high] (1 - p^alpha) / alpha, and -log p at alpha 0.

    The weight is p^alpha within the band. alpha may be negative: then unlikely tokens weigh more than in SFT, without
    bound, so give `low` too where such tokens are noise.
    Source: arXiv 2510.00526, whose code has any alpha above 0 and both kinds of limits ("GeneralFamily", "OnlyTopP",
    "OnlyBottomP"; the paper's limit is 0.2) and divides by the kept tokens (train.normaliser=kept_tokens); arXiv
    2601.09195 (ProFit), whose code has a middle band at alpha 0, 0.3 to 0.7 in its examples, and divides by all answer
    tokens, as is the default. alpha below 0 is the same formula continued, and of no source.
    """

    low: float = key(0.0, "smallest probability of a token that is trained", low=0, below=1)
    high: float = key(1.0, "largest probability of a token that is trained", above=0, high=1)
    alpha: float = key(
        0.0, "the weight within the band is p^alpha: 0 = SFT, 1 = DFT, below 0 = more for unlikely tokens"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"A band needs 0 <= low < high <= 1, not low {self.low} and high {self.high}.")

    def loss(self, t: Targets) -> Tensor:
        kept = (t.p >= self.low) & (t.p <= self.high)
        logp = torch.where(kept, t.logp, 0.0)  # first, since a gradient of 0 times what overflows outside would be nan
        return -logp if self.alpha == 0 else -torch.expm1(self.alpha * logp) / self.alpha
