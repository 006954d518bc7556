"""Prints the table of a sweep, and writes it with its figures in every format, from records alone."""

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from losslab.composition import experiment_files
from losslab.composition.checks import check_sweep
from losslab.config.schema import BASE, SweepConfig
from losslab.files import lock, read_json, write
from losslab.results import (
    claims,
    learning_curves,
    paper,
    plots,
    probability_plots,
    setting_curves,
    table_formats,
    tables,
)
from losslab.results.learning_curves import AVERAGE, Curve
from losslab.results.probability_plots import Pair
from losslab.results.tables import Measure, Row, Table


def publish(sweep: SweepConfig, results: str) -> None:
    """Print the table of a sweep and write it, with its figures, under results/tables/<sweep>."""
    folder = Path(results) / "tables" / sweep.name
    # Of cells that end together, the last one to write has seen them all.
    with lock(Path(results) / "cache" / "tables" / sweep.name, quiet=True):
        table = tables.build(sweep, results)
        comparison = paper.compare(table)
        over_steps, measured = curves_of(table), probability_plots.collect(table)
        sheets = [table_formats.scores(table, list(notes(table, over_steps, measured)))]
        sheets += [table_formats.against(table, comparison)] if comparison else []
        sheets += [claims.sheet(table)] if sweep.directions else []
        write(folder / "table.md", "\n".join(table_formats.markdown(sheet, i + 1) for i, sheet in enumerate(sheets)))
        write(folder / "table.tex", "\n".join(map(table_formats.latex, sheets)))
        write(folder / "table.csv", table_formats.spreadsheet(table, comparison))
        if sweep.directions:
            write(folder / "directions.csv", claims.spreadsheet(table))
        if scored := any(row.scored for row in table.rows):
            plots.bars(table, folder / "figure")
        columns = [*table.benchmarks, AVERAGE]
        if stepwise := shown(table, "export_steps", over_steps):
            write(folder / "steps.csv", learning_curves.spreadsheet(over_steps, columns))
            plots.over_steps(over_steps, columns, folder / "steps")
        if sweep.against:
            write(folder / "settings.csv", setting_curves.spreadsheet(table))
            plots.over_settings(table, folder / "settings")
        if polarised := shown(table, "probabilities", [pair.after.label for pair in measured]):
            probability_plots.publish(measured, folder)
    console = Console()
    for sheet in sheets:
        console.print(table_formats.terminal(sheet))
    written = {"figure": "figure.png, figure.svg"} if scored else {}
    written |= {"steps": "steps.png, steps.svg, steps.csv"} if stepwise else {}
    written |= {"setting": "settings.png, settings.svg, settings.csv"} if sweep.against else {}
    written |= {"targets": "probabilities.png, .svg, .md, .csv"} if polarised else {}
    for name, files in (written | {"table": "table.md, table.tex, table.csv"}).items():
        console.print(f"{name + ':':<9}{folder}/{files}", highlight=False, soft_wrap=True)
    console.print(f"records: {Path(results) / 'cells'}", highlight=False, soft_wrap=True)
    if sweep.next:
        python = os.path.relpath(sys.executable)
        command = sweep.next.replace("python ", f"{python} " if not python.startswith("..") else "python ", 1)
        console.print(f"next:    {command}", highlight=False, soft_wrap=True)


def rebuild(sweeps: list[str], results: str) -> None:
    """Publish sweeps again from records, all that have any where none is named.

    ValueError when there is no record, or for a sweep that is declared and cannot be run.
    """
    for sweep in layouts(sweeps, results):
        check_sweep(sweep)
        publish(sweep, results)


def layouts(sweeps: Sequence[str], results: str) -> Iterator[SweepConfig]:
    """How the tables of sweeps are laid out, of all that have a record where none is named.

    ValueError when there is no record.
    """
    known: dict[str, str] = {}
    for path in sorted(Path(results).glob("cells/*/cell.json")):
        for name in read_json(path).get("sweeps", []):
            config = path.with_name("config.yaml")
            own = yaml.safe_load(config.read_text())["sweep"] if config.exists() else {}
            known[name] = own["question"] if own.get("name") == name else known.get(name, "")
    if not known and not sweeps:
        raise ValueError(f"no record of any sweep under {results}: run one first, or set results=FOLDER")
    for name in sweeps or sorted(known):
        yield experiment_files.layout(name) or SweepConfig(name=name, question=known.get(name, ""))


def notes(table: Table, over_steps: dict[str, Curve], measured: Sequence[Pair]) -> Iterator[str]:
    """What the sweep declares and its records lack, besides scores."""
    trained = {_label(table, row): row for row in table.rows if row.names["loss"] != BASE}
    for label, row in trained.items():
        names = {name for entry in row.entries for name in changed_while_training(entry.folder)}
        if names:
            yield f"Cells of {label} went on with another {', '.join(sorted(names))} than they began with."
    having = {pair.after.label for pair in measured}
    if declares(table, "export_steps"):
        if missing := [name for name in trained if name not in over_steps]:
            yield f"No accuracy over steps is on record for {', '.join(missing)}."
        for name in (name for name in trained if name in over_steps):
            seeds = {len(scores) for step, scores in over_steps[name].items() if step}
            if seeds != {len(trained[name].scored)}:
                counts = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
                yield f"The accuracy of {name} over steps is that of {counts} of its {len(trained[name].scored)} seeds."
    if declares(table, "probabilities") and (missing := [name for name in trained if name not in having]):
        yield f"No probabilities of training targets are on record for {', '.join(missing)}."


def changed_while_training(cell: Path) -> set[str]:
    """What of a cell's environment changed between its starts, such as gpus, workers or torch."""
    changes = read_json(cell / "environment.json").get("changes", [])
    return {name for change in changes for name in change["changed"]}


def shown(table: Table, option: str, having: Collection[str]) -> bool:
    """Whether to publish what some cells have beside scores: where the sweep's file asks for it, or all rows have it.

    Else they have it for another sweep, which shares them.

    Args:
        option: of the machine, which makes cells record it.
        having: labels of the rows that have it.
    """
    scored = [_label(table, row) for row in table.rows if row.names["loss"] != BASE and row.scored]
    return bool(having) and (not table.grid or declares(table, option) or set(scored) <= set(having))


def declares(table: Table, option: str) -> bool:
    return any(getattr(config.machine, option) for config in table.grid)


def _label(table: Table, row: Row) -> str:
    return f"{row.names['model']} {row.label}" if len(table.models) > 1 else row.label


def curves_of(table: Table) -> dict[str, Curve]:
    """Accuracy over steps of each row with scores of more than its finished model, from its base's score on."""
    bases: dict[tuple[str, Measure | None], Curve] = {}
    found: dict[str, Curve] = {}
    for row in sorted(table.rows, key=lambda row: row.names["loss"] != BASE):
        curve: Curve = {}
        for entry in row.scored:
            if row.names["loss"] == BASE and not row.earlier and AVERAGE in entry.scores:
                bases.setdefault((row.names["model"], row.measure), {}).setdefault(0, []).append(entry.scores)
            folder = entry.folder / "scores" / str(entry.protocol)
            points = learning_curves.points(folder, entry.folder / "metrics.jsonl")
            if len(points) == 1:  # the seed would be in the mean of the last step alone
                continue
            for step, scores in points.items():
                if own := learning_curves.values(scores, table.benchmarks):
                    curve.setdefault(step, []).append(own)
        if curve:
            found[_label(table, row)] = bases.get((row.names["model"], row.measure), {}) | curve
    return found
