"""What happened over the steps of training: curves of every metric, and probabilities before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from losslab.data.probability_bins import EDGES
from losslab.report import charts
from losslab.report.charts import ChartLine, Point
from losslab.report.rows import ReportCell, ReportRow
from losslab.results import learning_curves, setting_curves
from losslab.results.learning_curves import LearningCurve
from losslab.results.tables import Table

LOGARITHMIC = ("loss", "gradient_norm")  # metrics whose size differs between objectives
MOST_PARTS = 100  # cells in a chart, each with a thin line behind that of its row
POINTS = 100  # of a curve; more steps than that are drawn as means of neighbours

# Metrics of a step with what a reader has to know of them, in the order of the page.
LEARNING = {
    "loss": "the objective's own; losses of two objectives do not compare",
    "cross_entropy": "−log p of an answer token, in nats; compares between objectives",
    "reward": "mean of the sampled answers",
}
DIAGNOSTICS = {
    "mean_weight": "weight of an answer token in the gradient; 1 for SFT",
    "effective_fraction": "share of the answer tokens that carry the step",
    "gradient_norm": "before clipping",
    "eos_p": "probability of the token that ends an answer",
    "entropy": "of the next token, in nats",
    "p10": "a tenth of the answer tokens have a lower probability",
    "p50": "median probability of an answer token",
    "lr": "learning rate",
    "tokens_per_second": "prompt and answer, all devices",
}


@dataclass(frozen=True)
class Chart:
    title: str
    note: str
    svg: Markup
    legend: Sequence[tuple[int, str]] = ()  # colour and name of each line, where they are not the page's own


def metrics(rows: Sequence[ReportRow], notes: Mapping[str, str]) -> list[Chart]:
    """A chart for each metric that any cell of these rows has on record; a curve for each row, its cells behind it."""
    found = []
    for key, note in notes.items():
        lines = []
        for row in rows:
            parts = [points for cell in row.trained if (points := smooth(cell, key))]
            if parts:
                lines.append(ChartLine(row.style, row.label, mean_of(parts), parts if len(parts) > 1 else []))
        if lines:
            name = key.replace("_", " ")
            found.append(Chart(name, note, charts.lines(name, _thinned(lines), log=key in LOGARITHMIC)))
    return found


def _thinned(lines: Sequence[ChartLine]) -> list[ChartLine]:
    """Without the lines of cells where there are too many to be seen."""
    if sum(len(line.parts) for line in lines) <= MOST_PARTS:
        return list(lines)
    return [replace(line, parts=[]) for line in lines]


def smooth(cell: ReportCell, key: str) -> list[Point]:
    """(last step, mean) of equal stretches of a cell's steps, POINTS at most."""
    steps = [(row["step"], row[key]) for row in cell.metrics if isinstance(row.get(key), int | float)]
    width = -(-len(steps) // POINTS) or 1
    pieces = [steps[i : i + width] for i in range(0, len(steps), width)]
    return [(piece[-1][0], sum(value for _, value in piece) / len(piece)) for piece in pieces]


def mean_of(parts: Sequence[list[Point]]) -> list[Point]:
    """The mean over cells at the steps that all of them have; the longest one alone where they share none."""
    by_step = [dict(part) for part in parts]
    steps = [step for step, _ in parts[0] if all(step in part for part in by_step)]
    return [(step, sum(part[step] for part in by_step) / len(by_step)) for step in steps] or max(parts, key=len)


def accuracy(rows: Sequence[ReportRow], curves: Mapping[str, LearningCurve], columns: Sequence[str]) -> list[Chart]:
    """Accuracy over steps on each benchmark and on the average, as in the paper's Figure 1."""
    found = []
    for column in columns:
        lines = []
        for row in rows:
            if curve := curves.get(row.label) or curves.get(f"{row.model} {row.label}"):
                means = learning_curves.means(curve, column)
                band = [(float(step), mean.low, mean.high) for step, mean in means.items() if mean.half]
                points = [(float(step), mean.mean) for step, mean in means.items()]
                lines.append(ChartLine(row.style, row.label, points, band=band))
        if lines:
            found.append(Chart(f"accuracy, {column}", "percent", charts.lines(f"accuracy on {column}", lines)))
    return found


def against_settings(table: Table, rows: Sequence[ReportRow]) -> list[Chart]:
    """The average score against each setting that the sweep varies, as in the paper's Figure 3."""
    styles = {id(row.row): row.style for row in rows}
    of_name = {name: styles[id(members[0])] for name, members in setting_curves.configurations(table).items()}
    found = []
    for key in table.sweep.against:
        lines = []
        for name, curve in setting_curves.curves(table, key).items():
            scored = [(float(x), y) for x, y in curve if y is not None]
            band = [(x, y.low, y.high) for x, y in scored if y.half is not None]
            if scored:
                lines.append(ChartLine(of_name[name], name, [(x, y.mean) for x, y in scored], band=band))
        if lines:
            title = f"average against {key}"
            legend = [(line.style, line.label) for line in lines]
            found.append(Chart(title, "percent", charts.lines(title, lines, key), legend))
    return found


@dataclass(frozen=True)
class ProbabilityChange:
    """Probabilities of a row's target tokens before and after training."""

    label: str
    style: int
    svg: Markup
    source: str
    below: tuple[float, float]  # shares of the tokens with p < 0.01, in percent, before and after
    above: tuple[float, float]  # with p >= 0.9
    tokens: Mapping[str, Any] | None  # the least and most probable ones after training, where they were measured


def probabilities(rows: Sequence[ReportRow]) -> list[ProbabilityChange]:
    """Over the training set where that was measured, else in the first and last batch; the cells of a row together."""
    return [change for row in rows if (change := _change(row))]


def _change(row: ReportRow) -> ProbabilityChange | None:
    measured = [cell.probabilities for cell in row.cells if cell.probabilities]
    if measured:
        edges = list(measured[0]["after"]["edges"])
        alike = [one for one in measured if list(one["after"]["edges"]) == edges == list(one["before"]["edges"])]
        counts = [np.sum([one[when]["counts"] for one in alike], axis=0) for when in ("before", "after")]
        source = "over the training set"
        tokens = measured[0]["after"]
    else:
        bins = len(EDGES) - 1
        recorded = [[step["p_histogram"] for step in cell.metrics if _bins(step) == bins] for cell in row.trained]
        if not (histograms := [steps for steps in recorded if steps]):
            return None
        edges, source, tokens = list(EDGES), "first and last batch", None
        counts = [np.sum([steps[i] for steps in histograms], axis=0) for i in (0, -1)]
    before, after = (100 * np.array(one, float) / max(1, sum(one)) for one in counts)
    low, high = (np.array(edges[1:]) <= 0.01 + 1e-12), (np.array(edges[:-1]) >= 0.9 - 1e-12)
    name = f"probabilities of target tokens, {row.label}, {source}"
    svg = charts.histogram(name, edges, before.tolist(), after.tolist(), row.style)
    below, above = ((float(before[chosen].sum()), float(after[chosen].sum())) for chosen in (low, high))
    return ProbabilityChange(row.label, row.style, svg, source, below, above, tokens)


def _bins(step: Mapping[str, Any]) -> int:
    counts = step.get("p_histogram")
    return len(counts) if isinstance(counts, list) else 0
