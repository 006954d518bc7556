"""What happened over the steps of training: curves of every metric, and probabilities before and after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from losslab.data.probability_bins import EDGES, RARE, SURE
from losslab.report import charts
from losslab.report.charts import ChartLine, Point
from losslab.report.rows import ReportRow, by_model
from losslab.results import learning_curves, setting_curves
from losslab.results.gain_and_loss import Tradeoff
from losslab.results.learning_curves import LearningCurve
from losslab.results.probability_plots import Histogram
from losslab.results.tables import Table

LOGARITHMIC = ("loss", "gradient_norm")  # metrics whose size differs between objectives
MOST_PARTS = 100  # cells in a chart, each with a thin line behind that of its row
LOW, HIGH = np.array(EDGES[1:]) <= RARE, np.array(EDGES[:-1]) >= SURE  # bins of the histogram of a step
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
    figures = []
    for key, note in notes.items():
        if lines := _curves(rows, partial(smooth, key)):
            name = key.replace("_", " ")
            figures.append(Chart(name, note, charts.lines(name, _thinned(lines), log=key in LOGARITHMIC)))
    return figures


def ends(rows: Sequence[ReportRow]) -> list[Chart]:
    """The shares of improbable and of probable target tokens over the steps, of the batches and of held-out rows."""
    figures = []
    for name, note, inside in (
        ("targets with p < 0.01", "percent of the answer tokens", LOW),
        ("targets with p ≥ 0.9", "percent of the answer tokens", HIGH),
    ):
        if lines := _curves(rows, partial(_shares, inside)):
            figures.append(Chart(name, note, charts.lines(name, _thinned(lines))))
    return figures


def _curves(rows: Sequence[ReportRow], points_of: Callable[[list[dict[str, Any]]], list[Point]]) -> list[ChartLine]:
    """The curve of each row, and that of its held-out rows behind it."""
    lines = []
    for row in rows:
        for held_out in (False, True):
            steps = [cell.validation if held_out else cell.metrics for cell in row.trained]
            if parts := [points for each in steps if (points := points_of(each))]:
                label = f"{row.label}, held out" if held_out else row.label
                cells = parts if len(parts) > 1 and not held_out else []
                lines.append(ChartLine(row.style, label, mean_of(parts), cells, held_out=held_out))
    return lines


def _thinned(lines: Sequence[ChartLine]) -> list[ChartLine]:
    """Without the lines of cells where there are too many to be seen."""
    if sum(len(line.parts) for line in lines) <= MOST_PARTS:
        return list(lines)
    return [replace(line, parts=[]) for line in lines]


def smooth(key: str, steps: Sequence[Mapping[str, Any]]) -> list[Point]:
    """A metric over steps, as POINTS at most."""
    return _mean([(row["step"], row[key]) for row in steps if isinstance(row.get(key), int | float)])


def _mean(points: Sequence[Point]) -> list[Point]:
    """(last step, mean) of equal stretches, POINTS at most."""
    width = -(-len(points) // POINTS) or 1
    pieces = [points[i : i + width] for i in range(0, len(points), width)]
    return [(piece[-1][0], sum(value for _, value in piece) / len(piece)) for piece in pieces]


def _shares(inside: np.ndarray, steps: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Percent of a step's target tokens in some bins, as POINTS at most."""
    counts = [(row["step"], np.array(row["p_histogram"])) for row in steps if _bins(row) == len(inside)]
    return _mean([(step, float(100 * bins[inside].sum() / bins.sum())) for step, bins in counts if bins.sum()])


def mean_of(parts: Sequence[list[Point]]) -> list[Point]:
    """The mean over cells at the steps that all of them have; the longest one alone where they share none."""
    by_step = [dict(part) for part in parts]
    steps = [step for step, _ in parts[0] if all(step in part for part in by_step)]
    return [(step, sum(part[step] for part in by_step) / len(by_step)) for step in steps] or max(parts, key=len)


def accuracy(rows: Sequence[ReportRow], curves: Mapping[str, LearningCurve], columns: Sequence[str]) -> list[Chart]:
    """Accuracy over steps on each benchmark and on the average, as in the paper's Figure 1."""
    figures = []
    for column in columns:
        lines = []
        for row in rows:
            if curve := curves.get(row.label) or curves.get(f"{row.model} {row.label}"):
                means = learning_curves.means(curve, column)
                band = [(float(step), mean.low, mean.high) for step, mean in means.items() if mean.half]
                points = [(float(step), mean.mean) for step, mean in means.items()]
                lines.append(ChartLine(row.style, row.label, points, band=band))
        if lines:
            figures.append(Chart(f"accuracy, {column}", "percent", charts.lines(f"accuracy on {column}", lines)))
    return figures


