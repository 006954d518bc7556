import math
from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key
from losslab.objectives import Distributions, Need, Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class JSD(Objective):
    """Distillation on demonstrations by the generalised Jensen-Shannon divergence: beta KL(teacher || M) + (1 - beta)
    KL(policy || M), M = beta teacher + (1 - beta) policy, over the vocabulary at every answer token.

    The teacher is `reference.path`. Divided by beta it tends to the forward KL for beta -> 0, divided by 1 - beta to
    the reverse KL for beta -> 1. Source: arXiv 2306.13649 (GKD), equation 1, on demonstrations alone; beta 0.5 is
    TRL's.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_distribution", "teacher"})
    beta: float = key(
        0.5, "share of the teacher in the mixture; loss=forward_kl and reverse_kl are 0 and 1", above=0, below=1
    )

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise ValueError(
                f"JSD needs a beta between 0 and 1, not {self.beta}; loss=forward_kl and reverse_kl are 0, 1."
            )

    def row_term(self, d: Distributions) -> Tensor:
        assert d.reference_logp is not None
        teacher, policy = d.reference_logp, d.logp
        mixture = torch.logaddexp(teacher + math.log(self.beta), policy + math.log1p(-self.beta))
        to_teacher = (teacher.exp() * (teacher - mixture)).sum(-1)
        return self.beta * to_teacher + (1 - self.beta) * (policy.exp() * (policy - mixture)).sum(-1)

    def loss(self, t: Targets) -> Tensor:
        return t.row_term
