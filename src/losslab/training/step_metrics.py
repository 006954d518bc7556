"""The metrics of a training step, from quantities that the step computes anyway.

Every rank adds up a `StepSums` over its micro-batches. One all-reduce sums all of its fields over ranks, including the
request to stop, which therefore needs no separate collective. Nothing here makes the host wait for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from losslab.config.schema import Normaliser
from losslab.data.batches import Batch
from losslab.data.probability_bins import EDGES

FINE = torch.tensor([0.0, 1e-4, 1e-3, *(i / 100 for i in range(1, 101))], dtype=torch.float64)


@dataclass(frozen=True)
class StepSums:
    """Sums over answer tokens, of a micro-batch, a rank or a whole step: () float64 each, on one device."""

    loss: Tensor  # the objective's terms
    terms: Tensor  # their number
    tokens: Tensor
    kept: Tensor  # tokens whose weight is not 0
    weight: Tensor  # -dloss/dlogp of each token
    squared_weight: Tensor
    nll: Tensor
    entropy: Tensor
    eos: Tensor  # tokens that are EOS
    eos_p: Tensor  # their probabilities
    stop: Tensor  # ranks that were asked to stop
    histogram: Tensor  # (len(FINE) - 1,): tokens by their probability, in bins with the edges FINE
    measured: Tensor  # (M,): what the objective measures of each token

    @classmethod
    def zeros(cls, device: torch.device, measured: int = 0) -> "StepSums":
        """All zero; `measured` is the number of metrics that the objective adds."""
        length = len(fields(cls)) - 2 + len(FINE) - 1 + measured
        return cls.unpack(torch.zeros(length, dtype=torch.float64, device=device))

    @classmethod
    def unpack(cls, packed: Tensor) -> "StepSums":
        """From the vector that `pack` makes."""
        single = len(fields(cls)) - 2
        last = single + len(FINE) - 1
        return cls(*(*packed[:single].unbind(), packed[single:last], packed[last:]))

    def pack(self) -> Tensor:
        """All fields, one after another, in one vector."""
        *single, histogram, measured = (getattr(self, field.name) for field in fields(self))
        return torch.cat([torch.stack(single), histogram, measured])

    def __add__(self, other: "StepSums") -> "StepSums":
        return StepSums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def all_reduce(self, asked: bool) -> "StepSums":
        """The sums of all ranks, with the number of ranks that were `asked` to stop. Called on every rank."""
        packed = self.pack()
        packed.select(0, [field.name for field in fields(self)].index("stop")).fill_(float(asked))
        dist.all_reduce(packed)
        return StepSums.unpack(packed)


@torch.no_grad()
def measure(out: dict[str, Tensor], batch: Batch, eos: int) -> StepSums:
    """The sums of one micro-batch; `out` holds the fields of `HeadOutput`."""
    p, weight, end = out["logp"].exp(), out["weight"], batch.targets == eos
    device = p.device
    bins = torch.bucketize(p.double(), _edges(device), right=True)
    histogram = torch.zeros(len(FINE) - 1, dtype=torch.float64, device=device)
    single = (
        out["loss"],
        _number(len(out["terms"]), device),
        _number(len(p), device),
        (weight != 0).sum(),
        weight.sum(),
        weight.square().sum(),
        -out["logp"].sum(),
        out["entropy"].sum(),
        end.sum(),
        (p * end).sum(),
        _number(0, device),
    )
    # bincount would make the host wait for the number of bins.
    histogram.index_add_(0, bins, torch.ones_like(bins, dtype=torch.float64))
    numbers = torch.stack([value.double() for value in single])
    return StepSums.unpack(torch.cat([numbers, histogram, out["metrics"].double().sum(1)]))


def _number(value: float, device: torch.device) -> Tensor:
    return torch.full((), value, dtype=torch.float64, device=device)


@cache
def _edges(device: torch.device) -> Tensor:
    return FINE.to(device)[1:-1]


def normaliser(sums: StepSums, choice: Normaliser) -> Tensor:
    """() float64: what the summed gradient of a step is divided by; 1 where it would be 0, as when no token is kept."""
    value = {"natural": sums.terms, "answer_tokens": sums.tokens, "kept_tokens": sums.kept, "weights": sums.weight}
    return torch.where(value[choice] == 0, 1.0, value[choice])


def report(sums: StepSums, count: float, measured: Sequence[str] = ()) -> dict[str, Any]:
    """The metrics of a step from its sums on the host; the loss is its sum divided by `count`.

    Per-token means are over the answer tokens of the global batch, also for the objective's own metrics, whose names
    are `measured`.
    """
    seen = {field.name: float(getattr(sums, field.name)) for field in fields(sums)[:-2]}
    tokens = max(seen["tokens"], 1.0)
    cumulative = sums.histogram.cumsum(0) / tokens
    coarse = torch.bucketize(FINE[:-1], torch.tensor(EDGES[1:-1], dtype=torch.float64), right=True)
    histogram = torch.zeros(len(EDGES) - 1, dtype=torch.float64).index_add(0, coarse, sums.histogram)
    quantiles = {f"p{q}": float(FINE[1:][(cumulative >= q / 100).int().argmax()]) for q in (10, 50, 90)}
    of_objective = {name: value / tokens for name, value in zip(measured, sums.measured.tolist(), strict=True)}
    standard = {
        "loss": seen["loss"] / count,
        "cross_entropy": seen["nll"] / tokens,
        "mean_weight": seen["weight"] / tokens,
        "effective_fraction": seen["weight"] ** 2 / max(seen["squared_weight"], 1e-30) / tokens,
        "entropy": seen["entropy"] / tokens,
        "eos_p": seen["eos_p"] / max(seen["eos"], 1.0),
        **quantiles,
        "p_histogram": histogram.int().tolist(),
        "answer_tokens": int(seen["tokens"]),
    }
    assert not standard.keys() & of_objective, "an objective's metric has the name of a standard one"
    return standard | of_objective
