from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Objective, Targets, Tensor, torch


@dataclass(frozen=True)
class EAFT(Objective):
    """Entropy-adaptive fine-tuning: -sg((H / 3)^alpha) log p, H = entropy of the renormalised top_k probabilities.

    Source: arXiv 2601.02151; checked against the `eaft` loss of LLaMA-Factory, by its authors: top_k 20, alpha 1 and
    the constant 3, for whatever top_k. The paper's equation 3 divides by log(top_k), which is 2.996 for 20. The port in
    axolotl does not divide, so that its weights are 3^alpha times these. Tokens that the model is sure of count little,
    whether it is right or wrong.
    """

    alpha: float = key(1.0, "exponent of the entropy in the weight; 0 = SFT", low=0)
    top_k: int = key(20, "how many of the most likely tokens the entropy is of; that of one is 0", low=2)

    def statistic(self, probabilities: Tensor) -> Tensor:
        top = probabilities.topk(min(self.top_k, probabilities.shape[-1])).values
        return torch.special.entr(top / top.sum(-1, keepdim=True)).sum(-1)

    def loss(self, t: Targets) -> Tensor:
        return -((t.statistic / 3) ** self.alpha) * t.logp
