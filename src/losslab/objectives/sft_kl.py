from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class SFTKL(Objective):
    """SFT held near the reference: -log p + kl_weight * KL(reference || policy) over the vocabulary, at every token.

    Source: the baseline "sft+kl" of arXiv 2509.23753, checked against its code (zhuchichi56/ASFT), whose weight is 0.1.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_distribution"})
    kl_weight: float = key(0.1, "of the divergence from the reference; 0 = SFT", low=0)

    def loss(self, t: Targets) -> Tensor:
        return -t.logp + self.kl_weight * t.reference_kl
