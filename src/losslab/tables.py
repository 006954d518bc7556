"""The ablation table of a sweep, from records alone.

A row is a configuration apart from its seed; several seeds make a mean with a 95% interval over seeds (Student t), a
single one has its interval over problems. Cells that are not scored are shown as missing.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table as RichTable

from losslab.curves import AVERAGE
from losslab.evaluation.scores import student
from losslab.files import read_json
from losslab.schema import BASE, SweepConfig

NOT_SCIENCE = {"machine", "tracker", "sweep", "names", "seed", "stage", "plan", "force", "benchmark"}
IMPLIED = {"eval.seed", "eval.data", "loss._target_", "model.path", "dataset.path", "optimizer.lr"}


@dataclass(frozen=True)
class Entry:
    """One scored cell under one protocol, or one that has no score yet."""

    folder: Path
    names: dict[str, Any]  # `method` is the one of this sweep
    seed: int
    config: dict[str, Any]  # flat: the science of the cell, by dotted key
    protocol: str | None  # name and hash of the protocol of its scores; None where not scored
    scores: dict[str, float]  # percent, by benchmark and AVERAGE; empty where not scored
    halves: dict[str, float]  # half of the 95% interval over problems


@dataclass(frozen=True)
class Value:
    mean: float
    half: float | None  # None where one number says nothing of its uncertainty


@dataclass(frozen=True)
class Row:
    names: dict[str, Any]
    label: str
    entries: list[Entry]

    @property
    def name(self) -> str:
        """The method where there is one, else the objective."""
        return self.names["method"] or self.names["loss"]

    @property
    def scored(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.scores]

    def value(self, column: str) -> Value | None:
        """Mean over the seeds that have this column, with its interval; None where none has."""
        having = [entry for entry in self.scored if column in entry.scores]
        if not having:
            return None
        values = np.array([entry.scores[column] for entry in having])
        if len(values) == 1:
            return Value(float(values[0]), having[0].halves.get(column))
        return Value(float(values.mean()), float(student(len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5))


@dataclass(frozen=True)
class Table:
    name: str
    question: str
    columns: list[str]
    rows: list[Row]


def build(sweep: SweepConfig, results: str) -> Table:
    """The table of all cells that are members of a sweep. Raises ValueError when there is none."""
    entries = list(collect(sweep.name, results))
    if not entries:
        raise ValueError(f"no record of the sweep {sweep.name} under {results}: run it first, or name another sweep")
    protocols = sorted({entry.protocol for entry in entries if entry.protocol})
    benchmarks = list(dict.fromkeys(column for entry in entries for column in entry.scores))
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if len(protocols) > 1:  # they are different measures, so they make different rows
            entry.config["eval"] = entry.protocol
        if benchmarks and set(benchmarks) <= set(entry.scores):  # an average over fewer would not compare
            entry.scores[AVERAGE] = float(np.mean([entry.scores[name] for name in benchmarks]))
            entry.halves[AVERAGE] = float(np.sqrt(sum(entry.halves[n] ** 2 for n in benchmarks)) / len(benchmarks))
        groups.setdefault(json.dumps(entry.config, sort_keys=True, default=str), []).append(entry)
    rows = [Row(group[0].names, "", sorted(group, key=lambda e: e.seed)) for group in groups.values()]
    rows = [Row(row.names, label(row, rows), row.entries) for row in rows]
    models = list(dict.fromkeys(row.names["model"] for row in rows))
    rows.sort(key=lambda row: (models.index(row.names["model"]), row.names["loss"] != BASE, average(row)))
    return Table(sweep.name, sweep.question, [*benchmarks, AVERAGE], rows)


def collect(sweep: str, results: str) -> Iterator[Entry]:
    """The cells of a sweep, in the order in which they were asked for, each once for each protocol of its scores."""
    states = {path.parent: read_json(path) for path in sorted(Path(results).glob("cells/*/cell.json"))}
    members = [folder for folder, state in states.items() if sweep in state.get("sweeps", [])]
    for folder in sorted(members, key=lambda folder: states[folder]["declared"]):
        state = states[folder]
        config = flatten(yaml.safe_load((folder / "config.yaml").read_text()))
        protocols: list[Path | None] = [*sorted(folder.glob("scores/*/scores.json"))]
        for path in protocols or [None]:
            found = read_json(path) if path else {"benchmarks": {}}
            protocol = path.parent.name if path else None
            yield Entry(
                folder,
                state["names"] | {"method": state.get("methods", {}).get(sweep)},
                state["seed"],
                dict(config),
                protocol,
                {name: part["score"] for name, part in found["benchmarks"].items()},
                {name: (part["interval"][1] - part["interval"][0]) / 2 for name, part in found["benchmarks"].items()},
            )


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The science of a config by dotted key, without what follows from other keys or only repeats a chosen file."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if not prefix and (key in NOT_SCIENCE or key == "eval"):
            continue
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    if not prefix and config["names"]["loss"] == BASE:
        flat = {key: value for key, value in flat.items() if key.startswith("model.")}
    if prefix:
        return flat
    named = {} if config["names"]["loss"] == BASE else {"dataset": config["names"]["dataset"]}
    return flat | named | {"loss": config["names"]["loss"]}


def label(row: Row, rows: list[Row]) -> str:
    """The row's name, and whatever else sets it apart from others with the same model and name."""
    alike = [r for r in rows if (r.names["model"], r.name) == (row.names["model"], row.name)]
    own = row.entries[0].config
    apart = [key for key in own if any(r.entries[0].config.get(key) != own[key] for r in alike)]
    shown = [key for key in apart if key not in IMPLIED and not (key.startswith("dataset.") and "dataset" in apart)]
    return " ".join([row.name, *(f"{key}={own[key]}" for key in shown or apart)])


