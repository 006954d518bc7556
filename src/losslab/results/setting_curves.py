"""The score against a setting, such as the learning rate, from a table's rows: the curves of the paper's Figure 3."""

import csv
import io
from collections import Counter
from dataclasses import replace

from losslab.results import tables
from losslab.results.learning_curves import AVERAGE
from losslab.results.tables import Measure, Row, Table
from losslab.statistics.intervals import Estimate

Line = list[tuple[float, Estimate | None]]  # value of the setting and the average score; None where it is missing


def lines(table: Table, key: str) -> dict[str, Line]:
    """The average score of each configuration, by the values of one of the keys that `sweep.against` names.

    The other keys stay at the values that most rows have, since a sweep may vary them one at a time. ValueError when
    the rows have no such key, or no numbers there.
    """
    rows = [row for row in table.rows if key in row.config and not row.earlier]
    if not all(isinstance(row.config[key], int | float) for row in rows) or not rows:
        raise ValueError(f"sweep.against={key} names no number of the sweep's cells: check it")
    for other in table.sweep.against:
        if other != key:
            usual = Counter(row.config.get(other) for row in rows).most_common(1)[0][0]
            rows = [row for row in rows if row.config.get(other) == usual]
    found = {name: [row for row in own if row in rows] for name, own in alike(table).items()}
    return {
        name: [(row.config[key], row.value(AVERAGE)) for row in sorted(own, key=lambda row: row.config[key])]
        for name, own in found.items()
        if own
    }


def alike(table: Table) -> dict[str, list[Row]]:
    """Rows that differ in the keys of `sweep.against` alone, by the objective and by what else sets them apart.

    Earlier versions of a row are not among them. A row without scores is missing under each measure of the others.
    """
    found: dict[tuple[str, ...], dict[Measure | None, list[Row]]] = {}
    for row in table.rows:
        if not row.earlier and any(key in row.config for key in table.sweep.against):
            own = row.names["model"], row.names["loss"], tables.canonical(_apart(row, table).config)
            found.setdefault(own, {}).setdefault(row.measure, []).append(row)
    groups: list[list[Row]] = []
    for measures in found.values():
        missing = measures.pop(None, [])
        groups += [[*rows, *missing] for rows in measures.values()] or [missing]
    firsts = [_apart(rows[0], table) for rows in groups]
    models = [f"{row.names['model']} " if len(table.models) > 1 else "" for row in firsts]
    return {model + tables.label(row, firsts): rows for model, row, rows in zip(models, firsts, groups, strict=True)}


def _apart(row: Row, table: Table) -> Row:
    """A row without the settings, and without a method, which may be no more than the name of one."""
    config = {key: value for key, value in row.config.items() if key not in table.sweep.against}
    return replace(row, names=row.names | {"method": None}, config=config)


def spreadsheet(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["setting", "value", "objective", "average", "half"])
    for key in table.sweep.against:
        for objective, line in lines(table, key).items():
            writer.writerows([key, x, objective, *((y.mean, y.half) if y else (None, None))] for x, y in line)
    return out.getvalue()
