"""Puts the page of a sweep together from records, and writes it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from losslab import __version__
from losslab.config.sweep import SweepConfig
from losslab.files.atomic import write
from losslab.launchers import status
from losslab.pages.page import embed, render
from losslab.records.cell_records import CellRecord, cell_records
from losslab.report import charts, costs, row_samples, training
from losslab.report.ablation import Ablation, ComparedRow
from losslab.report.cell_states import absent_line, cell_line
from losslab.report.diagnostic_notes import diagnostic_notes
from losslab.report.rows import DRAWN, ReportRow, by_model
from losslab.report.token_views import token_views
from losslab.results import (
    breakdown,
    claims,
    gain_and_loss,
    kl_to_base,
    paper,
    passes,
    probability_plots,
    sheets,
    table_formats,
    tables,
    tuning,
)
from losslab.results.conclusion import Conclusion, conclusions
from losslab.results.conclusion_text import sentences
from losslab.results.gain_and_loss import Tradeoff
from losslab.results.kl_to_base import Divergence
from losslab.results.learning_curves import AVERAGE
from losslab.results.notes import notes, shown_divergences
from losslab.results.write_tables import curves_of, homeless, layouts, report_faults


def write_report(
    sweep: SweepConfig, results: str, against: str | None = None, records: Sequence[CellRecord] | None = None
) -> Path:
    """Write the page of a sweep; returns its path.

    `against` is the label of the row that others are compared with at first. ValueError when there is no record, or no
    such row.
    """
    path = Path(results) / "reports" / f"{sweep.name}.html"
    write(path, _page(sweep, results, against, path.parent, cell_records(results) if records is None else records))
    return path


def write_reports(sweeps: Sequence[str], results: str, against: str | None = None) -> Iterator[Path]:
    """Write the pages of sweeps, of all that have a record where none is named. ValueError as for `write_report`."""
    records = cell_records(results)
    report_faults(homeless(records))
    for sweep in layouts(sweeps, results, records):
        yield write_report(sweep, results, against, records)


def _page(sweep: SweepConfig, results: str, against: str | None, place: Path, records: Sequence[CellRecord]) -> str:
    """The page of a sweep as HTML; its links lead from the folder `place` to the records."""
    states = {record.folder: record.state for record in records}
    cells = [
        cell_line(cell_status, states.get(cell_status.folder, {}), place)
        for cell_status in status.statuses(sweep.name, results, records)
    ]
    table = tables.build(sweep, results, records)
    ablation = Ablation.of(table, records, against)
    rows, drawn, shares = ablation.rows, ablation.drawn, ablation.shares
    cells += [absent_line(cell.folder) for row in rows for cell in row.cells if not cell.folder.exists()]
    points, divergences = gain_and_loss.tradeoffs(table, shares), kl_to_base.divergences(table)
    parts = _numbers(ablation, points, divergences) | _curves(ablation, points, divergences)
    samples = row_samples.row_samples(drawn, shares, ablation.reference)
    page = render(
        "page.html",
        ["pages/style.css"],
        ["pages/base.js", "report/script.js", "pages/samples.js"],
        "losslab.report",
        filters={"count": count, "hours": hours, "colour": charts.colour},
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        commits=_commits(rows),
        average=AVERAGE,
        ordered=not sweep.paper,
        labels=ablation.offered,
        reference=ablation.reference,
        several=len({row.model for row in rows}) > 1,
        differences=embed(_differences(ablation)),
        browser=samples,
        several_cells=True,
        payload=embed(samples.payload) if samples else None,
        cells=cells,
        states=Counter(cell["state"] for cell in cells),
        texts=row_samples.TEXTS,
        longest=row_samples.LONGEST,
        **parts | {"notes": [*parts["notes"], *_limits(ablation)]},
    )
    report_faults(table.faults)
    return page


def _limits(ablation: Ablation) -> list[str]:
    """Sentences on the rows that are not drawn, or not offered to compare with."""
    rows, offered = ablation.rows, ablation.offered
    left_out = len(rows) - len(ablation.drawn)
    limits = [f"{left_out} of {len(rows)} rows are not drawn: {DRAWN} of each model are."] if left_out else []
    if len(offered) < len(labels := list(dict.fromkeys(row.label for row in rows))):
        limits.append(f"{len(offered)} of {len(labels)} rows are offered to compare with; against=ROW takes any other.")
    return limits


def _numbers(ablation: Ablation, points: Sequence[Tradeoff], divergences: Sequence[Divergence]) -> dict[str, Any]:
    """What the template shows in tables, by the name that it has there."""
    table, rows, shares = ablation.table, ablation.rows, ablation.shares
    comparison, passed = paper.compare(table), passes.measure(table, shares)
    by_part = [*passes.sheets(table, passed), *breakdown.sheets(table)]
    judged, tuned = claims.judged(table, shares), tuning.tune(table, shares)
    divergences = shown_divergences(table, divergences)
    of_cells = {cell.folder: costs.cell_cost(cell, shares.scores) for row in rows for cell in row.cells}
    concluded = conclusions(table, shares, tuned)
    return {
        "sweep": table.name,
        "question": table.question,
        "conclusions": [(conclusion.model, sentences(conclusion)) for conclusion in concluded],
        "columns": table.columns,
        "caption": table_formats.caption(table),
        "sheets": [*sheets.beside_scores(table, comparison, judged, tuned, points, divergences), *by_part],
        "numbers": {
            *table.columns,
            "difference",
            "seeds",
            "gain",
            "loss",
            *kl_to_base.NUMBERS,
            *(head for sheet in by_part for head in sheet.head[2:]),
        },
        "rows": [_row(line, table.columns, ablation.reference) for line in ablation.compared],
        "legend": list(dict.fromkeys((row.style, row.label) for row in ablation.drawn if row.trained)),
        "headlines": _headlines(concluded),
        "settings": costs.settings(rows),
        "heads": [(row.model, row.label, row.style) for row in rows],
        "costs": costs.row_costs(rows, of_cells),
        "total": costs.total_cost(of_cells),
        "devices": costs.devices(rows),
    }


def _curves(ablation: Ablation, points: Sequence[Tradeoff], divergences: Sequence[Divergence]) -> dict[str, Any]:
    """What the template shows in charts, by the name that it has there, and notes on missing parts."""
    table, drawn, shares = ablation.table, ablation.drawn, ablation.shares
    curves = curves_of(table)
    changes = {model: training.probabilities(of_model) for model, of_model in by_model(drawn)}
    models = [
        {
            "name": model,
            "intervals": _intervals(of_model, [AVERAGE, *table.benchmarks, *table.others]),
            "learning": training.metrics(of_model, training.LEARNING)
            + training.accuracy(of_model, curves, [AVERAGE, *table.benchmarks]),
            "diagnostics": training.metrics(of_model, training.DIAGNOSTICS),
            "changes": changes[model],
            "ends": training.ends(of_model),
            "views": token_views(table, of_model),
            "hints": diagnostic_notes(of_model, changes[model], shares.scores),
        }
        for model, of_model in by_model(drawn)
    ]
    return {
        "models": models,
        "settings_charts": training.against_settings(table, drawn),
        "tradeoff_charts": training.gain_against_loss(drawn, points),
        "notes": list(notes(table, curves, probability_plots.measured_rows(table), divergences)),
    }


def _commits(rows: Sequence[ReportRow]) -> list[str]:
    commits: dict[str, None] = {}
    for cell in (cell for row in rows for cell in row.cells):
        if commit := cell.environment.get("commit"):
            commits[commit[:10] + (" with changes" if cell.environment.get("dirty") else "")] = None
    return list(commits)


def _row(line: ComparedRow, columns: Sequence[str], reference: str | None) -> dict[str, Any]:
    row, scored = line.row, len(line.row.row.averaged)
    return {
        "label": row.label,
        "model": row.model,
        "style": row.style,
        "seeds": str(scored) if scored == len(row.cells) else f"{scored}/{len(row.cells)}",
        "scored": scored,
        "cells": [
            {
                "mean": value.mean if value else None,
                "half": value.half if value else None,
                "seeds": row.row.seeds(column) if row.row.seeds(column) != scored else None,
                "difference": _difference(line, reference, column),
            }
            for column, value in zip(columns, line.values, strict=True)
        ],
    }


def _difference(line: ComparedRow, reference: str | None, column: str) -> tuple[str, str]:
    """What a cell of the table says of its difference, and the class of its style.

    That is better or worse where the interval leaves zero out.
    """
    difference = line.differences.get(reference or "", {}).get(column)
    if difference is None:
        is_reference = line.row.label == reference and line.row.row.value(column) is not None
        return ("reference" if is_reference else ""), ""
    kind = ("better" if difference.mean > 0 else "worse") if difference.nonzero else ""
    return f"{difference:+.1f}".replace("-", "−"), kind


def _differences(ablation: Ablation) -> dict[str, list[list[tuple[str, str]]]]:
    """For each row that others may be compared with: what the cells of all rows then say."""
    columns, compared = ablation.table.columns, ablation.compared
    return {
        label: [[_difference(line, label, column) for column in columns] for line in compared]
        for label in ablation.offered
    }


def _headlines(concluded: Sequence[Conclusion]) -> list[dict[str, str]]:
    """The best average of each model among the rows that compare; the conclusion says whether it stands out."""
    headlines = []
    for c in concluded:
        chose = any(choice.row.label == c.best and len(choice.values) > 1 for choice in c.choices)
        label = f"{c.best} at its own best {c.tuned}" if chose else c.best
        label += ", on half of the problems" if c.tuned else ""
        headlines.append({"model": c.model, "label": label, "value": f"{c.averages[c.best].mean:.1f}"})
    return headlines


def _intervals(rows: Sequence[ReportRow], columns: Sequence[str]) -> list[training.Chart]:
    figures = []
    for column in columns:
        values = [(row.style, row.label, row.row.value(column)) for row in rows]
        lines = [(style, label, value.mean, value.half) for style, label, value in values if value]
        if lines:
            figures.append(training.Chart(column, "", charts.intervals(f"{column}: means with 95% intervals", lines)))
    return figures


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
