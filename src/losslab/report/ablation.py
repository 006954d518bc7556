"""The table of the page: every row's scores, and how much better it is than other rows of its model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losslab.records.reading import read_yaml
from losslab.report.rows import ReportRow, Scores, score_folder
from losslab.results.compare import right_shares
from losslab.results.learning_curves import AVERAGE
from losslab.results.load_records import CellScores
from losslab.results.tables import Table
from losslab.statistics.intervals import Estimate, paired

MOST_DIFFERENCES = 4000  # pairs of rows on a page


@dataclass(frozen=True)
class ScoredProblems:
    """The samples of one cell under one protocol, problem by problem."""

    problems: dict[str, str]  # the hash of each benchmark's problems
    shares: dict[str, NDArray[np.float64]]  # of right samples of each problem, by benchmark


@dataclass(frozen=True)
class ComparedRow:
    row: ReportRow
    values: list[Estimate | None]  # of each column
    differences: dict[str, dict[str, Estimate]]  # from another row, by its label: on each column


def problem_shares(table: Table, entry: CellScores, scores: Scores) -> ScoredProblems:
    """The share of right samples of each problem; nothing without scores or, in older records, without the samples."""
    folder, content = score_folder(entry), scores.of(entry)

    def read(_: Path) -> ScoredProblems:
        shares = right_shares(folder, content, content["verdict"])
        protocol: dict[str, Any] = read_yaml(folder / "protocol.yaml").get("benchmarks") or {}
        return ScoredProblems({name: str(protocol.get(name, "")) for name in shares}, shares)

    return table.attempt(read, folder, ScoredProblems({}, {}))


def references(rows: Sequence[ReportRow], drawn: Sequence[ReportRow], reference: str | None) -> list[str]:
    """The labels that the page offers to compare with: all of the drawn rows, or as many as there is room for."""
    labels = list(dict.fromkeys(row.label for row in drawn))
    labels.sort(key=lambda label: label != reference)
    kept = set(labels[: max(1, MOST_DIFFERENCES // max(1, len(rows)))])
    return [label for label in dict.fromkeys(row.label for row in rows) if label in kept]


def compared_rows(
    rows: Sequence[ReportRow],
    offered: Sequence[str],
    table: Table,
    shares: Mapping[tuple[Path, str], ScoredProblems],
) -> list[ComparedRow]:
    """Each row with its paired differences from those rows that `offered` names and that compare with it.

    These are of its model and protocol. The average is over the table's benchmarks, which are among the columns.
    """
    others = [row for row in rows if row.label in offered]
    return [
        ComparedRow(
            row,
            [row.row.value(column) for column in table.columns],
            {
                other.label: found
                for other in others
                if other is not row
                and (other.model, other.row.measure) == (row.model, row.row.measure)
                and (found := _differences(other, row, table, shares))
            },
        )
        for row in rows
    ]


def _differences(
    a: ReportRow, b: ReportRow, table: Table, shares: Mapping[tuple[Path, str], ScoredProblems]
) -> dict[str, Estimate]:
    """How much better b is than a over the seeds that both have, on the columns whose problems are the same.

    Without a seed in common there is nothing.
    """
    cells = [{entry.seed: shares[entry.folder, str(entry.protocol)] for entry in row.row.scored} for row in (a, b)]
    seeds = sorted(set(cells[0]) & set(cells[1]))
    if not seeds:
        return {}
    first = cells[0][seeds[0]]
    names = [name for name in table.columns if all(same(of[seed], first, name) for of in cells for seed in seeds)]
    left, right = ({name: np.stack([of[seed].shares[name] for seed in seeds]) for name in names} for of in cells)
    found = paired(left, right) if names else {}
    if set(names) != set(table.benchmarks):  # the average is over these, as in the table: over fewer would not compare
        found.pop(AVERAGE, None)
        if set(table.benchmarks) <= set(names):
            a_means, b_means = ({name: of[name] for name in table.benchmarks} for of in (left, right))
            found[AVERAGE] = paired(a_means, b_means)[AVERAGE]
    return found


def same(a: ScoredProblems, b: ScoredProblems, name: str) -> bool:
    """Whether both have the same problems of a benchmark."""
    both = name in a.shares and name in b.shares
    return both and a.problems[name] == b.problems[name] and len(a.shares[name]) == len(b.shares[name])
