"""Prints the table of a sweep, and writes it with its figures in every format, from records alone."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from losslab.composition import experiment_files
from losslab.config.log import log, terminal_text
from losslab.config.sweep import SweepConfig
from losslab.data.probability_bins import EDGES
from losslab.files.json_files import to_text
from losslab.records.cell_records import CellRecord, cell_records
from losslab.records.reading import DamagedRecord, read_metrics
from losslab.results import (
    breakdown,
    claims,
    conclusion_text,
    gain_and_loss,
    kl_to_base,
    learning_curves,
    paper,
    passes,
    plots,
    probability_plots,
    setting_curves,
    shared_writing,
    sheets,
    table_formats,
    tuning,
)
from losslab.results.conclusion import Conclusion, conclusions
from losslab.results.gain_and_loss import Tradeoff
from losslab.results.kl_to_base import Divergence
from losslab.results.learning_curves import AVERAGE, LearningCurve
from losslab.results.load_records import CellScores
from losslab.results.notes import notes, of_measured_cells, row_label, shown, shown_divergences
from losslab.results.plots import BarRow
from losslab.results.probability_plots import BeforeAfter
from losslab.results.problem_shares import ProblemShares
from losslab.results.table_folder import TableFolder
from losslab.results.tables import Measure, Table, build


def renew_table(sweep: SweepConfig, results: str) -> None:
    """`write_table` at the end of a cell, unless another cell that ends at the same time writes this one's row too."""
    cache = _cache(sweep, results)
    write_table(sweep, results, since=shared_writing.begun(cache))


def write_table(sweep: SweepConfig, results: str, since: int | None = None) -> None:
    """Print the table of a sweep and write it, with its figures, under results/tables/<sweep>.

    Args:
        sweep: its name, and the layout of the table.
        results: the folder of the records.
        since: the table is left as it is where another process has begun to write it since, and has ended
            (`shared_writing.writing`).
    """
    cache = _cache(sweep, results)
    folder = TableFolder(Path(results) / "tables" / sweep.name, cache / "figures.json")
    with shared_writing.writing(cache, since) as must_write:
        if not must_write:
            log.info(f"table: {folder.path}/table.md, written by a cell that ended at the same time")
            return
        # The records are read under the lock: a cell that waits for it may leave its row to this writing.
        table = build(sweep, results)
        comparison, shares = paper.compare(table), ProblemShares(table)
        tuned = tuning.tune(table, shares)
        concluded = conclusions(table, shares, tuned)
        curves, measured = curves_of(table), probability_plots.measured_rows(table)
        points, bars = gain_and_loss.tradeoffs(table, shares), bar_rows(table)
        judged, measured_kl = claims.judged(table, shares), kl_to_base.divergences(table)
        passed = passes.measure(table, shares)
        divergences = shown_divergences(table, measured_kl)
        beside = sheets.beside_scores(table, comparison, judged, tuned, points, divergences)
        # After all that reads records, since its notes name those that cannot be read.
        scores = table_formats.scores_sheet(table, list(notes(table, curves, measured, measured_kl)))
        parts = list(breakdown.sheets(table))
        _texts([scores, *beside, *passes.sheets(table, passed), *parts], folder)
        folder.write("table.csv", table_formats.to_csv(table, comparison))
        written = {"table": "table.md, table.tex, table.csv"}
        if passed:
            folder.write("passes.csv", passes.to_csv(table, passed))
            written["pass@k"] = "passes.csv, and in table.md"
        if parts:
            folder.write("breakdown.csv", breakdown.to_csv(table))
            written["parts"] = "breakdown.csv, and in table.md by " + ", ".join(
                dict.fromkeys(sheet.title.rpartition(" by ")[2] for sheet in parts)
            )
        if concluded:
            folder.write("conclusion.md", conclusion_text.markdown(concluded))
            written["answer"] = "conclusion.md"
        if tuned:
            folder.write("tuning.json", to_text(tuning.to_json(tuned)))
            written["tuned"] = "tuning.json: what each seed chose, and by which problems"
        if judged:
            folder.write("claims.csv", claims.to_csv(judged))
        written |= _gain_and_kl(points, divergences, folder)
        written = _figures(table, bars, curves, measured, folder) | written
        folder.remove_stale()
    lines = {name: f"{folder.path}/{files}" for name, files in written.items()}
    lines["records"] = str(Path(results) / "cells")
    lines |= _next(sweep)
    _print(concluded, [scores, *beside], lines)
    report_faults(table.faults)


