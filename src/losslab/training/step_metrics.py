"""What an objective does to a step, from quantities that the step has anyway.

Every rank adds up one vector over its micro-batches; one all-reduce of it serves the normaliser, the metrics and the
agreement to stop.
"""

from typing import Any

import torch
from torch import Tensor

from losslab.config.schema import Normaliser
from losslab.data.batches import Batch
from losslab.data.probability_bins import EDGES

SUMS = ("loss", "terms", "tokens", "kept", "weight", "weight2", "nll", "entropy", "eos", "eos_p", "stop")
FINE = torch.tensor([0.0, 1e-4, 1e-3, *(i / 100 for i in range(1, 101))], dtype=torch.float64)


def zeros(device: torch.device) -> Tensor:
    return torch.zeros(len(SUMS) + len(FINE) - 1, dtype=torch.float64, device=device)


@torch.no_grad()
def measure(out: dict[str, Tensor], batch: Batch, eos: int, stop: bool) -> Tensor:
    """The vector (len(SUMS) + bins,) float64 of one micro-batch; `out` holds the fields of `HeadOutput`."""
    p, weight, end = out["logp"].exp(), out["weight"], batch.targets == eos
    parts = (
        out["loss"],
        torch.tensor(len(out["terms"])),
        torch.tensor(len(p)),
        (weight != 0).sum(),
        weight.sum(),
        weight.square().sum(),
        -out["logp"].sum(),
        out["entropy"].sum(),
        end.sum(),
        p[end].sum(),
        torch.tensor(float(stop)),
    )
    bins = torch.bucketize(p.double(), FINE.to(p.device)[1:-1], right=True)
    histogram = torch.bincount(bins, minlength=len(FINE) - 1)
    return torch.cat([torch.stack([x.to(p.device, torch.float64) for x in parts]), histogram.double()])


def normaliser(sums: Tensor, choice: Normaliser) -> float:
    """What the summed gradient of a step is divided by; 1 where it would be 0, as when no token is kept."""
    name = {"natural": "terms", "answer_tokens": "tokens", "kept_tokens": "kept", "weights": "weight"}[choice]
    return float(sums[SUMS.index(name)]) or 1.0


def report(sums: Tensor, count: float) -> dict[str, Any]:
    """The metrics of a step from its summed vector, its loss being the sum divided by `count`.

    Per-token means are over the answer tokens of the global batch.
    """
    seen = dict(zip(SUMS, sums.tolist(), strict=False))
    tokens = max(seen["tokens"], 1.0)
    counts = sums[len(SUMS) :].cpu()
    cumulative = counts.cumsum(0) / tokens
    coarse = torch.bucketize(FINE[:-1], torch.tensor(EDGES[1:-1], dtype=torch.float64), right=True)
    histogram = torch.zeros(len(EDGES) - 1, dtype=torch.float64).index_add(0, coarse, counts)
    quantiles = {f"p{q}": float(FINE[1:][(cumulative >= q / 100).int().argmax()]) for q in (10, 50, 90)}
    return {
        "loss": seen["loss"] / count,
        "cross_entropy": seen["nll"] / tokens,
        "mean_weight": seen["weight"] / tokens,
        "effective_fraction": seen["weight"] ** 2 / max(seen["weight2"], 1e-30) / tokens,
        "entropy": seen["entropy"] / tokens,
        "eos_p": seen["eos_p"] / max(seen["eos"], 1.0),
        **quantiles,
        "p_histogram": histogram.int().tolist(),
        "answer_tokens": int(seen["tokens"]),
    }
