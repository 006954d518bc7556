"""Figures of a sweep, each as PNG and as SVG; the same data give the same file.

A function takes the data of a figure and returns the figure. `draw` writes it where its data or the code have
changed, and only then loads matplotlib.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from losslab.data.probability_bins import EDGES
from losslab.files.json_files import read_json, write_json
from losslab.results import learning_curves
from losslab.results.learning_curves import LearningCurve
from losslab.results.setting_curves import SettingCurve
from losslab.statistics.intervals import Estimate

MOST_ROWS = 60  # of a table with a figure; more cannot be told apart


@dataclass(frozen=True)
class BarRow:
    """A row of the table as its figure shows it."""

    model: str
    label: str
    values: list[Estimate | None]  # of each column
    counts: list[float]  # answer tokens by their probability in the last step of training; empty where not recorded


def draw(path: Path, digests: Path, figure: Callable[..., Any], *data: Any) -> None:
    """Write `figure(*data)` to <path>.png and <path>.svg, unless they exist and are of the same data and code.

    Args:
        digests: a JSON file that keeps a hash of the data of each figure, and of the modules that drew it.
    """
    drawn = read_json(digests)
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    code = [Path(module).read_bytes() for module in (__file__, inspect.getfile(figure))]
    digest = hashlib.sha256(b"".join([repr((figure.__name__, data)).encode(), *code])).hexdigest()
    if drawn.get(path.name) != digest or not all(file.exists() for file in files):
        save(figure(*data), path)
        write_json(digests, drawn | {path.name: digest})


def canvas(down: int, across: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure and its (down, across) panels."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "losslab"  # else the names inside are random
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(down, across, squeeze=False, **options)


def save(figure: Any, path: Path) -> None:
    """Write a figure under a path without suffix; laid out once, which takes as long as drawing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=130)
    figure.set_layout_engine("none")
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def colours(labels: Iterable[str]) -> dict[str, Any]:
    """A colour for each label: matplotlib's own ten, or those of a larger map where there are more labels."""
    import matplotlib

    names = list(dict.fromkeys(labels))
    map_name = "tab10" if len(names) <= 10 else "tab20" if len(names) <= 20 else "turbo"  # turbo is continuous
    colour_map = matplotlib.colormaps[map_name]
    step = colour_map.N // len(names) if map_name == "turbo" else 1
    return {name: colour_map(i * step) for i, name in enumerate(names)}


def legend(figure: Any) -> None:
    """One legend of all panels, below them: each label once, in up to four columns; the figure grows with its lines."""
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        room = int(figure.get_figwidth() / (0.7 + 0.09 * max(map(len, handles))))  # columns of the longest label
        columns = max(1, min(4, room))
        figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(handles) // columns) - 1))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)


def bars(rows: Sequence[BarRow], columns: Sequence[str]) -> Any:
    """Scores by objective, and where the probabilities of the training targets ended: two panels for each model."""
    models = list(dict.fromkeys(row.model for row in rows))
    colour = colours(row.label for row in rows)  # of all models, so that a label means the same in each
    figure, grid = canvas(len(models), 2, (11, 0.7 + 3.3 * len(models)))
    for model, (left, right) in zip(models, grid, strict=True):
        of_model = [row for row in rows if row.model == model]
        _scores(left, of_model, columns, colour)
        left.set_title(f"{f'{model}: ' if len(models) > 1 else ''}scores, with 95% intervals")
        _probabilities(right, of_model, colour)
    grid[0][1].set_title("what the objective does to probabilities")
    grid[-1][1].set_xlabel("probability of the target token, last batch of training")
    legend(figure)
    return figure


def _scores(panel: Any, rows: Sequence[BarRow], columns: Sequence[str], colour: Mapping[str, Any]) -> None:
    """Bars side by side for each column, one for each row of the table."""
    width = 0.8 / len(rows)
    thin = min(1.0, 7 * width)  # intervals no wider than their bars
    for i, row in enumerate(rows):
        means = [value.mean if value else np.nan for value in row.values]  # a missing value has no bar; it is not zero
        halves = [error_bar(value) for value in row.values]
        place = np.arange(len(row.values)) + (i - (len(rows) - 1) / 2) * width
        kind = {"capsize": 2 * thin, "elinewidth": 1.5 * thin}
        panel.bar(place, means, width * 0.9, yerr=halves, color=colour[row.label], label=row.label, error_kw=kind)
    panel.set_xticks(range(len(columns)), columns, rotation=20, ha="right", rotation_mode="anchor")
    panel.set_ylabel("accuracy, %")


def _probabilities(panel: Any, rows: Sequence[BarRow], colour: Mapping[str, Any]) -> None:
    """The histogram of the last step of training, the cells of a row of the table together."""
    for row in rows:
        if np.any(counts := np.array(row.counts, float)):
            panel.stairs(100 * counts / counts.sum(), label=row.label, color=colour[row.label], linewidth=2)
    panel.set_xticks(range(len(EDGES)), [f"{edge:g}" for edge in EDGES], rotation=60, fontsize="small")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")  # powers of ten would need the parser of formulas: half a second
    panel.set_ylabel("share of answer tokens, %")


def over_steps(curves: Mapping[str, LearningCurve], columns: Sequence[str]) -> Any:
    """A panel for each benchmark and for the average; a line for each objective, its band the interval over seeds."""
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure, grid = canvas(down, across, (3.8 * across, 3 * down))
    panels = grid.flatten()
    colour = colours(curves)
    for panel in panels[len(columns) :]:
        panel.set_axis_off()
    for panel, column in zip(panels, columns, strict=False):
        for label, curve in curves.items():
            means = learning_curves.means(curve, column)
            centre = np.array([mean.mean for mean in means.values()])
            half = np.nan_to_num([error_bar(mean) for mean in means.values()])
            panel.plot(list(means), centre, marker=".", color=colour[label], label=label)
            panel.fill_between(list(means), centre - half, centre + half, color=colour[label], alpha=0.2, linewidth=0)
        panel.set_title(column)
    for row in grid:
        row[0].set_ylabel("accuracy, %")
    for panel in grid[-1]:
        panel.set_xlabel("step")
    legend(figure)
    return figure


def over_settings(curves: Mapping[str, Mapping[str, SettingCurve]]) -> Any:
    """A panel for each setting: the average over its values, with 95% intervals; a log axis where all are positive."""
    figure, grid = canvas(1, len(curves), (1 + 4.5 * len(curves), 4), sharey=True)
    colour = colours(name for by_name in curves.values() for name in by_name)
    for panel, (key, by_name) in zip(grid[0], curves.items(), strict=True):
        for name, curve in by_name.items():
            scored = [(x, y) for x, y in curve if y]
            xs, means, halves = [x for x, _ in scored], [y.mean for _, y in scored], [error_bar(y) for _, y in scored]
            panel.errorbar(xs, means, yerr=halves, marker="o", capsize=3, color=colour[name], label=name)
        ticks = sorted({x for curve in by_name.values() for x, _ in curve})
        if ticks[0] > 0:  # a log axis leaves out 0 and what is below
            panel.set_xscale("log")
        panel.set_xticks(ticks, [f"{x:g}" for x in ticks])
        panel.set_xticks([], minor=True)
        panel.set_xlabel(key)
    grid[0][0].set_ylabel("average accuracy, %")
    legend(figure)
    return figure


def error_bar(value: Estimate | None) -> float:
    """Half of an interval as the length of an error bar; NaN, which draws none, without an interval."""
    return value.half if value and value.half is not None else math.nan
