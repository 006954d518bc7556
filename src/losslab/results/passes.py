"""pass@k beside avg@k, for benchmarks with several samples of each problem: a table for k = all samples, all k as CSV.

It is computed from the right samples of each problem (`losslab.statistics.pass_at_k`). Multi-step problems, which have
points instead, are left out.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from losslab.files.csv_files import csv_text
from losslab.results.problem_shares import ProblemShares
from losslab.results.table_formats import Sheet, SheetCell, best_of_rows, measure_of, score_cells
from losslab.results.tables import Row, Table
from losslab.statistics.intervals import Estimate, over_problems
from losslab.statistics.pass_at_k import passes, sizes

CAPTION = (
    "Percentage of problems of which at least one of k samples is right, ± half of the 95% interval, which is over "
    "seeds or over problems as that of the score."
)

Column = tuple[str, int, int]  # benchmark, samples of each problem, k
Passes = Mapping[Column, Sequence[Estimate | None]]  # of each row of the table


def measure(table: Table, shares: ProblemShares) -> Passes:
    """pass@k of each row, for k = 2, 4, 8, … and all samples; only the columns in which some row has one."""
    found = {(name, samples) for row in table.rows for entry in row.scored for name, samples in entry.samples.items()}
    in_order = sorted((table.columns.index(name), samples) for name, samples in found if name in table.columns)
    columns = [(table.columns[i], samples, k) for i, samples in in_order for k in sizes(samples) if k > 1]
    values = {column: [_of_row(row, column, shares) for row in table.rows] for column in columns}
    return {column: of_rows for column, of_rows in values.items() if any(of_rows)}


def _of_row(row: Row, column: Column, shares: ProblemShares) -> Estimate | None:
    """None without the right samples of each seed, or where seeds have other numbers of samples."""
    name, samples, k = column
    having = [entry for entry in row.scored if name in entry.scores]
    over_seeds = len(having) > 1 and row.trains  # else an interval over problems may be asked for
    chances = 100 * passes(np.arange(samples + 1), samples, k)  # by the number of right samples
    estimates = []
    for entry in having:
        scored, part = shares.of(entry), shares.scores.of(entry)["benchmarks"].get(name, {})
        if entry.samples.get(name) != samples or name not in scored.shares or "questions" in part:
            return None
        values = chances[np.rint(samples * scored.shares[name]).astype(int)]
        plain = Estimate(float(values.mean())) if over_seeds else over_problems(values, scored.originals.get(name))
        estimates.append((entry, plain))
    return row.mean_over_seeds(name, estimates)


def sheets(table: Table, measured: Passes) -> Iterator[Sheet]:
    """One sheet with a column for each benchmark, whose k is all of its samples; none where nothing is measured."""
    columns = [column for column in measured if column[1] == column[2]]
    if not columns:
        return
    values = [[measured[column][i] for column in columns] for i in range(len(table.rows))]
    best = best_of_rows(table, values)
    rows = [
        [SheetCell(row.names["model"]), SheetCell(row.label), *score_cells(of_row, best[measure_of(row)])]
        for row, of_row in zip(table.rows, values, strict=True)
    ]
    head = ["model", "objective", *(f"{name} pass@{k}" for name, _, k in columns)]
    yield Sheet("pass@k", "", head, rows, CAPTION, [])


def to_csv(table: Table, measured: Passes) -> str:
    """A line for each row of the table, benchmark and k."""
    lines = [
        [row.names["model"], row.label, *column, value.mean, value.half]
        for i, row in enumerate(table.rows)
        for column, of_rows in measured.items()
        if (value := of_rows[i])
    ]
    return csv_text(["model", "objective", "benchmark", "samples", "k", "mean", "half"], lines)
