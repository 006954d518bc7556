from dataclasses import dataclass
from typing import Literal

from losslab.keys import key
from losslab.objectives import Distributions, Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class GEM(Objective):
    """GEM: -sum_v sg(q_v w_v) (log p - log p_v), q = softmax(logits / beta), which moves probability to the target from
    other tokens in proportion to their probability under a sharpened policy.

    w_v = sigmoid(0.01 (logit_v - logit of the target)) for "logsigmoid", 1 for "linear". beta 1 and "linear" has the
    gradient of SFT.
    Source: arXiv 2408.16673; checked against the official code (liziniu/GEM, sft_trainer_v2.py): beta 0.7, logsigmoid.
    """

    beta: float = key(
        0.7, "temperature of the policy that says which tokens lose probability; below 1 is sharper", above=0
    )
    kind: Literal["logsigmoid", "linear"] = key(
        "logsigmoid", "weight of another token: sigmoid of 0.01 times its logit minus the target's, or 1"
    )

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"GEM divides logits by beta: give a number above 0, not {self.beta}.")
        if self.kind not in ("logsigmoid", "linear"):
            raise ValueError(f"GEM's kind is 'logsigmoid' or 'linear', not '{self.kind}'.")

    def row_term(self, d: Distributions) -> Tensor:
        logp = d.logp.detach()
        weight = (logp / self.beta).softmax(-1)
        if self.kind == "logsigmoid":
            weight = weight * torch.sigmoid(0.01 * (logp - d.of_target(logp)[:, None]))
        return (weight * d.logp).sum(-1) - weight.sum(-1) * d.of_target(d.logp)

    def loss(self, t: Targets) -> Tensor:
        return t.row_term