def average(row: Row) -> float:
    value = row.value(AVERAGE)
    return value.mean if value else float("inf")


def cells(table: Table, row: Row) -> list[str]:
    """The texts of a row's columns; `–` for what is missing."""
    texts = []
    for column in table.columns:
        value = row.value(column)
        half = "" if value is None or value.half is None or not np.isfinite(value.half) else f" ± {value.half:.1f}"
        texts.append("–" if value is None else f"{value.mean:.1f}{half}")
    return texts


def best(table: Table, column: str, model: str) -> str | None:
    """The text of the highest mean of a column among a model's rows."""
    values = [row.value(column) for row in table.rows if row.names["model"] == model]
    means = [value.mean for value in values if value]
    return f"{max(means):.1f}" if means else None


def texts(table: Table, bold: str) -> Iterator[list[str]]:
    """Rows of text: model, objective, columns with the best mean in `bold`, seeds scored (of those asked for)."""
    for row in table.rows:
        model, end = row.names["model"], bold.replace("[", "[/")
        marked = [
            f"{bold}{text}{end}" if text.split(" ")[0] == best(table, column, model) else text
            for column, text in zip(table.columns, cells(table, row), strict=True)
        ]
        seeds = str(len(row.scored)) if len(row.scored) == len(row.entries) else f"{len(row.scored)}/{len(row.entries)}"
        yield [model, row.label, *marked, seeds]


CAPTION = "Accuracy in percent ± half of the 95% interval (over seeds where there are several, else over problems)."


def heading(table: Table) -> list[str]:
    return ["model", "objective", *table.columns, "seeds"]


def markdown(table: Table) -> str:
    head = heading(table)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * 2 + "---:|" * (len(head) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in texts(table, "**")]
    return "\n".join([f"# {table.name}", "", table.question, "", *lines, "", CAPTION, ""])


def spreadsheet(table: Table) -> str:
    """CSV with the mean and half interval of each column in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "objective", "seeds", *(f"{c}{s}" for c in table.columns for s in ("", "_half"))])
    for row in table.rows:
        values = [row.value(column) for column in table.columns]
        numbers = [x for value in values for x in ((value.mean, value.half) if value else (None, None))]
        writer.writerow([row.names["model"], row.label, len(row.scored), *numbers])
    return out.getvalue()


def rich(table: Table) -> RichTable:
    """For the terminal, without the column of models where there is one."""
    models = list(dict.fromkeys(row.names["model"] for row in table.rows))
    skipped = 1 if len(models) == 1 else 0
    title = f"{table.name}: {table.question}" + (f" ({models[0]})" if skipped else "")
    out = RichTable(title=title, caption=CAPTION, title_justify="left", caption_justify="left")
    for i, name in enumerate(heading(table)[skipped:], start=skipped):
        out.add_column(name, justify="left" if i < 2 else "right", overflow="fold")
    for row in texts(table, "[bold]"):
        out.add_row(*(text.replace(" ± ", "\n± ") for text in row[skipped:]))  # five benchmarks fit 80 columns
    return out
