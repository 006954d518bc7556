"""Puts the page of a sweep together from records, and writes it."""

import base64
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from losslab import __version__, render, status, tables
from losslab.curves import AVERAGE
from losslab.files import read_json, write
from losslab.publish import curves_of
from losslab.report import ablation, accounts, browser, charts, hints, training
from losslab.report.ablation import Line
from losslab.report.runs import Group, by_model, groups
from losslab.schema import SweepConfig
from losslab.status import Status

ERROR_LINES = 30  # of a failed cell's error.txt


def publish(sweeps: Sequence[str], results: str, against: str | None = None) -> list[Path]:
    """Write the pages of sweeps, of all where none is named; returns their paths.

    `against` is the label of the row that others are compared with at first. ValueError when there is no record, or no
    such row.
    """
    known = sorted(status.sweeps(results))
    if not known:
        raise ValueError(f"no record of any sweep under {results}: run one first, or set results=FOLDER")
    pages = []
    for name in sweeps or known:
        pages.append(Path(results) / "reports" / f"{name}.html")
        write(pages[-1], page(name, results, against, pages[-1].parent))
    return pages


def page(sweep: str, results: str, against: str | None, place: Path) -> str:
    """The page of a sweep as HTML; its links lead from the folder `place` to the records."""
    table = tables.build(SweepConfig(name=sweep), results)
    rows = groups(table)
    reference = ablation.reference(rows, against)
    samples = {
        (entry.folder, str(entry.protocol)): browser.read(entry.folder / "scores" / str(entry.protocol))
        for row in rows
        for entry in row.row.scored
    }
    lines = ablation.table(rows, table.columns, samples)
    shown = browser.browser(rows, samples, reference)
    over_steps = curves_of(table)
    changes = {model: training.probabilities(own) for model, own in by_model(rows)}
    cells = status.statuses(sweep, results)
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
        sweep=sweep,
        question=_question(sweep, rows),
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        commits=_commits(rows),
        policy=_policy(*sheets),
        style=Markup(sheets[0]),
        script=Markup(sheets[1]),
        columns=table.columns,
        caption=render.CAPTION,
        rows=[_row(line, table.columns, reference) for line in lines],
        labels=list(dict.fromkeys(row.label for row in rows)),
        legend=list(dict.fromkeys((row.style, row.label) for row in rows if row.trained)),
        reference=reference,
        several=len({row.model for row in rows}) > 1,
        headlines=_headlines(lines, table.columns, reference),
        differences=_embed(_differences(lines, table.columns)),
        models=[
            {
                "name": model,
                "intervals": _intervals(own, table.columns),
                "learning": training.metrics(own, training.LEARNING)
                + training.accuracy(own, over_steps, table.columns),
                "diagnostics": training.metrics(own, training.DIAGNOSTICS),
                "changes": changes[model],
                "hints": hints.hints(own, changes[model]),
            }
            for model, own in by_model(rows)
        ],
        settings=accounts.settings(rows),
        heads=[(row.model, row.label, row.style) for row in rows],
        costs=accounts.costs(rows),
        total=accounts.total(rows),
        browser=shown,
        payload=_embed(shown.payload) if shown else None,
        cells=[_cell(one, place) for one in cells],
        states=Counter(one.state for one in cells),
        texts=browser.TEXTS,
        long=browser.LONG,
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


def _question(sweep: str, rows: Sequence[Group]) -> str:
    """Of the first cell that was run for this sweep; one cell may be in several."""
    own = (run.config["sweep"] for row in rows for run in row.runs)
    return next((found["question"] for found in own if found["name"] == sweep), "")


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
        "average": line.values[-1].mean if line.values[-1] else -1,
        "cells": [
            {
                "mean": value.mean if value else None,
                "half": value.half if value and value.half is not None and math.isfinite(value.half) else None,
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
        return ("reference" if line.group.label == reference else ""), ""
    half = f" ± {found.half:.1f}" if math.isfinite(found.half) else ""
    kind = ("better" if found.value > 0 else "worse") if found.distinct else ""
    return f"{found.value:+.1f}{half}".replace("-", "−"), kind


def _differences(lines: Sequence[Line], columns: Sequence[str]) -> dict[str, list[list[tuple[str, str]]]]:
    """For each row that others may be compared with: what the cells of all rows then say."""
    labels = dict.fromkeys(line.group.label for line in lines)
    return {label: [[_difference(line, label, column) for column in columns] for line in lines] for label in labels}


def _headlines(lines: Sequence[Line], columns: Sequence[str], reference: str | None) -> list[dict[str, str]]:
    """The best average of each model and by how much it is better than the reference."""
    found = []
    for model in dict.fromkeys(line.group.model for line in lines):
        own = [line for line in lines if line.group.model == model and line.values[-1]]
        best = max(own, key=lambda line: line.values[-1].mean if line.values[-1] else 0.0, default=None)
        if best is None or best.values[-1] is None:
            continue
        apart = best.against.get(reference or "", {}).get(AVERAGE)
        text = ""
        if apart is not None and math.isfinite(apart.half):
            low, high = apart.value - apart.half, apart.value + apart.half
            text = f"{apart.value:+.1f} points over {reference} (95% interval {low:+.1f} to {high:+.1f})"
        value = f"{best.values[-1].mean:.1f}"
        found.append({"model": model, "label": best.group.label, "value": value, "apart": text.replace("-", "−")})
    return found


def _intervals(rows: Sequence[Group], columns: Sequence[str]) -> list[training.Chart]:
    found = []
    for column in (columns[-1], *columns[:-1]):
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
