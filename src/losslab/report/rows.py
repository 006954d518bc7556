"""The rows of a table with their cells' records, and the choice of the rows that the report draws."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

from losslab.files.record_names import VALIDATION
from losslab.records.cell_records import CellRecord
from losslab.records.reading import DamagedRecord, read_facts, read_metrics, read_yaml
from losslab.results.conclusion import REFERENCES
from losslab.results.learning_curves import AVERAGE
from losslab.results.probability_plots import read_probabilities
from losslab.results.tables import Row, Table

DRAWN = 24  # rows of a model in charts and samples; more cannot be told apart
ENVIRONMENT = {"commit": (str, NoneType), "dirty": (bool, NoneType), "gpus": [str]}


@dataclass(frozen=True)
class ReportCell:
    """The records of a cell, trained or base; empty if it was not started."""

    table: Table
    folder: Path
    seed: int
    state: dict[str, Any] = field(default_factory=dict)  # the content of cell.json

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return self.table.attempt(read_metrics, self.folder / "metrics.jsonl", [])

    @cached_property
    def validation(self) -> list[dict[str, Any]]:
        """The metrics of the held-out rows over the steps, including before the first; empty without held-out rows."""
        return self.table.attempt(read_metrics, self.folder / VALIDATION, [])

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            return read_yaml(self.folder / "config.yaml")
        except DamagedRecord:  # the table reports it
            return {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self.table.attempt(lambda path: read_facts(path, ENVIRONMENT), self.folder / "environment.json", {})

    @cached_property
    def probabilities(self) -> dict[str, Any]:
        """Histograms over the training set before and after training; `{}` if they were not measured."""
        return self.table.attempt(read_probabilities, self.folder, {})

    def mean(self, key: str, begin: float = 0.0, end: float = 1.0) -> float | None:
        """The mean of a metric over a part of training, given as shares of its steps; None if it was not recorded."""
        values = [row[key] for row in self.metrics if isinstance(row.get(key), int | float)]
        first = int(begin * len(values))
        chosen = values[first : max(first + 1, int(end * len(values)))]
        return sum(chosen) / len(chosen) if chosen else None


@dataclass(frozen=True)
class ReportRow:
    """A row of the table with its cells and the number of its colour, which rows with the same label share."""

    row: Row
    style: int
    cells: list[ReportCell]

    @property
    def label(self) -> str:
        return self.row.label

    @property
    def model(self) -> str:
        return self.row.names["model"]

    @property
    def trained(self) -> list[ReportCell]:
        """The cells with recorded steps."""
        return [cell for cell in self.cells if cell.metrics]


def report_rows(table: Table, records: Sequence[CellRecord]) -> list[ReportRow]:
    """The rows of a table; a base has the colour 0, others count from 1."""
    states = {record.folder: record.state for record in records}
    cells: dict[Path, ReportCell] = {}
    labels: dict[str, int] = {}
    rows = []
    for row in table.rows:
        for entry in row.entries:
            folder = entry.folder
            cells.setdefault(folder, ReportCell(table, folder, entry.seed, states.get(folder, {})))
        style = labels.setdefault(row.label, len(labels) + 1) if row.trains else 0
        rows.append(ReportRow(row, style, [cells[entry.folder] for entry in row.entries]))
    return rows


def by_model(rows: Sequence[ReportRow]) -> Iterator[tuple[str, list[ReportRow]]]:
    for model in dict.fromkeys(row.model for row in rows):
        yield model, [row for row in rows if row.model == model]


def choose_reference(rows: Sequence[ReportRow], against: str | None) -> str | None:
    """The label of the row that others are compared with: `against`, else SFT's, else the base's.

    Raises:
        ValueError: no row has the label `against`.
    """
    labels = list(dict.fromkeys(row.label for row in rows))
    if against is not None:
        if against not in labels:
            raise ValueError(f"no row is called {against}: there are {', '.join(labels)}")
        return against
    for name in REFERENCES:
        for row in rows:
            if row.row.name == name and not row.row.earlier:
                return row.label
    return labels[0] if labels else None


def drawn_rows(rows: Sequence[ReportRow], reference: str | None) -> list[ReportRow]:
    """The rows of charts and samples, in the table's order: at most DRAWN for each model.

    The reference, the bases and the rows with the highest averages come first.
    """
    chosen: set[int] = set()
    for _, of_model in by_model(rows):

        def rank(row: ReportRow) -> tuple[bool, bool, float]:
            average = row.row.value(AVERAGE)
            return row.label != reference, row.style != 0, -average.mean if average else float("inf")

        chosen |= {id(row) for row in sorted(of_model, key=rank)[:DRAWN]}
    return [row for row in rows if id(row) in chosen]
