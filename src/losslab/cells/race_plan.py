"""What a race will do and cost, for `plan=true`: by rung, if nothing is dropped, and if each rung drops half of the
objectives.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from losslab.cells.race import LAST, RUNGS, Entrant, Race
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

    base = _times(race, race.base, LAST, job)
    rungs = {name: {e.label: _times(race, e, name, job) for e in race.entrants} for name in RUNGS}
    lines = [f"{race.name}: a race of {count} rows with {seeds} seeds each over {len(RUNGS)} rungs, beside the base"]
    lines += [f"  {entrant.label}" for entrant in race.entrants]
    objectives = _by_objective(race)
    fewest, every = _trained(sorted(objectives, key=len), 0.0), _trained(objectives, 1.0)
    least, most = (_training_rows(race, trained) for trained in (fewest, every))
    lines.append(
        f"training rows: {least:,} if one objective is left after the first rung, {most:,} if none is dropped; "
        f"{count * race.training_rows(LAST) * seeds:,} for a sweep of all rows on all of the data"
    )
    for name, of_rows in rungs.items():
        lines.append(cost(f"{name}, {race.training_rows(name):,} training rows, all {count} rows", _joined(of_rows)))
    lines.append(cost("the base, scored once", base))
    for what, trained in (
        ("the race, if each rung drops half of the objectives", _trained(objectives, 0.5)),
        ("the race, if none is dropped", every),
    ):
        lines.append(cost(what, base + [t for name, labels in trained.items() for e in labels for t in rungs[name][e]]))
    lines.append(cost("a sweep of all rows on all of the data, in its place", base + _joined(rungs[LAST])))
    return "\n".join([*lines, *plan_hours.speeds(base + _joined(rungs[LAST]), devices, card)])


def _by_objective(race: Race) -> list[list[str]]:
    """The labels of the rows of each objective."""
    names = dict.fromkeys(entrant.objective for entrant in race.entrants)
    return [[entrant.label for entrant in race.entrants if entrant.objective == name] for name in names]


def _trained(objectives: Sequence[list[str]], share: float) -> dict[str, list[str]]:
    """The labels of the rows that each rung trains, if each leaves this share of the objectives, and one at least: the
    first ones. None once a single row is left, which ends the race.
    """
    rungs = {}
    for number, name in enumerate(RUNGS):
        left = objectives[: max(1, math.ceil(len(objectives) * share**number))]
        rows = [label for labels in left for label in labels]
        rungs[name] = [] if len(rows) == 1 else rows
    return rungs


def _training_rows(race: Race, trained: Mapping[str, Sequence[str]]) -> int:
    return sum(len(labels) * race.training_rows(name) for name, labels in trained.items()) * len(race.seeds)


def _job(race: Race) -> Mapping[str, Any] | None:
    """The settings of the jobs that a rung would be submitted as; None where its cells run on this machine."""
    # The words of a rung and not those of the launcher alone, since an experiment's file may choose one too.
    with grid.multirun(race.command(LAST, race.entrants)[1:]) as rung:
        return rung.hydra.launcher if on_slurm(rung) else None


def _times(race: Race, entrant: Entrant, rung: str, job: Mapping[str, Any] | None) -> list[Time]:
    """How long the cells of a row take on a rung, or those of the base."""
    config = entrant.configs[0]
    if rung != LAST:
        config = replace(config, dataset=replace(config.dataset, rows=race.drawn(rung)))
    return [plan.make(config, job).time] * len(race.seeds)


def _joined(of_rows: Mapping[str, list[Time]]) -> list[Time]:
    return [time for times in of_rows.values() for time in times]
