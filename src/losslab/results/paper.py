"""Compares the paper's scores with ours, and lists inconsistencies in the paper's tables."""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from losslab.config.choices import Rules
from losslab.config.paths import EXPERIMENTS
from losslab.config.schema import Config
from losslab.records.reading import read_yaml
from losslab.results.learning_curves import AVERAGE
from losslab.results.load_records import CellScores
from losslab.results.tables import Row, Table
from losslab.statistics.intervals import Estimate

NAMES = ["table", "model", "method", "setting"]  # identify a row; the other columns are scores
SAMPLING = ("temperature", "top_p", "max_new_tokens")  # scores compare if these, samples and verdict are equal
ROUNDING = 0.01  # largest error of a mean of scores that are rounded to 0.01, itself rounded
COARSE_ROUNDING = 0.06  # largest error of a score whose sixteen accuracies were first rounded to 0.1


@dataclass(frozen=True)
class Printed:
    """A row of one of the paper's tables, in percent."""

    table: str
    model: str
    method: str
    setting: str  # rows with the same model, method and setting are one run, in any table
    values: dict[str, float]  # by benchmark, and AVERAGE if it is printed


@dataclass(frozen=True)
class PaperDifference:
    """A score of the paper and ours for the same row."""

    paper: float
    ours: Estimate | None

    @property
    def value(self) -> float | None:
        """Ours minus the paper's, in points."""
        return None if self.ours is None else self.ours.mean - self.paper

    @property
    def inside(self) -> bool | None:
        """Whether the paper's score lies inside our interval; None if we have no score."""
        return None if self.ours is None else self.ours.contains(self.paper)


@dataclass(frozen=True)
class Slip:
    """An inconsistency in a row of the paper."""

    row: Printed
    column: str
    text: str


@dataclass(frozen=True)
class Comparison:
    source: str  # the table in experiments/paper.csv
    rows: list[tuple[Row, dict[str, PaperDifference]]]  # for the rows that the paper has, by column
    slips: list[Slip]  # of these rows

    def note(self, row: Row, column: str) -> int | None:
        """The number, from 1, of the footnote for a score of the paper; None if there is none."""
        for number, slip in enumerate(self.slips, start=1):
            if (slip.row.model, slip.row.method, slip.column) == (row.names["model"], row.name, column):
                return number
        return None


@cache
def printed() -> list[Printed]:
    """All rows of experiments/paper.csv."""
    with (EXPERIMENTS / "paper.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows = []
    for line in lines:
        table, model, method, setting = (line.pop(name) for name in NAMES)
        figures = {column: float(value) for column, value in line.items() if value}
        rows.append(Printed(table, model, method, setting, figures))
    return rows


def compare(table: Table) -> Comparison | None:
    """Compare a table with the paper's, row by row by model and method; None if the sweep names no table of the paper.

    Only rows that the sweep's file declares are compared, and only scores under the protocol that it declares. Raises
    ValueError for a table that experiments/paper.csv lacks.
    """
    if table.sweep.paper is None:
        return None
    of_paper = {(row.model, row.method): row for row in printed() if row.table == table.sweep.paper}
    if not of_paper:
        raise ValueError(f"sweep.paper={table.sweep.paper} is not a table of experiments/paper.csv: check it")
    measures = [
        {"eval": config.names.eval, "prompt": config.prompt_name}
        | {key: getattr(config.eval, key) for key in (*SAMPLING, "samples", "verdict")}
        for config in table.grid
    ]
    wanted = [row for row in table.rows if row.declared and (row.names["model"], row.name) in of_paper]
    as_declared = [row for row in wanted if _as_declared(table, row, of_paper[row.names["model"], row.name], measures)]
    rows, chosen = [], []
    for row in wanted:
        if row in as_declared:
            ours = row
        elif any(row.config == other.config for other in as_declared):
            continue
        else:  # not yet scored under the declared protocol
            ours = replace(row, entries=[])
        theirs = of_paper[row.names["model"], row.name]
        columns = [column for column in table.columns if column in theirs.values]
        rows.append((row, {column: PaperDifference(theirs.values[column], ours.value(column)) for column in columns}))
        chosen.append(theirs)
    distinct = [row for i, row in enumerate(chosen) if row not in chosen[:i]]
    return Comparison(table.sweep.paper, rows, [slip for row in distinct for slip in slips(row, table.grid)])


def _as_declared(table: Table, row: Row, theirs: Printed, measures: Sequence[dict[str, Any]]) -> bool:
    """Whether all cells of a row are scored under declared settings, on the benchmarks that the paper has."""
    return all(_measure(table, entry, theirs.values) in measures for entry in row.scored)


def _measure(table: Table, entry: CellScores, benchmarks: Collection[str]) -> dict[str, Any]:
    """The settings under which a cell is scored, with the fewest samples of any of these benchmarks."""
    assert entry.protocol, "not scored"
    protocol = table.attempt(read_yaml, entry.folder / "scores" / entry.protocol / "protocol.yaml", {})
    about = {
        "eval": entry.protocol.rpartition("-")[0],
        "prompt": entry.prompt,
        "samples": min((count for name, count in entry.samples.items() if name in benchmarks), default=None),
        "verdict": entry.verdict,
    }
    return about | {key: protocol.get(key) for key in SAMPLING}


def slips(row: Printed, grid: list[Config]) -> Iterator[Slip]:
    """Inconsistencies in a row: a wrong average, a score that no run can have, other scores for the same run.

    Args:
        row: a row of the paper.
        grid: the sweep's declared configurations, for the numbers of problems and samples.
    """
    parts = [value for column, value in row.values.items() if column != AVERAGE]
    mean = sum(parts) / len(parts)
    if abs(row.values.get(AVERAGE, mean) - mean) > ROUNDING:
        text = f"the paper prints an average of {row.values[AVERAGE]:.2f}; the mean of its row is {mean:.2f}"
        yield Slip(row, AVERAGE, text)
    benchmarks = grid[0].benchmark if grid else {}
    for column, value in row.values.items():
        if column in benchmarks and (problems := benchmarks[column].problems):
            halves = 1 + (benchmarks[column].rules == Rules.wemath)  # a problem of We-Math may count by half
            step = 100 / (problems * grid[0].eval.samples * halves)
            if abs(value - round(value / step) * step) > COARSE_ROUNDING:
                near = " or ".join(f"{int(value / step + i) * step:.2f}" for i in (0, 1))
                about = f"{grid[0].eval.samples} samples of {problems} problems"
                yield Slip(row, column, f"the paper prints {value:.2f}, which {about} cannot give: {near} can")
    for other in printed():
        same = (other.model, other.method, other.setting) == (row.model, row.method, row.setting)
        if same and other.values != row.values and other.table < row.table:
            text = f"{other.table} of the paper prints an average of {other.values[AVERAGE]:.2f} for the same run"
            yield Slip(row, AVERAGE, text)
            break
