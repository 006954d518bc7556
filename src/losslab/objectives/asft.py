from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class ASFT(Objective):
    """Anchored SFT: -sg(p) log p + kl_weight * KL(reference || policy) over the vocabulary, at every answer token.

    Source: arXiv 2509.23753; the direction of the KL is checked against the official code (zhuchichi56/ASFT), whose
    README, like the paper, sets the weight to 0.05, whose code defaults to 0.1, and whose notes advise 0.03 in
    bfloat16.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_distribution"})
    kl_weight: float = key(0.05, "of the divergence from the reference; 0 = DFT", low=0)

    def loss(self, t: Targets) -> Tensor:
        return -t.p * t.logp + self.kl_weight * t.reference_kl
