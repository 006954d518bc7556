"""How fast a GPU trains and samples, as shares of its bfloat16 peak: what was measured, and what is assumed elsewhere.

A share in training is the MFU of `losslab.training.throughput`, which counts no recomputation.
"""

from dataclasses import dataclass, replace

from losslab.config.choices import Precision, Recompute
from losslab.config.schema import Config
from losslab.distributed import gpus
from losslab.planning import cost

ASSUMED = "H100"  # the GPU of a plan that knows none
SAMPLING = 0.1  # share of the peak with many requests at once; not measured


@dataclass(frozen=True)
class Measured:
    """A share of the peak in training, and what it was measured with on an H200."""

    share: float
    of: str
    page: str = "results/benchmarks/gpu-nvidia-h200.md"


WHOLE = Measured(0.513, "all weights of 1.5B parameters")  # with flash-attn-4, which few GPUs can use: 52.6%
ADAPTERS = Measured(0.51, "adapters of 7B parameters")
NOT_COMPILED = Measured(0.398, "all weights of 1.5B parameters and machine.compile=false")
DETERMINISTIC = Measured(0.484, "all weights of 1.5B parameters and machine.deterministic=true")
# TRL's trainer, which trains online, without checkpointing: 11,718 answer tokens a second beside 43,143 at 52.6%.
TRL = Measured(0.526 * 11_718 / 43_143, "TRL's trainer and 1.5B parameters")
SMALLEST = 1e8  # parameters for which the shares are assumed: in less the time of a step is not that of its products
SEVERAL = 0.94  # times the share of all weights, where a step has several micro-batches; of the same page


@dataclass(frozen=True)
class Card:
    """The GPU whose hours a plan counts."""

    name: str
    peak: float  # dense bfloat16 FLOPs per second
    reason: str = ""  # why it is not the GPU of this machine

    @classmethod
    def of(cls, gpu: bool, here: bool) -> "Card":
        """The GPU of this machine if its peak is known, else the one that is assumed.

        `gpu`: whether cells use one; `here`: whether on this machine, and not in a job.
        """
        name = gpus.name() if gpu and here else None
        if name is not None and (peak := gpus.peak(name)) is not None:
            return cls(name, peak)
        unknown = f"the peak of {name or 'the GPU here'} is not known" if here else "a job's GPUs are not known here"
        return cls(ASSUMED, gpus.PEAKS[ASSUMED], unknown if gpu else "no GPU is used here")

    def speed(self, training: Measured | None) -> cost.Speed:
        return cost.Speed(None if training is None else training.share * self.peak, SAMPLING * self.peak)


def training(config: Config, parameters: int, devices: int) -> Measured | None:
    """The share of the peak at which a cell trains on so many GPUs; None where nothing like it was measured.

    `config.machine` is without `auto`. Of the measurements that apply, the lowest counts.
    """
    machine, whole = config.machine, not config.adapter.rank
    if config.train.precision == Precision.fp32 or parameters < SMALLEST:
        return None
    online = cost.online(config) is not None
    rows = [TRL] if online else [WHOLE if whole else ADAPTERS]
    rows += [NOT_COMPILED] * (not machine.compile) + [DETERMINISTIC] * machine.deterministic
    row = min(rows, key=lambda row: row.share)
    share = row.share
    if machine.recompute == Recompute.full:  # a second forward pass: 2 operations beside 6, or 4 of a frozen weight
        share *= 6 / 8 if whole else 4 / 6
    assert isinstance(machine.micro_batch_tokens, int)
    if whole and not online and cost.step_tokens(config) > devices * machine.micro_batch_tokens:
        share *= SEVERAL
    return replace(row, share=share)
