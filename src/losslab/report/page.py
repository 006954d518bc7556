"""Puts the page of a sweep together from records, and writes it."""

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from losslab import __version__
from losslab.config.schema import SweepConfig
from losslab.files import read_json, write
from losslab.launchers import status
from losslab.launchers.status import Status
from losslab.report import ablation, charts, costs, diagnostic_notes, sample_browser, training
from losslab.report.ablation import Line
from losslab.report.cells import Group, Run, by_model, groups
from losslab.results import claims, paper, probability_plots, table_formats, tables
from losslab.results.learning_curves import AVERAGE
from losslab.results.write_tables import curves_of, layouts, notes

ERROR_LINES = 30  # of a failed cell's error.txt


def publish(sweep: SweepConfig, results: str, against: str | None = None) -> Path:
    """Write the page of a sweep; returns its path.

    `against` is the label of the row that others are compared with at first. ValueError when there is no record, or no
    such row.
    """
    path = Path(results) / "reports" / f"{sweep.name}.html"
    write(path, page(sweep, results, against, path.parent))
    return path


def rebuild(sweeps: Sequence[str], results: str, against: str | None = None) -> Iterator[Path]:
    """Publish sweeps by name, all that have a record where none is named. ValueError as for `publish`."""
    for sweep in layouts(sweeps, results):
        yield publish(sweep, results, against)


