import math
from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class PSFT(Objective):
    """Proximal SFT: -min(r, 1 + epsilon), r = p / p_old; a token stops learning once its r passes the clip.

    Source: arXiv 2508.17784. Only the upper clip acts, as the advantage is 1 everywhere. p_old is the policy at the
    start of the collected batch, so it takes several updates per batch: with one, r = 1 and the gradient is SFT's. The
    official code takes 8 (batches of 64 in parts of 8) at a learning rate of 1e-6.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"old_logp"})
    epsilon: float = key(0.28, "a token stops learning where its probability ratio passes 1 + epsilon", low=0)

    def loss(self, t: Targets) -> Tensor:
        assert t.old_logp is not None
        # clipped before exp, whose overflow would turn the zero gradient into nan
        return -(t.logp - t.old_logp).clamp(max=math.log1p(self.epsilon)).exp()
