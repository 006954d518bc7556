"""The score against a setting, such as the learning rate, from a table's rows: the curves of the paper's Figure 3."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from losslab.files.csv_files import csv_text
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


@dataclass(frozen=True)
class SettingLine:
    """The rows of one configuration that differ in a setting alone."""

    key: str
    configuration: str
    held: dict[str, Any]  # the other settings of the table that these rows have, which are the same in all of them
    rows: list[Row]  # by the values of the setting

    @property
    def held_text(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.held.items())

    @property
    def name(self) -> str:
        return f"{self.configuration} at {self.held_text}" if self.held else self.configuration

    @property
    def curve(self) -> SettingCurve:
        return [(row.config[self.key], row.value(AVERAGE)) for row in self.rows]


def lines(table: Table, key: str) -> list[SettingLine]:
    """The lines of each configuration over the values of one of the table's settings.

    The other keys stay at the values that most rows have, since a sweep may vary them one at a time; where no value is
    the most frequent one, as in a full grid, each has a line. ValueError when the rows have no such key, or no numbers
    there.
    """
    rows = [row for row in table.rows if key in row.config and not row.earlier]
    if not all(isinstance(row.config[key], int | float) for row in rows) or not rows:
        raise ValueError(f"sweep.against={key} names no number of the sweep's cells: check it")
    settings = keys(table)
    places: list[tuple[dict[str, Any], set[int]]] = [({}, {id(row) for row in rows})]
    for other in settings:
        if other != key:
            places = [(held | more, part) for held, ids in places for more, part in _held(rows, ids, other)]
    return [
        SettingLine(key, name, held, sorted(on_line, key=lambda row: row.config[key]))
        for name, group in configurations(table, settings).items()
        for held, ids in places
        if (on_line := [row for row in group if id(row) in ids])
    ]


def _held(rows: Sequence[Row], ids: Collection[int], key: str) -> Iterator[tuple[dict[str, Any], set[int]]]:
    """The values at which a key is held, each with the ids of the rows that have it; rows without the key remain."""
    of_value: dict[Any, set[int]] = {}
    without_key = set()
    for row in (row for row in rows if id(row) in ids):
        if key in row.config:
            of_value.setdefault(row.config[key], set()).add(id(row))
        else:
            without_key.add(id(row))
    most = max(map(len, of_value.values()), default=0)
    usual = {value: part for value, part in of_value.items() if len(part) == most}
    for value, part in (usual if len(usual) == 1 else of_value).items():
        yield {key: value}, part
    if without_key:
        yield {}, without_key


def curves(table: Table, key: str) -> dict[str, SettingCurve]:
    """The average score along each of `lines`, by its name."""
    return {line.name: line.curve for line in lines(table, key)}


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
        [key, x, line.configuration, line.held_text, *((y.mean, y.half) if y else (None, None))]
        for key in keys(table)
        for line in lines(table, key)
        for x, y in line.curve
    ]
    return csv_text(["setting", "value", "objective", "held", "average", "half"], rows)
