from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Distributions, Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class TargetSFT(Objective):
    """Cross-entropy with the target distribution sg(p) onehot + (1 - sg(p)) R, R = softmax of (1 - eta) log policy +
    eta log reference, held constant.

    For targets of low probability the model stays close to its own and the reference's distribution. eta 0 is DFT,
    since the cross-entropy with the policy itself has no gradient. Source: the project page of arXiv 2606.11189
    (Target-SFT), which states neither eta nor the reference: 0.5 is our choice. The paper was not read.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_distribution"})
    metrics: ClassVar[tuple[str, ...]] = ("cross_entropy_with_r",)
    eta: float = key(0.5, "share of the reference in the target distribution; 0 = DFT", low=0, high=1)

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"Target-SFT needs an eta from 0 to 1, not {self.eta}.")

    def row_term(self, d: Distributions) -> Tensor:
        assert d.reference_logp is not None
        between = d.logp.detach().lerp(d.reference_logp, self.eta).softmax(-1)
        return -(between * d.logp).sum(-1)

    def loss(self, t: Targets) -> Tensor:
        return -t.p * t.logp + (1 - t.p) * t.row_term

    def measure(self, t: Targets) -> tuple[Tensor, ...]:
        return (t.row_term,)
