"""The label of a table's row: its objective or method, and what distinguishes it from other rows of that name."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from losslab.config.schema import Config
from losslab.results.load_records import flatten

if TYPE_CHECKING:
    from losslab.results.tables import Row

IMPLIED = {"loss._target_", "model.path", "dataset.path"}  # determined by the names of the chosen files
MEASURE_KEYS = {
    "prompt": "prompt",
    "protocol": "eval",
    "verdict": "eval.verdict",
    "samples": "eval.samples",
    "problems": "problems",
}
DEFAULTS = flatten(asdict(Config()))
DAMAGED = "(damaged record)"


def canonical(config: Mapping[str, Any]) -> str:
    """A configuration as a text that is equal for equal configurations; values equal to the defaults are left out."""
    changed = {key: value for key, value in config.items() if key not in DEFAULTS or value != DEFAULTS[key]}
    changed = {key: float(value) if type(value) is int else value for key, value in changed.items()}  # 2 is 2.0
    return json.dumps(changed, sort_keys=True, default=str)


def labels(rows: Sequence["Row"]) -> list[str]:
    """The label of each row. Labels of rows with one model and name list the keys whose values differ."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((row.names["model"], row.name), []).append(i)
    labelled = [""] * len(rows)
    for members in groups.values():
        for i, label in zip(members, _of_group([rows[i] for i in members]), strict=True):
            labelled[i] = label
    return labelled


def _of_group(rows: Sequence["Row"]) -> list[str]:
    keys = list(dict.fromkeys(key for row in rows for key in row.config))
    apart = _differing(keys, rows)
    by_name = tuple(f"{group}." for group in ("dataset", "loss") if group in apart)  # whose names say the rest
    shown = [key for key in apart if key not in IMPLIED and not (by_name and key.startswith(by_name))]
    alike: dict[tuple[Hashable, ...], list[Row]] = {}
    for row in rows:
        alike.setdefault(tuple(_value(row, key) for key in shown), []).append(row)
    # What those names leave open.
    open_keys = {values: [key for key in _differing(apart, same) if key not in shown] for values, same in alike.items()}
    measured = [row.measure for row in rows if row.measure]
    mixed = [part for part in MEASURE_KEYS if len({getattr(measure, part) for measure in measured}) > 1]
    if "prompt" in mixed and len({(m.prompt, m.protocol) for m in measured}) == len({m.prompt for m in measured}):
        mixed.remove("protocol")  # each prompt has one protocol, so that the prompt says enough
    return [
        _label(row, shown + open_keys[tuple(_value(row, key) for key in shown)], "loss" in apart, mixed) for row in rows
    ]


def _label(row: "Row", keys: Sequence[str], with_loss: bool, mixed: Sequence[str]) -> str:
    parts = [f"{key}={row.config[key]}" for key in keys if key != "loss" and key in row.config]
    for part in mixed if row.measure else []:
        value = getattr(row.measure, part)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        parts += [f"{MEASURE_KEYS[part]}={text}"] if text else []
    if row.earlier:
        parts.append(f"earlier={row.earlier}")
    if any(entry.faults for entry in row.entries):
        parts.append(DAMAGED)
    return " ".join([*([row.config["loss"]] if with_loss else []), row.name, *parts])


def _differing(keys: Sequence[str], rows: Sequence["Row"]) -> list[str]:
    return [key for key in keys if len({_value(row, key) for row in rows}) > 1]


def _value(row: "Row", key: str) -> Hashable:
    """The value of a key; a record older than the key has its default."""
    value = row.config.get(key, DEFAULTS.get(key))
    return float(value) if type(value) is int else value if isinstance(value, Hashable) else repr(value)
