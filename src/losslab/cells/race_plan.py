"""What a race will do and cost, for `plan=true`: rung by rung, at most, and if each rung drops half of the rows."""

from collections.abc import Sequence
from dataclasses import replace

from losslab.cells import cost
from losslab.cells.architecture import count_parameters, describe
from losslab.cells.plan import steps_of
from losslab.cells.race import RUNGS, Entrant, Race
from losslab.config.schema import Config

Cells = list[tuple[Config, tuple[int, int]]]  # with parameters and tokens of training of each


def text(race: Race) -> str:
    """Rows, rungs and costs. Raises ValueError for a model whose architecture cannot be read."""
    count, seeds = len(race.entrants), len(race.seeds)
    base = _cells(race, race.base, "all")
    rungs = {name: [_cells(race, entrant, name) for entrant in race.entrants] for name in RUNGS}
    lines = [f"{race.name}: a race of {count} rows with {seeds} seeds each over {len(RUNGS)} rungs, beside the base"]
    lines += [f"  {entrant.label}" for entrant in race.entrants]
    whole = count * race.rows * seeds
    most = sum(count * (race.rows // part) for part in RUNGS.values()) * seeds
    least = count * (race.rows // max(RUNGS.values())) * seeds
    lines.append(
        f"training rows: {least:,} if one row is left after the first rung, {most:,} if none is dropped; {whole:,} for "
        "a sweep of all rows on all of the data"
    )
    for name, of_rows in rungs.items():
        lines.append(_cost(f"{name}, {race.rows // RUNGS[name]:,} training rows, all {count} rows", _joined(of_rows)))
    lines.append(_cost("the base, scored once", base))
    halved = [cells for i, of_rows in enumerate(rungs.values()) for cells in of_rows[: max(2, -(-count // 2**i))]]
    lines.append(_cost("the race, if each rung drops half of the rows", base + _joined(halved)))
    every = [cells for of_rows in rungs.values() for cells in of_rows]
    lines.append(_cost("the race, if no row is dropped", base + _joined(every)))
    lines.append(_cost("a sweep of all rows on all of the data, in its place", base + _joined(rungs["all"])))
    return "\n".join(lines)


def _cells(race: Race, entrant: Entrant, rung: str) -> Cells:
    """The cells of a row on a rung, or of the base."""
    config, part = entrant.configs[0], RUNGS[rung]
    if part > 1:
        config = replace(config, dataset=replace(config.dataset, rows=race.rows // part))
    parameters = 0 if config.served else count_parameters(describe(config))
    tokens = (steps_of(config) or 0) * cost.step_tokens(config)
    return [(config, (parameters, tokens))] * len(race.seeds)


def _joined(of_rows: Sequence[Cells]) -> Cells:
    return [cell for cells in of_rows for cell in cells]


def _cost(name: str, cells: Cells) -> str:
    costs = cost.of([config for config, _ in cells], [size for _, size in cells])
    return "\n  ".join([f"{name}:", *cost.sentence(costs).splitlines()])
