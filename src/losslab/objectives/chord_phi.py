from dataclasses import dataclass

from losslab.objectives import Objective, Targets, Tensor


@dataclass(frozen=True)
class ChordPhi(Objective):
    """CHORD-phi: -sg(p (1 - p)) log p, which spares tokens that the model already knows and those it refuses.

    Source: arXiv 2508.11408, the token weight of its off-policy part, checked against Trinity-RFT; a lower limit on
    log p, which is off there by default, and the on-policy part are not here.
    """

    def loss(self, t: Targets) -> Tensor:
        return -t.p * (1 - t.p) * t.logp
