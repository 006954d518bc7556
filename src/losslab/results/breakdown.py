"""Scores by subject, level or another column of a benchmark: a table for each, and all of them as CSV."""

from collections.abc import Iterator

from losslab.files.csv_files import csv_text
from losslab.results.load_records import Part
from losslab.results.table_formats import Sheet, SheetCell, best_of_rows, measure_of, score_cells
from losslab.results.tables import Table

CAPTION = "Accuracy in percent ± half of the 95% interval, on the problems with this {column} alone."


def sheets(table: Table) -> Iterator[Sheet]:
    """One sheet for each benchmark of the table and column of its breakdown, with a column for each value."""
    parts = _parts(table)
    for name, column in dict.fromkeys(part[:2] for part in parts):
        of_column = [part for part in parts if part[:2] == (name, column)]
        values = [[row.part(part) for part in of_column] for row in table.rows]
        best = best_of_rows(table, values)
        rows = []
        for row, of_row in zip(table.rows, values, strict=True):
            cells = score_cells(of_row, best[measure_of(row)])
            rows.append([SheetCell(row.names["model"]), SheetCell(row.label), *cells])
        head = ["model", "objective", *(part[2] for part in of_column)]
        yield Sheet(f"{name} by {column}", "", head, rows, CAPTION.format(column=column), [])


def to_csv(table: Table) -> str:
    """A line for each row of the table and part of a benchmark for which it has a score."""
    lines = [
        [row.names["model"], row.label, *part, value.mean, value.half]
        for row in table.rows
        for part in _parts(table)
        if (value := row.part(part))
    ]
    return csv_text(["model", "objective", "benchmark", "column", "value", "mean", "half"], lines)


def _parts(table: Table) -> list[Part]:
    """All parts, in the order of the table's columns and, within a benchmark, of the records."""
    seen = dict.fromkeys(part for row in table.rows for entry in row.scored for part in entry.breakdown)
    return sorted((part for part in seen if part[0] in table.columns), key=lambda part: table.columns.index(part[0]))
