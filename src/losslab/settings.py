"""The score against a setting, such as the learning rate, from a table's rows: the curves of the paper's Figure 3."""

import csv
import io
from collections import Counter

from losslab.curves import AVERAGE
from losslab.estimate import Estimate
from losslab.tables import Row, Table

Line = list[tuple[float, Estimate | None]]  # value of the setting and the average score; None where it is missing


def lines(table: Table, key: str) -> dict[str, Line]:
    """The average score of each objective, by the values of one of the keys that `sweep.against` names.

    The other keys stay at the values that most rows have, since a sweep may vary them one at a time. ValueError when
    the rows have no such key, or no numbers there.
    """
    rows = [row for row in table.rows if key in row.config]
    if not all(isinstance(row.config[key], int | float) for row in rows) or not rows:
        raise ValueError(f"sweep.against={key} names no number of the sweep's cells: check it")
    for other in table.sweep.against:
        if other != key:
            usual = Counter(row.config.get(other) for row in rows).most_common(1)[0][0]
            rows = [row for row in rows if row.config.get(other) == usual]
    found: dict[str, Line] = {}
    for row in sorted(rows, key=lambda row: row.config[key]):
        found.setdefault(name(row, table), []).append((row.config[key], row.value(AVERAGE)))
    return found


def name(row: Row, table: Table) -> str:
    """The objective, without a method that only names the setting."""
    return f"{row.names['model']} {row.names['loss']}" if len(table.models) > 1 else row.names["loss"]


def spreadsheet(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["setting", "value", "objective", "average", "half"])
    for key in table.sweep.against:
        for objective, line in lines(table, key).items():
            writer.writerows([key, x, objective, *((y.mean, y.half) if y else (None, None))] for x, y in line)
    return out.getvalue()
