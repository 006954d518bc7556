from dataclasses import dataclass
from typing import ClassVar

from losslab.objectives import Need, Objective, Targets, Tensor


@dataclass(frozen=True)
class ForwardKL(Objective):
    """Distillation on demonstrations: KL(teacher || policy) over the vocabulary, at every answer token.

    The teacher is `reference.path`. Source: arXiv 1503.02531, at temperature 1; it covers all that the teacher does.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_distribution", "teacher"})

    def loss(self, t: Targets) -> Tensor:
        return t.reference_kl
