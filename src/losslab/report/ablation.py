"""The table of the report: every row's scores, and its paired differences from other rows of its model."""

from collections.abc import Sequence
from dataclasses import dataclass

from losslab.report.rows import ReportRow
from losslab.results.problem_shares import ProblemShares, comparable
from losslab.results.tables import Table
from losslab.statistics.intervals import Estimate, simultaneous_level

MOST_DIFFERENCES = 4000  # pairs of rows on a page


@dataclass(frozen=True)
class ComparedRow:
    row: ReportRow
    values: list[Estimate | None]  # of each column
    differences: dict[str, dict[str, Estimate]]  # from another row, by its label: on each column


def references(rows: Sequence[ReportRow], drawn: Sequence[ReportRow], reference: str | None) -> list[str]:
    """The labels of the rows that the page offers as references: drawn rows, as many as there is room for."""
    labels = list(dict.fromkeys(row.label for row in drawn))
    labels.sort(key=lambda label: label != reference)
    kept = set(labels[: max(1, MOST_DIFFERENCES // max(1, len(rows)))])
    return [label for label in dict.fromkeys(row.label for row in rows) if label in kept]


def compared_rows(
    rows: Sequence[ReportRow], offered: Sequence[str], table: Table, shares: ProblemShares
) -> list[ComparedRow]:
    """Each row with its paired differences from the offered rows of the same model and measure.

    In each column, the intervals of all rows that are compared with one reference hold simultaneously.
    """
    others = [row for row in rows if row.label in offered]
    families = {id(other): sum(comparable(other.row, row.row) for row in rows) for other in others}
    return [
        ComparedRow(
            row,
            [row.row.value(column) for column in table.columns],
            {
                other.label: difference.columns
                for other in others
                if comparable(other.row, row.row)
                and (difference := shares.difference(other.row, row.row, simultaneous_level(families[id(other)])))
            },
        )
        for row in rows
    ]