def against_settings(table: Table, rows: Sequence[ReportRow]) -> list[Chart]:
    """The average score against each setting that the sweep varies, as in the paper's Figure 3.

    `rows` are those that the page draws: a line without any of them is left out, and the chart says so.
    """
    styles = {id(row.row): row.style for row in rows}
    figures = []
    for key in setting_curves.keys(table):
        every, drawn = setting_curves.lines(table, key), []
        for line in every:
            line_styles = [styles[id(row)] for row in line.rows if id(row) in styles]
            scored = [(float(x), y) for x, y in line.curve if y is not None]
            band = [(x, y.low, y.high) for x, y in scored if y.half is not None]
            if scored and line_styles:
                drawn.append(ChartLine(line_styles[0], line.name, [(x, y.mean) for x, y in scored], band=band))
        if drawn:
            title = f"average against {key}"
            legend = [(line.style, line.label) for line in drawn]
            left = sum(not any(id(row) in styles for row in line.rows) for line in every)
            note = f"percent; {left} of {len(every)} lines are left out" if left else "percent"
            figures.append(Chart(title, note, charts.lines(title, drawn, key), legend))
    return figures


@dataclass(frozen=True)
class ProbabilityChange:
    """Probabilities of a row's target tokens before and after training."""

    label: str
    style: int
    svg: Markup
    source: str
    below: tuple[float, float]  # shares of the tokens with p < 0.01, in percent, before and after
    above: tuple[float, float]  # with p >= 0.9
    tokens: Mapping[str, Any] | None  # the most frequent ones at both ends after training, where they were measured


def probabilities(rows: Sequence[ReportRow]) -> list[ProbabilityChange]:
    """Over the training set where that was measured, else in the first and last batch; the cells of a row together.

    Behind each over its held-out rows, where there are some.
    """
    return [change for row in rows for held_out in (False, True) if (change := _change(row, held_out))]


def _change(row: ReportRow, held_out: bool) -> ProbabilityChange | None:
    measured = [] if held_out else [cell.probabilities for cell in row.cells if cell.probabilities]
    if measured:
        edges = list(measured[0]["after"]["edges"])
        alike = [over for over in measured if list(over["after"]["edges"]) == edges == list(over["before"]["edges"])]
        ends = [Histogram(row.label, [over[when] for over in alike]) for when in ("before", "after")]
        before, after = (end.shares.mean(0) for end in ends)  # as in the table of probabilities
        source = "over the training set"
        listed = {end: max(len(over["after"][end]) for over in alike) for end in ("lowest", "highest")}
        tokens = {end: ends[1].frequent(end, most) for end, most in listed.items()}
    else:
        bins = len(EDGES) - 1
        steps = [cell.validation if held_out else cell.metrics for cell in row.trained]
        recorded = [[step["p_histogram"] for step in each if _bins(step) == bins] for each in steps]
        if not (histograms := [steps for steps in recorded if steps]):
            return None
        edges, tokens = list(EDGES), None
        source = "before and after training" if held_out else "first and last batch"
        counts = [np.sum([steps[i] for steps in histograms], axis=0) for i in (0, -1)]
        before, after = (100 * np.array(bins, float) / max(1, sum(bins)) for bins in counts)
    low, high = (np.array(edges[1:]) <= RARE + 1e-12), (np.array(edges[:-1]) >= SURE - 1e-12)
    label = f"{row.label}, held out" if held_out else row.label
    name = f"probabilities of target tokens, {label}, {source}"
    svg = charts.histogram(name, edges, before.tolist(), after.tolist(), row.style)
    below, above = ((float(before[chosen].sum()), float(after[chosen].sum())) for chosen in (low, high))
    return ProbabilityChange(label, row.style, svg, source, below, above, tokens)


def _bins(step: Mapping[str, Any]) -> int:
    counts = step.get("p_histogram")
    return len(counts) if isinstance(counts, list) else 0


def gain_against_loss(rows: Sequence[ReportRow], points: Sequence[Tradeoff]) -> list[Chart]:
    """A chart for each model with points: gain on mathematics over loss on the benchmarks of forgetting.

    `rows` are those that the page draws; the front is that of all points, and the chart says how many are left out.
    """
    figures = []
    for model, of_model in by_model(rows):
        styled = [(row, point) for row in of_model for point in points if point.row is row.row]
        every = [point for point in points if point.row.names["model"] == model]
        if styled:
            front = ", ".join(point.row.label for point in every if point.front) or "the base alone"
            title = f"{model}: gain against loss"
            crosses = [(row.style, row.label, point.loss, point.gain) for row, point in styled]
            several = len({point.row.measure for point in every}) > 1
            which = "the Pareto front of its protocol" if several else "the Pareto front"
            name = f"points gained on mathematics over points lost on forgetting; on {which}: {front}"
            if left := len(every) - len(styled):
                name += f"; {left} of {len(every)} points are left out"
            figures.append(Chart(title, name, charts.crosses(f"{title}; {name}", crosses)))
    return figures
