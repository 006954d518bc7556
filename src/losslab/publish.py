"""Prints the table of a sweep, and writes it with its figures, from records alone."""

import os
import sys
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console

from losslab import curves, tables
from losslab.curves import Curve
from losslab.files import lock, read_json, read_lines, write
from losslab.histogram import EDGES
from losslab.schema import BASE, SweepConfig
from losslab.tables import Table


def publish(sweep: SweepConfig, results: str) -> None:
    """Print the table of a sweep and write it, with its figure, under results/tables/<sweep>."""
    folder = Path(results) / "tables" / sweep.name
    # Of cells that end together, the last one to write has seen them all.
    with lock(Path(results) / "cache" / "tables" / sweep.name, quiet=True):
        table = tables.build(sweep, results)
        write(folder / "table.md", tables.markdown(table))
        write(folder / "table.csv", tables.spreadsheet(table))
        if scored := any(row.scored for row in table.rows):
            figure(table, folder / "figure.png")
        if over_steps := curves_of(table):
            write(folder / "steps.csv", curves.spreadsheet(over_steps, table.columns))
            curves.figure(over_steps, table.columns, folder / "steps.png")
    console = Console()
    console.print(tables.rich(table))
    if scored:
        console.print(f"figure:  {folder / 'figure.png'}", highlight=False, soft_wrap=True)
    if over_steps:
        console.print(f"steps:   {folder / 'steps.png'}, steps.csv", highlight=False, soft_wrap=True)
    console.print(f"table:   {folder / 'table.md'}, table.csv", highlight=False, soft_wrap=True)
    console.print(f"records: {Path(results) / 'cells'}", highlight=False, soft_wrap=True)
    if sweep.next:
        python = os.path.relpath(sys.executable)
        command = sweep.next.replace("python ", f"{python} " if not python.startswith("..") else "python ", 1)
        console.print(f"next:    {command}", highlight=False, soft_wrap=True)


def rebuild(sweeps: list[str], results: str) -> None:
    """Publish sweeps again from records, all of them where none is named. ValueError when there is no record."""
    known: dict[str, str] = {}
    for path in sorted(Path(results).glob("cells/*/cell.json")):
        for name in read_json(path).get("sweeps", []):
            config = path.with_name("config.yaml")
            own = yaml.safe_load(config.read_text())["sweep"] if config.exists() else {}
            known[name] = own["question"] if own.get("name") == name else known.get(name, "")
    if not known:
        raise ValueError(f"no record of any sweep under {results}: run one first, or set results=FOLDER")
    for name in sweeps or sorted(known):
        publish(SweepConfig(name=name, question=known.get(name, "")), results)


def curves_of(table: Table) -> dict[str, Curve]:
    """Accuracy over steps of each row with scores of more than its finished model, from its base's score on."""
    several = len({row.names["model"] for row in table.rows}) > 1
    bases: dict[tuple[str, str | None], Curve] = {}
    found: dict[str, Curve] = {}
    for row in sorted(table.rows, key=lambda row: row.names["loss"] != BASE):
        curve: Curve = {}
        for entry in row.scored:
            key = (row.names["model"], entry.protocol)
            if row.names["loss"] == BASE and set(table.columns) <= set(entry.scores):
                bases.setdefault(key, {}).setdefault(0, []).append(entry.scores)
            folder = entry.folder / "scores" / str(entry.protocol)
            for step, scores in curves.points(folder, entry.folder / "metrics.jsonl").items():
                if own := curves.values(scores, table.columns[:-1]):
                    curve.setdefault(step, []).append(own)
        if len(curve) > 1:
            label = f"{row.names['model']} {row.label}" if several else row.label
            found[label] = bases.get((row.names["model"], row.scored[0].protocol), {}) | curve
    return found


def figure(table: Table, path: Path) -> None:
    """Scores by objective, and where the probabilities of the training targets ended."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    rows = [row for row in table.rows if row.scored]
    several = len({row.names["model"] for row in rows}) > 1
    names = [f"{row.names['model']}\n{row.label}" if several else row.label for row in rows]
    width = 0.8 / len(rows)
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        values = [row.value(column) for column in table.columns]
        means = [value.mean if value else 0.0 for value in values]
        halves = [value.half if value and value.half is not None else 0.0 for value in values]
        place = np.arange(len(values)) + (i - (len(rows) - 1) / 2) * width
        left.bar(place, means, width * 0.9, yerr=halves, label=name, color=f"C{i}", capsize=2)
        metrics = [read_lines(entry.folder / "metrics.jsonl") for entry in row.scored]
        counts = np.zeros(len(EDGES) - 1) + sum(np.array(lines[-1]["p_histogram"]) for lines in metrics if lines)
        if counts.any():
            right.stairs(100 * counts / counts.sum(), label=name, color=f"C{i}", linewidth=2)
    left.set_xticks(range(len(table.columns)), table.columns)
    left.set_ylabel("accuracy, %")
    left.set_title("scores, with 95% intervals")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(rows)))
    right.set_xticks(range(len(EDGES)), [f"{edge:g}" for edge in EDGES], rotation=60, fontsize="small")
    right.set_yscale("log")
    right.set_xlabel("probability of the target token, last batch of training")
    right.set_ylabel("share of answer tokens, %")
    right.set_title("what the objective does to probabilities")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
