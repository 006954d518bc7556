from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Scope, Targets, Tensor


@dataclass(frozen=True)
class TALR(Objective):
    """Token-adaptive loss reweighting: -sg(max(p^(1 / tau), w_min)) log p, tau = median sequence mean NLL of the batch.

    Source: arXiv 2509.20758, whose code is not published. Two notes on the paper confirm p^(1 / tau); w_min 0.01 is
    only known from re-implementations, one of which uses the lower of the two middle values as the median. Whether the
    paper rescales weights to a sum of 1 is unknown; here they are not. The median is over the global batch, so that
    neither micro-batches nor ranks change the result.
    """

    scope: ClassVar[Scope] = "batch"
    needs: ClassVar[frozenset[Need]] = frozenset({"batch_nll"})
    w_min: float = key(0.01, "smallest weight of a token; 1 = SFT", low=0, high=1)

    def loss(self, t: Targets) -> Tensor:
        assert t.batch_nll is not None
        # quantile averages the two middle values of an even batch; Tensor.median takes the lower one
        tau = t.batch_nll.quantile(0.5).clamp(min=1e-6)
        return -(t.logp.detach() / tau).exp().clamp(min=self.w_min) * t.logp
