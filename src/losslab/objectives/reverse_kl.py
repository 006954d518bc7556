from dataclasses import dataclass
from typing import ClassVar

from losslab.objectives import Distributions, Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class ReverseKL(Objective):
    """Distillation on demonstrations: KL(policy || teacher) over the vocabulary, at every answer token.

    The teacher is `reference.path`. It avoids what the teacher does not do. Source: the divergence of arXiv 2306.08543
    (MiniLLM), here at each token of a demonstration and not of the policy's own answers.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_distribution", "teacher"})

    def row_term(self, d: Distributions) -> Tensor:
        assert d.reference_logp is not None
        return (d.logp.exp() * (d.logp - d.reference_logp)).sum(-1)

    def loss(self, t: Targets) -> Tensor:
        return t.row_term