def _texts(shown: Sequence[table_formats.Sheet], folder: TableFolder) -> None:
    parts = [table_formats.markdown(sheet, 1 if i == 0 else 2) for i, sheet in enumerate(shown)]
    folder.write("table.md", "\n".join(parts))
    folder.write("table.tex", "\n".join(map(table_formats.latex, shown)))


def _next(sweep: SweepConfig) -> dict[str, str]:
    """The command that the sweep's file proposes, with this Python where its path is short."""
    if not sweep.next:
        return {}
    python = os.path.relpath(sys.executable)
    return {"next": sweep.next.replace("python ", f"{python} " if not python.startswith("..") else "python ", 1)}


def _cache(sweep: SweepConfig, results: str) -> Path:
    return Path(results) / "cache" / "tables" / sweep.name


def _print(concluded: Sequence[Conclusion], tables: Sequence[table_formats.Sheet], lines: Mapping[str, str]) -> None:
    """Print the conclusions, the tables, and lines such as where they are written, each with its name before it."""
    console = Console()
    if concluded:
        console.print(terminal_text(conclusion_text.text(concluded)) + "\n", highlight=False, markup=False)
    for sheet in tables:
        console.print(table_formats.terminal(sheet))
    for name, line in lines.items():
        console.print(f"{name + ':':<9}{line}", highlight=False, soft_wrap=True)


def _gain_and_kl(points: Sequence[Tradeoff], divergences: Sequence[Divergence], folder: TableFolder) -> dict[str, str]:
    """Write what training gained and what it moved away from; returns the names of the files by what they show."""
    written = {}
    if points:
        folder.write("gain_and_loss.csv", gain_and_loss.to_csv(points, divergences))
        folder.draw("gain_and_loss", gain_and_loss.figure, gain_and_loss.drawn(points))
        written["gain"] = "gain_and_loss.png, gain_and_loss.svg, gain_and_loss.csv"
    if divergences:
        folder.write("kl_to_base.csv", kl_to_base.to_csv(divergences))
        written["KL"] = "kl_to_base.csv, and in table.md"
    return written


def _figures(
    table: Table,
    bars: Sequence[BarRow],
    curves: Mapping[str, LearningCurve],
    measured: Sequence[BeforeAfter],
    folder: TableFolder,
) -> dict[str, str]:
    """Write what a table has beside its numbers; returns the names of the files by what they show."""
    written = {}
    if bars and len(bars) <= plots.MOST_ROWS:
        folder.draw("figure", plots.bars, bars, table.columns)
        written["figure"] = "figure.png, figure.svg"
    columns = [*table.benchmarks, AVERAGE]
    if shown(table, "export_steps", curves):
        folder.write("steps.csv", learning_curves.to_csv(curves, columns))
        if len(curves) <= plots.MOST_ROWS:
            folder.draw("steps", plots.over_steps, curves, columns)
        written["steps"] = "steps.png, steps.svg, steps.csv"
    if settings := setting_curves.keys(table):
        folder.write("settings.csv", setting_curves.to_csv(table))
        by_key = {key: setting_curves.curves(table, key) for key in settings}
        folder.draw("settings", plots.over_settings, by_key)
        written["setting"] = "settings.png, settings.svg, settings.csv"
    if shown(table, "probabilities", of_measured_cells(table, measured)):
        folder.write("probabilities.md", probability_plots.to_markdown(measured))
        folder.write("probabilities.csv", probability_plots.to_csv(measured))
        if len(measured) <= plots.MOST_ROWS:
            folder.draw("probabilities", probability_plots.figure, measured)
        written["targets"] = "probabilities.png, .svg, .md, .csv"
    return written


