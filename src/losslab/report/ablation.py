"""The table of the page: every row's scores, and how much better it is than other rows of its model."""

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
    """The labels that the page offers to compare with: all of the drawn rows, or as many as there is room for."""
    labels = list(dict.fromkeys(row.label for row in drawn))
    labels.sort(key=lambda label: label != reference)
    kept = set(labels[: max(1, MOST_DIFFERENCES // max(1, len(rows)))])
    return [label for label in dict.fromkeys(row.label for row in rows) if label in kept]


def compared_rows(
    rows: Sequence[ReportRow], offered: Sequence[str], table: Table, shares: ProblemShares
) -> list[ComparedRow]:
    """Each row with its paired differences from those rows that `offered` names and that compare with it.

    These are of its model and measure. The intervals of all rows that compare with a reference hold together on each
    column.
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
