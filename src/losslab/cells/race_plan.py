"""What a race will do and cost, for `plan=true`: by rung, if no row is dropped, and if each rung drops half of them."""

from collections.abc import Sequence
from dataclasses import replace

from losslab.cells import plan, plan_hours
from losslab.cells.gpu_speed import Card
from losslab.cells.memory import Devices
from losslab.cells.plan_hours import Time
from losslab.cells.race import RUNGS, Entrant, Race


def text(race: Race) -> str:
    """Rows, rungs and costs. Raises ValueError for a model whose architecture cannot be read."""
    count, seeds = len(race.entrants), len(race.seeds)
    devices = Devices.of(race.base.configs[0].machine)
    card = Card.of(devices.gpu, here=True)

    def cost(name: str, times: list[Time]) -> str:
        return "\n  ".join([f"{name}:", *plan_hours.needed(times, devices, card, here=True)])

    base = _times(race, race.base, "all")
    rungs = {name: [_times(race, entrant, name) for entrant in race.entrants] for name in RUNGS}
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


def _times(race: Race, entrant: Entrant, rung: str) -> list[Time]:
    """How long the cells of a row take on a rung, or those of the base."""
    config = entrant.configs[0]
    if rung != "all":
        config = replace(config, dataset=replace(config.dataset, rows=race.drawn(rung)))
    return [plan.make(config).time] * len(race.seeds)


def _joined(of_rows: Sequence[list[Time]]) -> list[Time]:
    return [time for times in of_rows for time in times]
