from dataclasses import dataclass
from typing import ClassVar

from losslab.objectives import Need, Objective, Scope, Targets, Tensor, torch


@dataclass(frozen=True)
class CayleyDEFT(Objective):
    """The second form of DEFT: (1 - p^a) / (a + 1e-8), a = sg(clip(f + (1 - f) p / (2 - p), 0.001, 1)), f = half of the
    mean p.

    Source: the branch `Cayley_Trans` of the official code of arXiv 2602.11424 (luludus/DEFT). The mean is there over a
    micro-batch, here over the answer tokens of the global batch, so that neither micro-batches nor ranks change it.
    """

    scope: ClassVar[Scope] = "batch"
    needs: ClassVar[frozenset[Need]] = frozenset({"batch_p"})

    def loss(self, t: Targets) -> Tensor:
        assert t.batch_p is not None
        focus = t.batch_p / 2
        a = (focus + (1 - focus) * t.p / (2 - t.p)).clamp(0.001, 1)
        return -torch.expm1(a * t.logp) / (a + 1e-8)
