"""Draws docs/weights.png: the weight -d loss / d log p of each token-level objective against p.

python docs/plot_weights.py
"""

from pathlib import Path

import matplotlib
import torch

from losslab.objectives import Objective, Targets
from losslab.objectives.chord_phi import ChordPhi
from losslab.objectives.dft import DFT
from losslab.objectives.focal import Focal
from losslab.objectives.power import Power
from losslab.objectives.sft import SFT
from losslab.objectives.threshold import Threshold

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SHOWN = {
    "sft": SFT(),
    "dft": DFT(),
    "dft_floor 0.1": DFT(floor=0.1),
    "chord_phi": ChordPhi(),
    "focal γ 2": Focal(gamma=2.0),
    "power α 10": Power(alpha=10.0),
    "threshold τ 0.1": Threshold(tau=0.1),
}


def weight(objective: Objective, p: torch.Tensor) -> torch.Tensor:
    """(N,) -d loss / d log p at each probability."""
    logp = p.log().requires_grad_()
    # These objectives read p alone.
    targets = Targets(sequence=torch.arange(len(p)), sequences=len(p), logp=logp, entropy=torch.zeros_like(p))
    (gradient,) = torch.autograd.grad(objective.loss(targets).sum(), logp)
    return -gradient


def main() -> None:
    p = torch.linspace(1e-3, 1 - 1e-6, 500)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, objective in SHOWN.items():
        axes.plot(
            p, weight(objective, p), label=name, linestyle="--" if "floor" in name or "threshold" in name else "-"
        )
    axes.set(xlabel="probability p of the target token", ylabel="weight of its gradient")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(Path(__file__).with_name("weights.png"), dpi=130)


if __name__ == "__main__":
    main()
