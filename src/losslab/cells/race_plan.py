"""What a race will do and cost, for `plan=true`: by rung, if no row is dropped, and if each rung drops half of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from losslab.cells.race import RUNGS, Entrant, Race
from losslab.cells.sweep import on_slurm
from losslab.composition import grid
from losslab.planning import plan, plan_hours
from losslab.planning.gpu_speed import Card
from losslab.planning.memory import Devices
from losslab.planning.plan_hours import Time


def text(race: Race) -> str:
    """Rows, rungs and costs, on this machine or in the jobs of the race's launcher.

    Raises ValueError for a model whose architecture cannot be read, and for jobs with fewer GPUs than workers.
    """
    count, seeds, job = len(race.entrants), len(race.seeds), _job(race)
    devices, here = Devices.of(race.base.configs[0].machine, job), job is None
    card = Card.of(devices.gpu, here)

    def cost(name: str, times: list[Time]) -> str:
        return "\n  ".join([f"{name}:", *plan_hours.needed(times, devices, card, here)])

    base = _times(race, race.base, "all", job)
    rungs = {name: [_times(race, entrant, name, job) for entrant in race.entrants] for name in RUNGS}
    lines = [f"{race.name}: a race of {count} rows with {seeds} seeds each over {len(RUNGS)} rungs, beside the base"]
    lines += [f"  {entrant.label}" for entrant in race.entrants]
    most = sum(count * race.training_rows(name) for name in RUNGS) * seeds
    least, whole = (count * race.training_rows(name) * seeds for name in (next(iter(RUNGS)), "all"))
    lines.append(
        f"training rows: {least:,} if one row is left after the first rung, {most:,} if none is dropped; {whole:,} for "
        "a sweep of all rows on all of the data"
    )
    for name, of_rows in rungs.items():
        lines.append(cost(f"{name}, {race.training_rows(name):,} training rows, all {count} rows", _joined(of_rows)))
    lines.append(cost("the base, scored once", base))
    halved = [times for i, of_rows in enumerate(rungs.values()) for times in of_rows[: max(2, -(-count // 2**i))]]
    lines.append(cost("the race, if each rung drops half of the rows", base + _joined(halved)))
    every = [times for of_rows in rungs.values() for times in of_rows]
    lines.append(cost("the race, if no row is dropped", base + _joined(every)))
    lines.append(cost("a sweep of all rows on all of the data, in its place", base + _joined(rungs["all"])))
    return "\n".join([*lines, *plan_hours.speeds(base + _joined(rungs["all"]), devices, card)])


def _job(race: Race) -> Mapping[str, Any] | None:
    """The settings of the jobs that a rung would be submitted as; None where its cells run on this machine."""
    # The words of a rung and not those of the launcher alone, since an experiment's file may choose one too.
    with grid.multirun(race.command("all", race.entrants)[1:]) as rung:
        return rung.hydra.launcher if on_slurm(rung) else None


def _times(race: Race, entrant: Entrant, rung: str, job: Mapping[str, Any] | None) -> list[Time]:
    """How long the cells of a row take on a rung, or those of the base."""
    config = entrant.configs[0]
    if rung != "all":
        config = replace(config, dataset=replace(config.dataset, rows=race.drawn(rung)))
    return [plan.make(config, job).time] * len(race.seeds)


def _joined(of_rows: Sequence[list[Time]]) -> list[Time]:
    return [time for times in of_rows for time in times]