def write_tables(sweeps: Sequence[str], results: str) -> None:
    """Write the tables of sweeps again from records, of all that have any where none is named.

    ValueError when there is no record, or for a sweep that is declared and cannot be run.
    """
    records = cell_records(results)
    report_faults(homeless(records))
    for sweep in layouts(sweeps, results, records):
        if sweep.needs:
            from losslab.composition.checks import check_sweep  # which raises, and loads torch

            check_sweep(sweep)
        write_table(sweep, results)


def layouts(sweeps: Sequence[str], results: str, records: Sequence[CellRecord] | None = None) -> Iterator[SweepConfig]:
    """How the tables of sweeps are laid out, of all that have a record where none is named.

    ValueError when there is no record.
    """
    questions: dict[str, str] = {}
    tunes: dict[str, str] = {}
    for record in cell_records(results) if records is None else records:
        tunes |= record.state.get("tunes", {})
        for name in record.sweeps:
            if not questions.get(name):
                questions[name] = _question(record, name)
    if not questions and not sweeps:
        raise ValueError(f"no record of any sweep under {results}: run one first, or set results=FOLDER")
    for name in sweeps or sorted(questions):
        layout = experiment_files.layout(name) or SweepConfig(name=name, question=questions.get(name, ""))
        yield replace(layout, tune=layout.tune or tunes.get(name))


def _question(record: CellRecord, sweep: str) -> str:
    """The question of a sweep in the configuration of a cell that was made for it, else nothing."""
    try:
        declared = record.config.get("sweep", {})
    except DamagedRecord:  # the table says so
        return ""
    return str(declared.get("question", "")) if declared.get("name") == sweep else ""


def homeless(records: Sequence[CellRecord]) -> list[str]:
    """What is wrong with the records that no table has a row for."""
    return [fault for record in records if not record.sweeps for fault in record.faults]


def report_faults(faults: Sequence[str]) -> None:
    """Print one line for each file of a record that cannot be used."""
    for fault in faults:
        log.warning(f"damaged: {fault}")


def bar_rows(table: Table) -> list[BarRow]:
    """The rows with scores, each with the histogram of the last step of its cells' training."""
    scored = [row for row in table.rows if row.scored]
    if len(scored) > plots.MOST_ROWS:
        return []
    rows = []
    for row in scored:
        last = [table.attempt(_last_histogram, entry.folder / "metrics.jsonl", []) for entry in row.scored]
        counts = np.sum([counts for counts in last if counts], axis=0) if any(last) else []
        values = [row.value(column) for column in table.columns]
        rows.append(BarRow(row.names["model"], row.label, values, [float(count) for count in counts]))
    return rows


def _last_histogram(metrics: Path) -> list[float]:
    rows = read_metrics(metrics, last=1)
    counts = rows[-1].get("p_histogram", []) if rows else []
    return counts if isinstance(counts, list) and len(counts) == len(EDGES) - 1 else []


def curves_of(table: Table) -> dict[str, LearningCurve]:
    """Accuracy over steps of each row with scores of more than its finished model, from its base's score on."""
    bases: dict[tuple[str, Measure | None], LearningCurve] = {}
    curves: dict[str, LearningCurve] = {}
    for row in sorted(table.rows, key=lambda row: row.trains):
        curve: LearningCurve = {}
        for entry in row.scored:
            if not row.trains and not row.earlier and AVERAGE in entry.scores:
                of_base = bases.setdefault((row.names["model"], row.measure), {}).setdefault(0, [])
                of_base.append({name: score.mean for name, score in entry.scores.items()})
            for step, scores in _points(table, entry).items():
                if of_step := learning_curves.values(scores, table.benchmarks):
                    curve.setdefault(step, []).append(of_step)
        if curve:
            curves[row_label(table, row)] = bases.get((row.names["model"], row.measure), {}) | curve
    return curves


def _points(table: Table, entry: CellScores) -> dict:
    """The scores of a cell by step; none where the finished model alone is scored, which one seed of many may be."""
    if not (entry.scores_folder / "steps").exists():
        return {}
    by_step = table.by_step(entry)
    return by_step if len(by_step) > 1 else {}
