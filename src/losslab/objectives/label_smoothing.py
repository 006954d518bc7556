from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Distributions, Objective, Targets, Tensor


@dataclass(frozen=True)
class LabelSmoothing(Objective):
    """SFT towards a smoothed target: -(1 - epsilon) log p - epsilon mean_v log p_v, over the vocabulary.

    Source: arXiv 1512.00567, section 7, with the uniform distribution; as `label_smoothing` of torch's cross_entropy.
    """

    epsilon: float = key(0.1, "probability that the target gives to all tokens; 0 = SFT", low=0, below=1)

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"Label smoothing needs an epsilon from 0 to below 1, not {self.epsilon}.")

    def row_term(self, d: Distributions) -> Tensor:
        return -d.logp.sum(-1) / d.logp.shape[1]

    def loss(self, t: Targets) -> Tensor:
        return -(1 - self.epsilon) * t.logp + self.epsilon * t.row_term