def page(sweep: SweepConfig, results: str, against: str | None, place: Path) -> str:
    """The page of a sweep as HTML; its links lead from the folder `place` to the records."""
    cells = [_cell(one, place) for one in status.statuses(sweep.name, results)]
    table = tables.build(sweep, results)
    rows = groups(table)
    cells += [_absent(run) for row in rows for run in row.runs if not run.folder.exists()]
    comparison, over_steps = paper.compare(table), curves_of(table)
    reference = ablation.reference(rows, against)
    samples = {
        (entry.folder, str(entry.protocol)): sample_browser.read(entry.folder / "scores" / str(entry.protocol))
        for row in rows
        for entry in row.row.scored
    }
    lines = ablation.table(rows, table.columns, table.benchmarks, samples)
    shown = sample_browser.browser(rows, samples, reference)
    changes = {model: training.probabilities(own) for model, own in by_model(rows)}
    sheets = [file(name) for name in ("style.css", "script.js")]
    environment = Environment(
        loader=PackageLoader("losslab.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "hours": hours, "colour": charts.colour}
    return environment.get_template("page.html").render(
        sweep=table.name,
        question=table.question,
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        commits=_commits(rows),
        policy=_policy(*sheets),
        style=Markup(sheets[0]),
        script=Markup(sheets[1]),
        columns=table.columns,
        numbers={*table.columns, "difference", "seeds"},
        average=AVERAGE,
        caption=table_formats.caption(table),
        ordered=not sweep.paper,
        settings_charts=training.against(table, rows),
        sheets=[
            *([table_formats.against(table, comparison)] if comparison else []),
            *([claims.sheet(table)] if sweep.directions else []),
        ],
        notes=list(notes(table, over_steps, probability_plots.collect(table))),
        rows=[_row(line, table.columns, reference) for line in lines],
        labels=list(dict.fromkeys(row.label for row in rows)),
        legend=list(dict.fromkeys((row.style, row.label) for row in rows if row.trained)),
        reference=reference,
        several=len({row.model for row in rows}) > 1,
        headlines=_headlines(lines, reference),
        differences=_embed(_differences(lines, table.columns)),
        models=[
            {
                "name": model,
                "intervals": _intervals(own, [AVERAGE, *table.benchmarks, *table.others]),
                "learning": training.metrics(own, training.LEARNING)
                + training.accuracy(own, over_steps, [AVERAGE, *table.benchmarks]),
                "diagnostics": training.metrics(own, training.DIAGNOSTICS),
                "changes": changes[model],
                "hints": diagnostic_notes.hints(own, changes[model]),
            }
            for model, own in by_model(rows)
        ],
        settings=costs.settings(rows),
        heads=[(row.model, row.label, row.style) for row in rows],
        costs=costs.costs(rows),
        total=costs.total(rows),
        devices=costs.devices(rows),
        browser=shown,
        payload=_embed(shown.payload) if shown else None,
        cells=cells,
        states=Counter(one["state"] for one in cells),
        texts=sample_browser.TEXTS,
        long=sample_browser.LONG,
    )


def file(name: str) -> str:
    """A file of this package."""
    return (files("losslab.report") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """What a browser may do with the page: apply this style and run this script, and nothing else.

    Whatever a model wrote, it cannot run or fetch anything, even if it were not escaped.
    """
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    sources = [f"{kind} 'sha256-{own}'" for kind, own in zip(("style-src", "script-src"), hashes, strict=True)]
    return "; ".join(["default-src 'none'", *sources, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def _embed(value: Any) -> Markup:
    """JSON for a script element, which nothing in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _commits(rows: Sequence[Group]) -> list[str]:
    found: dict[str, None] = {}
    for run in (run for row in rows for run in row.runs):
        if commit := run.environment.get("commit"):
            found[commit[:10] + (" with changes" if run.environment.get("dirty") else "")] = None
    return list(found)


def _row(line: Line, columns: Sequence[str], reference: str | None) -> dict[str, Any]:
    group, scored = line.group, len(line.group.row.scored)
    return {
        "label": group.label,
        "model": group.model,
        "style": group.style,
        "seeds": str(scored) if scored == len(group.runs) else f"{scored}/{len(group.runs)}",
        "scored": scored,
        "cells": [
            {
                "mean": value.mean if value else None,
                "half": value.half if value else None,
                "difference": _difference(line, reference, column),
            }
            for column, value in zip(columns, line.values, strict=True)
        ],
    }


def _difference(line: Line, reference: str | None, column: str) -> tuple[str, str]:
    """What a cell of the table says of its difference, and the class of its style.

    That is better or worse where the interval leaves zero out.
    """
    found = line.against.get(reference or "", {}).get(column)
    if found is None:
        own = line.group.label == reference and line.group.row.value(column) is not None
        return ("reference" if own else ""), ""
    half = "" if found.half is None else f" ± {found.half:.1f}"
    kind = ("better" if found.mean > 0 else "worse") if found.nonzero else ""
    return f"{found.mean:+.1f}{half}".replace("-", "−"), kind


def _differences(lines: Sequence[Line], columns: Sequence[str]) -> dict[str, list[list[tuple[str, str]]]]:
    """For each row that others may be compared with: what the cells of all rows then say."""
    labels = dict.fromkeys(line.group.label for line in lines)
    return {label: [[_difference(line, label, column) for column in columns] for line in lines] for label in labels}


def _headlines(lines: Sequence[Line], reference: str | None) -> list[dict[str, str]]:
    """The best average of each model and by how much it is better than the reference."""
    found = []
    for model in dict.fromkeys(line.group.model for line in lines):
        averages = {
            line.group.label: (value.mean, line)
            for line in lines
            if line.group.model == model and not line.group.row.earlier and (value := line.group.row.value(AVERAGE))
        }
        if not averages:
            continue
        label, (mean, best) = max(averages.items(), key=lambda one: one[1][0])
        apart, text = best.against.get(reference or "", {}).get(AVERAGE), ""
        if apart is not None and apart.half is not None:
            text = f"{apart.mean:+.1f} points over {reference} (95% interval {apart.low:+.1f} to {apart.high:+.1f})"
        found.append({"model": model, "label": label, "value": f"{mean:.1f}", "apart": text.replace("-", "−")})
    return found


def _intervals(rows: Sequence[Group], columns: Sequence[str]) -> list[training.Chart]:
    found = []
    for column in columns:
        values = [(row.style, row.label, row.row.value(column)) for row in rows]
        own = [(style, label, value.mean, value.half) for style, label, value in values if value]
        if own:
            found.append(training.Chart(column, "", charts.intervals(f"{column}: means with 95% intervals", own)))
    return found


def _cell(one: Status, place: Path) -> dict[str, Any]:
    """The state of a cell with links to its records, relative to the page."""
    folder = one.folder
    scores = sorted(path.parent for path in folder.glob("scores/*/scores.json"))
    of = {path: f" of {path.name}" if len(scores) > 1 else "" for path in scores}
    wanted = [
        *((f"samples{of[path]}", path / "samples.html") for path in scores),
        *((f"scores{of[path]}", path / "scores.json") for path in scores),
        ("configuration", folder / "config.yaml"),
        ("metrics", folder / "metrics.jsonl"),
        ("environment", folder / "environment.json"),
        ("error", folder / "error.txt"),
    ]
    error = ""
    if one.state == "failed" and (folder / "error.txt").exists():
        lines = (folder / "error.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        error = "\n".join(lines[-ERROR_LINES:])
    return {
        "name": folder.name,
        "href": _link(folder, place) + "/",
        "state": one.state,
        "step": "" if one.step is None else f"{one.step}/{one.steps or '?'}",
        "note": one.note,
        "error": error,
        "links": [(name, _link(path, place)) for name, path in wanted if path.exists()],
        "updated": str(read_json(folder / "cell.json").get("updated", ""))[:16].replace("T", " "),
    }


def _absent(run: Run) -> dict[str, Any]:
    """A cell that the sweep declares and nobody has begun."""
    empty = {"href": "", "step": "", "note": "", "error": "", "links": [], "updated": ""}
    return {"name": run.folder.name, "state": "not begun"} | empty


def _link(path: Path, place: Path) -> str:
    return quote(Path(os.path.relpath(path, place)).as_posix())


def count(value: float) -> str:
    """1234567 as 1.23 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def hours(value: float) -> str:
    """Device hours as hours, or as minutes or seconds where they are few."""
    if value >= 1:
        return f"{value:,.1f} h"
    return f"{60 * value:.1f} min" if 60 * value >= 1 else f"{3600 * value:.0f} s"
