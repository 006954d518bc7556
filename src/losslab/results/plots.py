"""Figures of a sweep, each as PNG and as SVG; the same records give the same file."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from losslab.data.probability_bins import EDGES
from losslab.files import read_lines
from losslab.results import learning_curves, setting_curves
from losslab.results.learning_curves import Curve
from losslab.results.tables import Row, Table
from losslab.statistics.intervals import Estimate


def canvas(*args: Any, **options: Any) -> Any:
    """A figure and its panels, as matplotlib's subplots, for files and not for a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "losslab"  # else the names inside are random
    return plt.subplots(*args, layout="constrained", **options)


def save(figure: Any, path: Path) -> None:
    """Write a figure under a path without suffix, and forget it."""
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=130)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def colours(labels: Iterable[str]) -> dict[str, Any]:
    """A colour for each label: matplotlib's own ten, or those of a larger map where there are more labels."""
    import matplotlib

    names = list(dict.fromkeys(labels))
    known = "tab10" if len(names) <= 10 else "tab20" if len(names) <= 20 else "turbo"  # turbo is continuous
    found = matplotlib.colormaps[known]
    step = found.N // len(names) if known == "turbo" else 1
    return {name: found(i * step) for i, name in enumerate(names)}


def legend(figure: Any) -> None:
    """One legend of all panels, below them: each label once, in up to four columns; the figure grows with its lines."""
    found: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        room = int(figure.get_figwidth() / (0.7 + 0.09 * max(map(len, found))))  # for columns of the longest label
        columns = max(1, min(4, room))
        figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(found) // columns) - 1))
        figure.legend(found.values(), found, loc="outside lower center", ncols=columns)


def bars(table: Table, path: Path) -> None:
    """Scores by objective, and where the probabilities of the training targets ended: two panels for each model."""
    rows = [row for row in table.rows if row.scored]
    models = list(dict.fromkeys(row.names["model"] for row in rows))
    colour = colours(row.label for row in rows)  # of all models, so that a label means the same in each
    figure, grid = canvas(len(models), 2, figsize=(11, 0.7 + 3.3 * len(models)), squeeze=False)
    for model, (left, right) in zip(models, grid, strict=True):
        own = [row for row in rows if row.names["model"] == model]
        _scores(left, own, table.columns, colour)
        left.set_title(f"{f'{model}: ' if len(models) > 1 else ''}scores, with 95% intervals")
        _probabilities(right, own, colour)
    grid[0][1].set_title("what the objective does to probabilities")
    grid[-1][1].set_xlabel("probability of the target token, last batch of training")
    legend(figure)
    save(figure, path)


def _scores(panel: Any, rows: list[Row], columns: list[str], colour: Mapping[str, Any]) -> None:
    """Bars side by side for each column, one for each row of the table."""
    width = 0.8 / len(rows)
    thin = min(1.0, 7 * width)  # intervals no wider than their bars
    for i, row in enumerate(rows):
        values = [row.value(column) for column in columns]
        means = [value.mean if value else np.nan for value in values]  # what is missing has no bar, and is not zero
        halves = [_half(value) for value in values]
        place = np.arange(len(values)) + (i - (len(rows) - 1) / 2) * width
        kind = {"capsize": 2 * thin, "elinewidth": 1.5 * thin}
        panel.bar(place, means, width * 0.9, yerr=halves, color=colour[row.label], label=row.label, error_kw=kind)
    panel.set_xticks(range(len(columns)), columns, rotation=20, ha="right", rotation_mode="anchor")
    panel.set_ylabel("accuracy, %")


def _probabilities(panel: Any, rows: list[Row], colour: Mapping[str, Any]) -> None:
    """The histogram of the last step of training, the cells of a row of the table together."""
    for row in rows:
        metrics = [read_lines(entry.folder / "metrics.jsonl") for entry in row.scored]
        ends = [lines[-1]["p_histogram"] for lines in metrics if lines and "p_histogram" in lines[-1]]
        if np.any(counts := np.sum(ends, axis=0)):
            panel.stairs(100 * counts / counts.sum(), label=row.label, color=colour[row.label], linewidth=2)
    panel.set_xticks(range(len(EDGES)), [f"{edge:g}" for edge in EDGES], rotation=60, fontsize="small")
    panel.set_yscale("log")
    panel.set_ylabel("share of answer tokens, %")


def over_steps(found: Mapping[str, Curve], columns: list[str], path: Path) -> None:
    """A panel for each benchmark and for the average; a line for each objective, its band the interval over seeds."""
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure, grid = canvas(down, across, figsize=(3.8 * across, 3 * down), squeeze=False)
    panels = grid.flatten()
    colour = colours(found)
    for panel in panels[len(columns) :]:
        panel.set_axis_off()
    for panel, column in zip(panels, columns, strict=False):
        for label, curve in found.items():
            steps, centre, half = map(np.array, zip(*learning_curves.mean(curve, column), strict=True))
            panel.plot(steps, centre, marker=".", color=colour[label], label=label)
            panel.fill_between(steps, centre - half, centre + half, color=colour[label], alpha=0.2, linewidth=0)
        panel.set_title(column)
    for row in grid:
        row[0].set_ylabel("accuracy, %")
    for panel in grid[-1]:
        panel.set_xlabel("step")
    legend(figure)
    save(figure, path)


def over_settings(table: Table, path: Path) -> None:
    """A panel for each key of `sweep.against`: the average score over its values, with 95% intervals."""
    keys = table.sweep.against
    figure, grid = canvas(1, len(keys), figsize=(1 + 4.5 * len(keys), 4), sharey=True, squeeze=False)
    colour = colours(setting_curves.alike(table))
    for panel, key in zip(grid[0], keys, strict=True):
        ticks: list[float] = []
        for name, line in setting_curves.lines(table, key).items():
            there = [(x, y) for x, y in line if y]
            halves = [_half(y) for _, y in there]
            xs, means = [x for x, _ in there], [y.mean for _, y in there]
            panel.errorbar(xs, means, yerr=halves, marker="o", capsize=3, color=colour[name], label=name)
            ticks += [x for x, _ in line]
        panel.set_xscale("log")
        panel.set_xticks(sorted(set(ticks)), [f"{x:g}" for x in sorted(set(ticks))])
        panel.set_xticks([], minor=True)
        panel.set_xlabel(key)
    grid[0][0].set_ylabel("average accuracy, %")
    legend(figure)
    save(figure, path)


def _half(value: Estimate | None) -> float:
    """Half of an interval as the length of an error bar; 0 where there is none."""
    return value.half if value and value.half is not None else 0.0
