from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Need, Objective, Scope, Targets, Tensor


@dataclass(frozen=True)
class IWSFT(Objective):
    """Importance-weighted SFT: -sg(w) log p, w = clip(exp(temperature * mean_t(log p - log p_ref)), 0, clip).

    w is constant over a sequence. Source: arXiv 2507.12856; temperature 1 and clip 16 are the values that the official
    code (emmyqin/iw_sft) uses.
    """

    scope: ClassVar[Scope] = "sequence"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference_logp"})
    temperature: float = key(1.0, "factor of the log ratio to the reference in the weight; 0 = SFT", low=0)
    clip: float = key(16.0, "largest weight of a sequence", above=0)

    def loss(self, t: Targets) -> Tensor:
        assert t.reference_logp is not None
        ratio = t.sequence_mean(t.logp.detach() - t.reference_logp)
        weight = (self.temperature * ratio).exp().clamp(max=self.clip)
        return -weight[t.sequence] * t.logp
