from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Distributions, Need, Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class TopKKL(Objective):
    """Distillation on demonstrations: KL(teacher || policy) over the teacher's top_k tokens and all others as one.

    The teacher is `reference.path`. With the others as one it is a divergence, at most the full one. Source: the
    forward_kl_topk of verl with its k 32, which leaves the others out.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_distribution", "teacher"})
    top_k: int = key(32, "the teacher's most likely tokens; all others count as one", low=1)

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"The teacher's top_k are at least 1, not {self.top_k}.")

    def row_term(self, d: Distributions) -> Tensor:
        assert d.reference_logp is not None
        top = d.reference_logp.topk(min(self.top_k, d.logp.shape[1] - 1)).indices
        teacher, policy = (torch.cat([x.gather(1, top), _rest(x, top)], 1) for x in (d.reference_logp, d.logp))
        return (teacher.exp() * (teacher - policy)).sum(-1)

    def loss(self, t: Targets) -> Tensor:
        return t.row_term


@dataclass(frozen=True)
class StoredTopKKL(TopKKL):
    """The same divergence, from the teacher's top_k log-probabilities as they are measured once, before training.

    The teacher is not there in training, takes no part of its memory and time, and its log-probabilities serve every
    run on the same data, at 8 bytes on the disk for each of the top_k at each answer token.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_top", "teacher"})

    def row_term(self, d: Distributions) -> Tensor:
        assert d.reference_top is not None
        teacher, top = d.reference_top[0], d.reference_top[1].long()
        all_others = torch.log1p(-teacher.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-7))
        teacher, policy = torch.cat([teacher, all_others], 1), torch.cat([d.logp.gather(1, top), _rest(d.logp, top)], 1)
        return (teacher.exp() * (teacher - policy)).sum(-1)


def _rest(logp: Tensor, top: Tensor) -> Tensor:
    """(R, 1) log of what all tokens but `top` (R, k) have; 1 less their sum would be rounding where they have all."""
    return logp.scatter(1, top, -torch.inf).logsumexp(-1, keepdim=True)
