"""The table of the report: every row's scores, and its paired differences from other rows of its model."""

from collections.abc import Sequence
from dataclasses import dataclass

from losslab.records.cell_records import CellRecord
from losslab.report.rows import ReportRow, choose_reference, drawn_rows, report_rows
from losslab.results.problem_shares import ProblemShares, comparable
from losslab.results.tables import Table
from losslab.statistics.intervals import Estimate, simultaneous_level

MOST_DIFFERENCES = 4000  # pairs of rows on a page


@dataclass(frozen=True)
class ComparedRow:
    row: ReportRow
    values: list[Estimate | None]  # of each column
    differences: dict[str, dict[str, Estimate]]  # from another row, by its label: on each column


@dataclass(frozen=True)
class Ablation:
    """The rows of a table as the page shows them."""

    table: Table
    rows: list[ReportRow]
    drawn: list[ReportRow]  # those of charts and samples
    reference: str | None  # the label of the row that others are compared with at first
    offered: list[str]  # the labels of the rows that they can be compared with
    shares: ProblemShares  # of the cells' problems
    compared: list[ComparedRow]  # all rows, with their differences from the offered ones

    @classmethod
    def of(cls, table: Table, records: Sequence[CellRecord], against: str | None) -> "Ablation":
        """Compared at first with the row `against`. ValueError where there is no such row."""
        rows = report_rows(table, records)
        reference = choose_reference(rows, against)
        drawn, shares = drawn_rows(rows, reference), ProblemShares(table)
        offered = _references(rows, drawn, reference)
        return cls(table, rows, drawn, reference, offered, shares, _compared_rows(rows, offered, table, shares))


def _references(rows: Sequence[ReportRow], drawn: Sequence[ReportRow], reference: str | None) -> list[str]:
    """The labels of the rows that the page offers as references: drawn rows, as many as there is room for."""
    labels = list(dict.fromkeys(row.label for row in drawn))
    labels.sort(key=lambda label: label != reference)
    kept = set(labels[: max(1, MOST_DIFFERENCES // max(1, len(rows)))])
    return [label for label in dict.fromkeys(row.label for row in rows) if label in kept]


def _compared_rows(
    rows: Sequence[ReportRow], offered: Sequence[str], table: Table, shares: ProblemShares
) -> list[ComparedRow]:
    """Each row with its paired differences from the offered rows of the same model and measure.

    In each column, the intervals of all rows that are compared with one reference are simultaneous.
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
