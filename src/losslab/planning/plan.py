"""What a sweep will do and need, before anything is loaded: `plan=true`.

Sizes come from the architecture alone: see `losslab.planning.memory`.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from losslab.config.choices import Recompute
from losslab.config.machine import MachineConfig
from losslab.config.messages import first_line
from losslab.config.schema import Config, DatasetConfig
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.table import count, held_out_count, unanswered
from losslab.objectives import Objective
from losslab.planning import cost, plan_hours, plan_power, plan_tuning
from losslab.planning.architecture import count_parameters, describe
from losslab.planning.gpu_speed import Card
from losslab.planning.memory import GIB, Devices, on_device, room
from losslab.planning.plan_hours import Time
from losslab.planning.sizing import resolve
from losslab.planning.sweep_cells import alike, by_protocol
from losslab.records.record import Cell

ROWS = 100  # of the table that shows a plan; further cells are counted


@dataclass(frozen=True)
class Plan:
    cell: Cell
    state: str  # as `state` says
    steps: int | None  # None where the number of rows is known only after the download
    tokens: int | None  # an upper bound: rows of the full length
    parameters: int
    machine: MachineConfig  # without `auto`
    memory: float | None  # bytes on each device at the peak of training; None where it is not known
    time: Time

    @property
    def hours(self) -> float | None:
        """Of the cell on its devices, on a CPU of its training; None where they are not known."""
        return None if self.tokens is None else self.time.hours


def make(config: Config, job: Mapping[str, Any] | None = None) -> Plan:
    """The plan of one cell, on this machine or in a job.

    ValueError when its data or architecture cannot be found, or its objective fails.
    """
    devices = Devices.of(config.machine, job)
    cell = Cell.of(config)
    _try_objective(config, cell)
    if config.served:  # its architecture need not be known here
        nothing = Time(cost.Size(0, 0, 0.0), cost.Cost(), served=True)
        return Plan(cell, state(cell, config), 0, 0, 0, config.machine, None, nothing)
    architecture = describe(config)
    parameters = count_parameters(architecture, config.model.trust_remote_code)
    steps = steps_of(config)
    tokens = steps and steps * cost.step_tokens(config)
    machine = resolve(config, devices, room(devices.gpu) if job is None else None, tokens)
    laid_out = replace(config, machine=machine)
    peak = on_device(laid_out, architecture, parameters, devices) if config.trains else 2.0 * parameters
    size = cost.Size.of(config, architecture, parameters, tokens or 0)
    time = plan_hours.of(config, machine, size, devices, here=job is None)
    return Plan(cell, state(cell, config), steps, tokens, parameters, machine, peak, time)


def _try_objective(config: Config, cell: Cell) -> None:
    """As `try_out`, for an objective that is still to train, and whose module imports torch.

    The others are tried by their run: a plan answers sooner than torch is imported.
    """
    if isinstance(config.objective, Objective) and "torch" in sys.modules and not cell.trained(config):
        from losslab.models.try_out import try_out

        try_out(config.objective)


def make_all(
    cells: Mapping[Cell, Config], job: Mapping[str, Any] | None = None
) -> tuple[list[Plan], dict[str, list[Cell]]]:
    """The plans of cells, and the cells that cannot be planned, by the sentence that says why."""
    plans: list[Plan] = []
    rejected: dict[str, list[Cell]] = {}
    folders = iter(cells)
    for group in alike(list(cells.values())):
        members = [next(folders) for _ in group]
        try:
            first = make(group[0], job)
        except ValueError as error:
            rejected.setdefault(first_line(error), []).extend(members)
        else:
            plans += [replace(first, cell=cell, state=state(cell, group[0])) for cell in members]
    return plans, rejected


def rejections(rejected: Mapping[str, Sized]) -> list[str]:
    """A line for each reason why cells are rejected."""
    return [f"rejected: {len(group)} cell{'s' * (len(group) > 1)}: {reason}" for reason, group in rejected.items()]


def steps_of(config: Config) -> int | None:
    """Steps of training at most; None where the number of rows is not known yet."""
    if not config.trains:
        return 0
    if (rows := rows_of(config)) is None:
        return None
    sampler = RandomBatchSampler.of_questions if cost.online(config) else RandomBatchSampler.of
    return sampler(config.train, config.seed, rows).steps


def state(cell: Cell, config: Config) -> str:
    if config.force:
        return "to run again"
    if not cell.folder.exists():  # of a hundred thousand seeds most have none
        return "to run"
    if cell.done(config):
        return "done"
    if config.trains and cell.trained(config):
        return "to score"
    return {"failed": "failed, to resume", "interrupted": "interrupted, to resume"}.get(
        cell.state().get("state", ""), "to run"
    )


def rows_of(config: Config) -> int | None:
    """Rows that training will see at most; None for a hub data set of unknown size."""
    rows = rows_drawn(config.dataset)
    return None if rows is None else rows - held_out_count(config.dataset, rows)


def rows_drawn(dataset: DatasetConfig) -> int | None:
    """Rows that are drawn from a data set, at most (`dataset.keep` is not tried); a share of them may be held out."""
    if unanswered(dataset) or (rows := count(dataset)) is None:
        return None
    return rows if dataset.rows is None else min(rows, dataset.rows)


def warn(configs: list[Config]) -> str | None:
    """The warning of `shortage` for those cells of a sweep on this machine that are still to be trained."""
    asked = [config for config in configs if config.trains and not Cell.of(config).trained(config)]
    distinct = {repr([c.model, c.loss, c.train, c.reference, c.adapter, c.machine]): c for c in asked}.values()
    devices = Devices.of(configs[0].machine)
    available, needed = room(devices.gpu), [0.0]
    for config in distinct:
        architecture = describe(config)
        laid_out = replace(config, machine=resolve(config, devices, available))
        parameters = count_parameters(architecture, config.model.trust_remote_code)
        needed.append(on_device(laid_out, architecture, parameters, devices) or 0.0)
    return shortage(max(needed), devices)


def shortage(needed: float, devices: Devices) -> str | None:
    """A sentence where `needed` bytes on each device are more than this machine has, else None."""
    there, needed = room(devices.gpu), needed * (1 if devices.gpu else devices.each)
    if there is None or needed <= there:
        return None
    where = "a GPU here has" if devices.gpu else "this machine has free"
    more = ", or use more GPUs" if devices.gpu else ", or use fewer workers"
    return (
        f"warning: training will need about {needed / GIB:.1f} GiB, and {where} {there / GIB:.1f} GiB: lower "
        f"machine.micro_batch_tokens, set machine.recompute=full{more}"
    )


def show(configs: list[Config], job: Mapping[str, Any] | None = None) -> int:
    """Print the plan of a sweep, on this machine or in the jobs of a SLURM launcher with these settings.

    Returns the exit status: 1 where a cell is rejected.
    """
    planned = by_protocol(configs)
    plans, rejected = make_all({cell: scorings[0] for cell, scorings in planned.items()}, job)
    if not plans:
        raise ValueError("; ".join(rejected))
    protocols = max(map(len, planned.values()))
    configs = [planned[plan.cell][0] for plan in plans]
    config, devices = configs[0], Devices.of(configs[0].machine, job)
    card = Card.of(devices.gpu, here=job is None)
    plans = [replace(plan, time=plan.time.scored_again(planned[plan.cell][1:], devices, card)) for plan in plans]
    table = Table(title=f"{config.sweep.name}: {len(plans)} cells", title_justify="left")
    for column in ("cell", "state"):
        table.add_column(column, overflow="fold")
    for column in ("steps", "tokens ≤", "parameters", "memory/device ≈", "hours ≤"):
        table.add_column(column, justify="right")
    for plan in plans[:ROWS]:
        table.add_row(
            plan.cell.folder.name, plan.state, number(plan.steps), number(plan.tokens), number(plan.parameters),
            "unknown" if plan.memory is None else f"{plan.memory / GIB:.1f} GiB",
            "?" if plan.hours is None else plan_hours.short(plan.hours),
        )  # fmt: skip
    console = Console()
    console.print(table)
    if rest := plans[ROWS:]:
        states = Counter(plan.state for plan in rest)
        console.print(f"and {len(rest):,} more: " + ", ".join(f"{count:,} {name}" for name, count in states.items()))
    for line in rejections(rejected):
        console.print(line, highlight=False)
    needed = max((plan.memory or 0.0 for plan in plans if plan.tokens != 0), default=0.0)
    if job is None and (warning := shortage(needed, devices)):
        console.print(warning, highlight=False)
    unknown = sum(plan.tokens is None for plan in plans)
    samples = {name: benchmark.rows for name, benchmark in config.benchmark.items()}
    laid_out = {sentence(plan.machine) for plan in plans if plan.tokens != 0} or {sentence(plans[0].machine)}
    where = "on this machine" if job is None else f"in a job, on {devices.nodes} node{'s' * (devices.nodes > 1)}"
    console.print(
        f"workers of a cell: {devices.count} {where}; batch {config.train.batch_size} sequences, "
        f"{' or '.join(sorted(laid_out))}\n"
        f"scoring: {config.names.eval}, {config.eval.samples} samples of each problem of "
        + ", ".join(f"{name} ({rows})" if rows else name for name, rows in samples.items())
        + (f", {protocols} times, by other prompts or protocols" if protocols > 1 else "")
        + "\n"
        + plan_hours.text([plan.time for plan in plans], devices, card, here=job is None)
        + (f"\nnot counted: the training of {unknown} cells whose rows are not known yet" if unknown else "")
        + f"\nrecords: {Path(config.machine.results) / 'cells'}\n"
        f"tables:  {Path(config.machine.results) / 'tables' / config.sweep.name}",
        highlight=False,
    )
    groups = alike(configs)
    for said in filter(None, (plan_tuning.sentence(groups), plan_power.sentence(groups))):
        console.print(said, highlight=False, markup=False)
    return int(bool(rejected))


def sentence(machine: MachineConfig) -> str:
    """How the steps of a cell are laid out on each worker."""
    parts = [f"micro-batches of up to {machine.micro_batch_tokens} tokens on each"]
    parts += [f"{machine.recompute} recomputation"] * (machine.recompute != Recompute.none)
    return ", ".join([*parts, *["compiled layers"] * bool(machine.compile)])


def number(value: int | None) -> str:
    """1543714304 as 1.54B; `?` for what is not known."""
    if value is None:
        return "?"
    if value < 10_000:
        return str(value)
    power, short = 0, float(value)
    while short >= 999.5:
        power, short = power + 1, short / 1000
    return f"{short:.3g}{' kMBT'[power]}"
