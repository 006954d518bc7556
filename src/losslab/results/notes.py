"""The notes below a table on what its records lack or say of a training, and which results beside scores are shown."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from losslab.config.choices import NonFinite
from losslab.records.reading import DamagedRecord, read_facts, read_metrics
from losslab.results import plots, tuning
from losslab.results.kl_to_base import Divergence
from losslab.results.learning_curves import LearningCurve
from losslab.results.probability_plots import BeforeAfter, measured_cells
from losslab.results.tables import Row, Table


def notes(
    table: Table,
    curves: Mapping[str, LearningCurve],
    measured: Sequence[BeforeAfter],
    divergences: Sequence[Divergence],
) -> Iterator[str]:
    """What the sweep declares and its records lack, besides scores, and what they say of a training.

    `curves`, `measured` and `divergences` are those of all rows that have them.
    """
    trained = {row_label(table, row): row for row in table.rows if row.trains}
    for label, row in trained.items():
        names = {name for entry in row.entries for name in changed_while_training(entry.folder)}
        if names:
            yield f"Cells of {label} resumed with another {', '.join(sorted(names))} than they began with."
        if row.config.get("train.non_finite") == NonFinite.skip:  # else there are none, and metrics are long
            metrics = [table.attempt(read_metrics, entry.folder / "metrics.jsonl", []) for entry in row.entries]
            if skipped := sum(bool(step.get("skipped")) for steps in metrics for step in steps):
                steps = sum(map(len, metrics))
                yield f"{skipped:,} of {steps:,} updates of {label} were skipped, since their gradient was not finite."
    if declares(table, "export_steps") and (missing := [name for name in trained if name not in curves]):
        yield f"No accuracy over steps is on record for {', '.join(missing)}."
    for name, row in trained.items():  # the page draws all curves, whoever asked for them
        seeds = {len(scores) for step, scores in curves.get(name, {}).items() if step}
        if seeds - {len(row.scored)}:
            counts = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
            yield f"The accuracy of {name} over steps is that of {counts} of its {len(row.scored)} seeds."
    having = set(of_measured_cells(table, measured))
    if declares(table, "probabilities") and (missing := [name for name in trained if name not in having]):
        yield f"No probabilities of training targets are on record for {', '.join(missing)}."
    having = {row_label(table, divergence.row) for divergence in divergences}
    if declares(table, "kl_to_base") and (missing := [name for name in trained if name not in having]):
        yield f"No KL to the base is on record for {', '.join(missing)}."
    for of_row in shown_divergences(table, divergences):
        if of_row.seeds < (seeds_of_row := len(of_row.row.scored)):
            label = row_label(table, of_row.row)
            yield f"The KL of {label} to the base is that of {of_row.seeds} of its {seeds_of_row} seeds."
    if (key := table.sweep.tune) and not any(len(choices) > 1 for choices in tuning.values(table)):
        yield f"No row has several values of {key}, of which sweep.tune is to choose one."
    if len([row for row in table.rows if row.scored]) > plots.MOST_ROWS:
        yield f"There is no figure of more than {plots.MOST_ROWS} rows."
    if table.faults:
        count = len(table.faults)
        yield f"{count} damaged {'file is' if count == 1 else 'files are'} left out: " + "; ".join(table.faults) + "."


def changed_while_training(cell: Path) -> set[str]:
    """What of a cell's environment changed between its starts, such as gpus, workers or torch."""
    try:
        changes = read_facts(cell / "environment.json", {"changes": [{"changed": dict}]}).get("changes", [])
    except DamagedRecord:  # the table says so
        return set()
    return {name for change in changes for name in change["changed"]}


def shown(table: Table, option: str, having: Collection[str]) -> bool:
    """Whether to show what some cells have beside scores: where the sweep's file asks for it, or all rows have it.

    Else they have it for another sweep, which shares them.

    Args:
        option: of the machine, which makes cells record it.
        having: labels of the rows that have it.
    """
    scored = [row_label(table, row) for row in table.rows if row.trains and row.scored]
    return bool(having) and (not table.grid or declares(table, option) or set(scored) <= set(having))


def of_measured_cells(table: Table, measured: Sequence[BeforeAfter]) -> list[str]:
    """The labels of the rows any of whose cells was measured; one cell may have rows under several protocols."""
    cells = measured_cells(measured)
    return [row_label(table, row) for row in table.rows if any(entry.folder in cells for entry in row.entries)]


def declares(table: Table, option: str) -> bool:
    return any(getattr(config.machine, option) for config in table.grid)


def shown_divergences(table: Table, divergences: Sequence[Divergence]) -> list[Divergence]:
    """Those of all rows that have them, where they are to be shown."""
    having = [row_label(table, divergence.row) for divergence in divergences]
    return list(divergences) if shown(table, "kl_to_base", having) else []


def row_label(table: Table, row: Row) -> str:
    return f"{row.names['model']} {row.label}" if len(table.models) > 1 else row.label
