from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class ASFTK3(Objective):
    """ASFT whose anchor reads the target alone: -sg(p) log p + kl_weight * (r - 1 - log r), r = p_ref / p.

    r - 1 - log r is the k3 estimate of a KL; of demonstrations, which are not drawn from the policy, it is a distance
    with its minimum at p = p_ref and not an estimate. It needs stored log-probabilities in place of a second model. The
    weight of a target, p + kl_weight (r - 1), has no bound: one that fell from p_ref = 0.4 to 1e-11 weighs 4e9, and at
    a log ratio of 88 the run stops with an error.
    Source: the technical report of Palmyra x6 (arXiv 2608.16620) with a weight of 0.1, known here from a third party's
    note.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_logp"})
    kl_weight: float = key(0.1, "of the distance from the reference; 0 = DFT", low=0)

    def loss(self, t: Targets) -> Tensor:
        assert t.reference_logp is not None
        log_ratio = t.reference_logp - t.logp
        return -t.p * t.logp + self.kl_weight * (torch.expm1(log_ratio) - log_ratio)
