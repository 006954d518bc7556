"""The cells of a table with what the page needs of their records, and the number of each row's colour."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from losslab.config.schema import BASE
from losslab.files import read_json, read_lines
from losslab.results.tables import Row, Table


@dataclass(frozen=True)
class Run:
    """A trained cell, or a base that is scored as it is; nothing is on record of one that nobody has begun."""

    folder: Path
    seed: int

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / "metrics.jsonl")

    @cached_property
    def config(self) -> dict[str, Any]:
        path = self.folder / "config.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}

    @cached_property
    def state(self) -> dict[str, Any]:
        return read_json(self.folder / "cell.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        return read_json(self.folder / "environment.json")

    @cached_property
    def probabilities(self) -> dict[str, Any]:
        """Histograms over the training set before and after, where they were measured."""
        return read_json(self.folder / "probabilities.json")

    def mean(self, key: str, begin: float = 0.0, end: float = 1.0) -> float | None:
        """Of a metric, over a stretch of the training given as shares of its steps; None where it was not recorded."""
        values = [row[key] for row in self.metrics if row.get(key) is not None]
        first = int(begin * len(values))
        chosen = values[first : max(first + 1, int(end * len(values)))]
        return sum(chosen) / len(chosen) if chosen else None


@dataclass(frozen=True)
class Group:
    """A row of the table: its cells, and the number of its colour, which rows of one label share."""

    row: Row
    style: int
    runs: list[Run]

    @property
    def label(self) -> str:
        return self.row.label

    @property
    def model(self) -> str:
        return self.row.names["model"]

    @property
    def trained(self) -> list[Run]:
        """Cells with steps on record."""
        return [run for run in self.runs if run.metrics]


def groups(table: Table) -> list[Group]:
    """The rows of a table; a base has the colour 0, others count from 1."""
    runs: dict[Path, Run] = {}
    labels: dict[str, int] = {}
    found = []
    for row in table.rows:
        for entry in row.entries:
            runs.setdefault(entry.folder, Run(entry.folder, entry.seed))
        style = 0 if row.names["loss"] == BASE else labels.setdefault(row.label, len(labels) + 1)
        found.append(Group(row, style, [runs[entry.folder] for entry in row.entries]))
    return found


def by_model(found: Sequence[Group]) -> Iterator[tuple[str, list[Group]]]:
    for model in dict.fromkeys(group.model for group in found):
        yield model, [group for group in found if group.model == model]
