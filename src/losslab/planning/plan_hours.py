"""How long the cells of a plan take: on GPUs by measured shares of their peak, on this CPU as its records say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from losslab.config.machine import MachineConfig
from losslab.config.schema import Config
from losslab.planning import cost, cpu_speed, gpu_speed
from losslab.planning.cost import Cost, Size
from losslab.planning.gpu_speed import Card, Measured
from losslab.planning.memory import Devices
from losslab.planning.sizing import ample


@dataclass(frozen=True)
class Time:
    """How long a cell takes."""

    size: Size
    cost: Cost  # hours of one GPU
    share: Measured | None = None  # of the GPU's peak in training; None where it is not known
    cpu: tuple[float, str] | None = None  # tokens a second here and a cell, as `cpu_speed.training` returns them
    hours: float | None = None  # of the cell on its devices, on a CPU those of training; None where not known
    served: bool = False  # its answers come from an endpoint, and nothing of it runs on devices of ours

    def rate(self, card: Card) -> float | None:
        """Tokens of training a second on one GPU."""
        return None if self.share is None else self.share.share * card.peak / self.size.operations

    def scored_again(self, scorings: Sequence[Config], devices: Devices, card: Card) -> "Time":
        """With the scores of the same model under other prompts or protocols."""
        more = sum(cost.scoring(config, self.size, card.speed(None)) for config in scorings)
        hours = self.hours if self.hours is None or not devices.gpu else self.hours + more / devices.each
        return replace(self, cost=replace(self.cost, scoring=self.cost.scoring + more), hours=hours)


def of(config: Config, machine: MachineConfig, size: Size, devices: Devices, here: bool) -> Time:
    """Of a cell on this machine (`here`) or in a job; `machine` is `config.machine` without `auto`."""
    laid_out = replace(config, machine=machine if devices.gpu else ample(config.machine))
    card = Card.of(devices.gpu, here)
    share = gpu_speed.training(laid_out, size.parameters, devices.count) if size.tokens else None
    costs = cost.of(laid_out, size, card.speed(share))
    if devices.gpu:
        learning = None if costs.training is None else (costs.training + costs.rollouts) / devices.count
        # Scoring takes one node.
        return Time(size, costs, share, hours=None if learning is None else learning + costs.scoring / devices.each)
    asked = here and size.tokens and not cost.online(config)
    cpu = cpu_speed.training(config, size.parameters) if asked else None
    return Time(size, costs, share, cpu, cost.trained_tokens(config, size) / cpu[0] / 3600 if cpu else None)


def text(cells: Sequence[Time], devices: Devices, card: Card, here: bool) -> str:
    """What a plan says of disk space, hours and speeds."""
    return "\n".join([*needed(cells, devices, card, here), *speeds(cells, devices, card)])


def needed(cells: Sequence[Time], devices: Devices, card: Card, here: bool) -> Iterator[str]:
    """Disk space and hours of cells, a line for each."""
    trained, costs, gb = [cell for cell in cells if cell.size.tokens], cost.total(cell.cost for cell in cells), 1e9
    local = [cell for cell in cells if not cell.served]
    yield (
        f"disk: {costs.disk / gb:,.1f} GB for the models, and up to {costs.checkpoints / gb:,.1f} GB for the "
        "checkpoints of each cell at work"
    )
    if not devices.gpu:
        yield from _on_this_cpu(trained) if here else ["hours of the CPUs of a job: not known here"] * bool(trained)
    if local and (devices.gpu or _known_on_gpus(local)):
        yield (
            f"device hours of an {card.name}{card.reason and f', since {card.reason}'}, at most: "
            f"{costs.training or 0:,.1f} of training (all rows of the full length), {costs.scoring:,.1f} of scoring "
            "(all samples of the full length)" + (f", {costs.rollouts:,.1f} of rollouts" if costs.rollouts else "")
        )
    if served := len(cells) - len(local):
        yield f"hours of scoring: not known for {served} of {len(cells)} cells, whose answers come from an endpoint"


def speeds(cells: Sequence[Time], devices: Devices, card: Card) -> Iterator[str]:
    """The speeds on a GPU that the hours of `needed` come from, and what these leave out."""
    cells = [cell for cell in cells if not cell.served]
    if not cells or not (devices.gpu or _known_on_gpus(cells)):
        return
    for share in dict.fromkeys(cell.share for cell in cells if cell.share):
        rates = [cell.rate(card) or 0.0 for cell in cells if cell.share == share]
        yield (
            f"training on each GPU: {_range(rates)} tokens/s, {share.share:.0%} of its bfloat16 peak, as measured on "
            f"an H200 with {share.of} ({share.page}); assumed for other GPUs and sizes"
        )
    yield f"sampling: {gpu_speed.SAMPLING:.0%} of the peak, an assumption"
    if unknown := sum(cell.cost.training is None for cell in cells):
        yield (
            f"not counted: the training of {unknown} cells, in float32 or with less than "
            f"{gpu_speed.SMALLEST / 1e6:.0f}M parameters, whose speed on a GPU was not measured"
        )


def _known_on_gpus(cells: Sequence[Time]) -> bool:
    """Whether cells would be scored only, or one of them trained at a speed that is known."""
    return not any(cell.size.tokens for cell in cells) or any(cell.share for cell in cells)


def _on_this_cpu(trained: Sequence[Time]) -> Iterator[str]:
    timed = [(cell.hours, cell.cpu) for cell in trained if cell.hours is not None and cell.cpu is not None]
    if timed:
        hours, rates = sum(hours for hours, _ in timed), [rate for _, (rate, _) in timed]
        sources = ", ".join(sorted({source for _, (_, source) in timed}))
        yield (
            f"hours of this CPU, at most: {short(hours)} of training (all rows of the full length), at the "
            f"{_range(rates)} tokens/s of {sources}, forward and backward alone; those of scoring are not known"
        )
    if len(timed) < len(trained):
        yield (
            f"hours of this CPU: not known for {len(trained) - len(timed)} of {len(trained)} trained cells, before one "
            "of the same model has trained here"
        )


def _range(rates: Sequence[float]) -> str:
    low, high = f"{min(rates):,.0f}", f"{max(rates):,.0f}"
    return low if low == high else f"{low} to {high}"


def short(hours: float) -> str:
    """Hours with a decimal, or with two digits where they are few."""
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"
