"""The score against a setting, such as the learning rate, from a table's rows: the curves of the paper's Figure 3."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from losslab.files import csv_text
from losslab.results.labels import canonical, labels
from losslab.results.learning_curves import AVERAGE
from losslab.results.tables import Measure, Row, Table
from losslab.statistics.intervals import Estimate

SettingCurve = list[tuple[float, Estimate | None]]  # value of the setting, average score; None where it is missing


def keys(table: Table) -> list[str]:
    """The settings of a table: the keys of `sweep.against`, and that of `sweep.tune` where its values are numbers."""
    tune = table.sweep.tune
    if tune is None or tune in table.sweep.against:
        return table.sweep.against
    values = [row.config[tune] for row in table.rows if tune in row.config]
    numbers = bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return [*table.sweep.against, *([tune] if numbers else [])]


def curves(table: Table, key: str) -> dict[str, SettingCurve]:
    """The average score of each configuration, by the values of one of the table's settings.

    The other keys stay at the values that most rows have, since a sweep may vary them one at a time. ValueError when
    the rows have no such key, or no numbers there.
    """
    rows = [row for row in table.rows if key in row.config and not row.earlier]
    if not all(isinstance(row.config[key], int | float) for row in rows) or not rows:
        raise ValueError(f"sweep.against={key} names no number of the sweep's cells: check it")
    settings = keys(table)
    for other in settings:
        if other != key:
            usual = Counter(row.config.get(other) for row in rows).most_common(1)[0][0]
            rows = [row for row in rows if row.config.get(other) == usual]
    chosen = {id(row) for row in rows}
    groups = {
        name: [row for row in group if id(row) in chosen] for name, group in configurations(table, settings).items()
    }
    return {
        name: [(row.config[key], row.value(AVERAGE)) for row in sorted(group, key=lambda row: row.config[key])]
        for name, group in groups.items()
        if group
    }


def configurations(table: Table, settings: Collection[str]) -> dict[str, list[Row]]:
    """Rows that differ in these keys alone, by the objective and by what else sets them apart."""
    groups = grouped(table, settings)
    firsts = [without(rows[0], settings) for rows in groups]
    models = [f"{row.names['model']} " if len(table.models) > 1 else "" for row in firsts]
    return {model + label: rows for model, label, rows in zip(models, labels(firsts), groups, strict=True)}


def grouped(table: Table, settings: Collection[str]) -> list[list[Row]]:
    """The rows that have one of these keys, those together that differ in them alone.

    Earlier versions of a row are not among them. A row without scores is missing under each measure of the others.
    """
    by_measure: dict[tuple[str, ...], dict[Measure | None, list[Row]]] = {}
    for row in table.rows:
        if not row.earlier and any(key in row.config for key in settings):
            key = row.names["model"], row.names["loss"], canonical(without(row, settings).config)
            by_measure.setdefault(key, {}).setdefault(row.measure, []).append(row)
    groups: list[list[Row]] = []
    for measures in by_measure.values():
        missing = measures.pop(None, [])
        groups += [[*rows, *missing] for rows in measures.values()] or [missing]
    return groups


def without(row: Row, settings: Collection[str]) -> Row:
    """And without a method, which may be no more than the name of a setting."""
    config = {key: value for key, value in row.config.items() if key not in settings}
    return replace(row, names=row.names | {"method": None}, config=config)


def to_csv(table: Table) -> str:
    rows = [
        [key, x, objective, *((y.mean, y.half) if y else (None, None))]
        for key in keys(table)
        for objective, curve in curves(table, key).items()
        for x, y in curve
    ]
    return csv_text(["setting", "value", "objective", "average", "half"], rows)
