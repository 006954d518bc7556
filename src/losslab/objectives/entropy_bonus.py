from dataclasses import dataclass

from losslab.keys import key
from losslab.objectives import Distributions, Objective, Targets, Tensor


@dataclass(frozen=True)
class EntropyBonus(Objective):
    """SFT that keeps distributions broad: -log p - entropy_weight H, H = entropy over the vocabulary.

    Source: arXiv 1701.06548 (confidence penalty). Its best weight is 2 for language models trained from scratch
    (section 4.2) and 0.1 for images; 0.1 is the default here, since fine-tuning begins with a trained model.
    Entropy terms of arXiv 2605.29303 (EKSFT) and 2602.07464 (SED-SFT) select tokens besides, which is not here.
    """

    entropy_weight: float = key(0.1, "of the entropy: above 0 keeps distributions broad, below 0 sharpens them")

    def row_term(self, d: Distributions) -> Tensor:
        return (d.logp.exp() * d.logp).sum(-1)

    def loss(self, t: Targets) -> Tensor:
        return -t.logp + self.entropy_weight * t.row_term
