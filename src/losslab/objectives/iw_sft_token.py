from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class TokenIWSFT(Objective):
    """Importance-weighted SFT with a weight per token: -sg(clip(p / p_ref, low, high)) log p.

    Source: the branch that the official code of arXiv 2507.12856 (emmyqin/iw_sft) holds and does not run; its limits.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_logp"})
    low: float = key(0.2, "smallest weight of a token", low=0)
    high: float = key(1.8, "largest weight of a token", above=0)

    def loss(self, t: Targets) -> Tensor:
        assert t.reference_logp is not None
        ratio = (t.logp.detach() - t.reference_logp).exp()
        return -ratio.clamp(self.low, self.high) * t.logp
