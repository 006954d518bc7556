"""What objectives that read whole distributions take beside SFT: forward and backward of the loss on a CPU.

    python benchmarks/row_terms.py                            # writes results/benchmarks/row-terms-cpu.md
    python benchmarks/row_terms.py --shape 512x1536x151936    # answer tokens x hidden width x vocabulary

One thread, CPU seconds, contestants in turns, the best turn of each: what else runs on the machine then counts little.
An objective with a reference takes its logits too, so it stands beside SFT and one more product of a forward.
"""

import argparse
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from losslab.models.fused_loss import Head, objective_loss, target_logprobs
from losslab.objectives import Context, Objective
from losslab.objectives.asft import ASFT
from losslab.objectives.entropy_bonus import EntropyBonus
from losslab.objectives.forward_kl import ForwardKL
from losslab.objectives.gem import GEM
from losslab.objectives.jsd import JSD
from losslab.objectives.label_smoothing import LabelSmoothing
from losslab.objectives.reverse_kl import ReverseKL
from losslab.objectives.sft import SFT
from losslab.objectives.target_sft import TargetSFT
from losslab.objectives.top_k_kl import TopKKL
from losslab.objectives.z_loss import ZLoss

FORWARD = "one forward more, without gradients"
OBJECTIVES: dict[str, Objective] = {
    "sft": SFT(),
    "label_smoothing": LabelSmoothing(),
    "z_loss": ZLoss(),
    "entropy_bonus": EntropyBonus(),
    "gem": GEM(),
    "asft": ASFT(),
    "forward_kl": ForwardKL(),
    "reverse_kl": ReverseKL(),
    "jsd": JSD(),
    "top_k_kl": TopKKL(),
    "target_sft": TargetSFT(),
}


def seconds(objective: Objective | None, hidden: Tensor, weight: Tensor, targets: Tensor, teacher: Head) -> float:
    """CPU seconds of a loss and its gradients, or of a forward alone."""
    hidden.grad = weight.grad = None
    start = time.process_time()
    if objective is None:
        with torch.no_grad():
            target_logprobs(hidden, teacher, targets)
    else:
        context = Context(sequence=torch.zeros_like(targets), sequences=1)
        reference = (hidden.detach(), teacher) if "reference_distribution" in objective.needs else None
        loss = objective_loss(objective, hidden, Head(weight), targets, context, reference=reference).loss
        loss.backward()  # type: ignore[no-untyped-call]
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="128x384x151936")
    parser.add_argument("--turns", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens, width, vocabulary = map(int, args.shape.split("x"))
    weight = torch.empty(vocabulary, width).normal_(std=0.05).requires_grad_()
    teacher = Head(torch.empty(vocabulary, width).normal_(std=0.05))
    hidden = torch.randn(tokens, width).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))
    contestants: dict[str, Objective | None] = OBJECTIVES | {FORWARD: None}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(args.turns):
        for name, objective in contestants.items():
            times[name].append(seconds(objective, hidden, weight, targets, teacher))
    best = {name: min(values) for name, values in times.items()}
    lines = [
        "# What whole distributions cost: forward and backward of the loss (cpu)",
        "",
        f"{tokens} answer tokens, width {width}, vocabulary {vocabulary}, all in float32; "
        f"one thread, CPU milliseconds, best of {args.turns} turns. The last column is beside SFT, and for an "
        "objective with a reference beside SFT and one forward of the reference's output layer.",
        "",
        "| objective | ms | against sft | against the passes it needs |",
        "|---|---:|---:|---:|",
    ]
    for name, objective in contestants.items():
        needed = best["sft"]
        if objective is not None and "reference_distribution" in objective.needs:
            needed += best[FORWARD]
        last = "" if objective is None else f"{best[name] / needed:.2f}"
        lines.append(f"| {name} | {best[name] * 1e3:.0f} | {best[name] / best['sft']:.2f} | {last} |")
    lines += ["", f"`{' '.join(['python benchmarks/row_terms.py', *sys.argv[1:]])}`", ""]
    lines += [f"{platform.system()}, Python {platform.python_version()}, torch {version('torch')}.", ""]
    text = "\n".join(lines)
    print(text)
    (Path(__file__).parents[1] / "results" / "benchmarks" / "row-terms-cpu.md").write_text(text)


if __name__ == "__main__":
    main()
