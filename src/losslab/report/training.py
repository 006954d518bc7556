"""What happened over the steps of training: curves of every metric, and probabilities before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from losslab.data.probability_bins import EDGES
from losslab.report import charts
from losslab.report.cells import Group, Run
from losslab.report.charts import Line, Point
from losslab.results import learning_curves, setting_curves
from losslab.results.learning_curves import Curve
from losslab.results.tables import Table

LOGARITHMIC = ("loss", "gradient_norm")  # metrics whose size differs between objectives
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


def metrics(groups: Sequence[Group], notes: Mapping[str, str]) -> list[Chart]:
    """A chart for each metric that any cell of these rows has on record; a curve for each row, its cells behind it."""
    found = []
    for key, note in notes.items():
        own = []
        for group in groups:
            parts = [points for run in group.trained if (points := smooth(run, key))]
            if parts:
                mean = mean_of(parts)
                own.append(Line(group.style, group.label, mean, parts if len(parts) > 1 else []))
        if own:
            name = key.replace("_", " ")
            found.append(Chart(name, note, charts.lines(name, own, log=key in LOGARITHMIC)))
    return found


def smooth(run: Run, key: str) -> list[Point]:
    """(last step, mean) of equal stretches of a run's steps, POINTS at most."""
    rows = [(row["step"], row[key]) for row in run.metrics if row.get(key) is not None and np.isfinite(row[key])]
    width = -(-len(rows) // POINTS) or 1
    pieces = [rows[i : i + width] for i in range(0, len(rows), width)]
    return [(piece[-1][0], float(np.mean([value for _, value in piece]))) for piece in pieces]


def mean_of(parts: Sequence[list[Point]]) -> list[Point]:
    """The mean over cells at the steps that all of them have; the longest one alone where they share none."""
    known = [dict(part) for part in parts]
    steps = [step for step, _ in parts[0] if all(step in part for part in known)]
    return [(step, float(np.mean([part[step] for part in known]))) for step in steps] or max(parts, key=len)


def accuracy(groups: Sequence[Group], over_steps: Mapping[str, Curve], columns: Sequence[str]) -> list[Chart]:
    """Accuracy over steps on each benchmark and on the average, as in the paper's Figure 1."""
    found = []
    for column in columns:
        own = []
        for group in groups:
            curve = over_steps.get(group.label) or over_steps.get(f"{group.model} {group.label}")
            if curve:
                points = learning_curves.mean(curve, column)
                band = [(float(step), mean - half, mean + half) for step, mean, half in points if half]
                own.append(Line(group.style, group.label, [(step, mean) for step, mean, _ in points], band=band))
        if own:
            found.append(Chart(f"accuracy, {column}", "percent", charts.lines(f"accuracy on {column}", own)))
    return found


def against(table: Table, groups: Sequence[Group]) -> list[Chart]:
    """The average score against each setting that the sweep varies, as in the paper's Figure 3."""
    alike = setting_curves.alike(table)
    styles = {name: next(group.style for group in groups if group.row is rows[0]) for name, rows in alike.items()}
    found = []
    for key in table.sweep.against:
        own = []
        for name, line in setting_curves.lines(table, key).items():
            known = [(float(x), y) for x, y in line if y is not None]
            band = [(x, y.mean - y.half, y.mean + y.half) for x, y in known if y.half is not None]
            if known:
                own.append(Line(styles[name], name, [(x, y.mean) for x, y in known], band=band))
        if own:
            title = f"average against {key}"
            found.append(Chart(title, "percent", charts.lines(title, own, key), [(o.style, o.label) for o in own]))
    return found


@dataclass(frozen=True)
class Change:
    """Probabilities of a row's target tokens before and after training."""

    label: str
    style: int
    svg: Markup
    source: str
    below: tuple[float, float]  # shares of the tokens with p < 0.01, in percent, before and after
    above: tuple[float, float]  # with p >= 0.9
    tokens: Mapping[str, Any] | None  # the least and most probable ones after training, where they were measured


def probabilities(groups: Sequence[Group]) -> list[Change]:
    """Over the training set where that was measured, else in the first and last batch; the cells of a row together."""
    return [change for group in groups if (change := _change(group))]


def _change(group: Group) -> Change | None:
    measured = [run.probabilities for run in group.runs if run.probabilities.get("before")]
    if measured:
        edges = list(measured[0]["after"]["edges"])
        alike = [one for one in measured if list(one["after"]["edges"]) == edges == list(one["before"]["edges"])]
        counts = [np.sum([one[when]["counts"] for one in alike], axis=0) for when in ("before", "after")]
        source = "over the training set"
        tokens = measured[0]["after"]
    else:
        recorded = [[row for row in run.metrics if row.get("p_histogram")] for run in group.trained]
        if not (ends := [rows for rows in recorded if rows]):
            return None
        edges, source, tokens = list(EDGES), "first and last batch", None
        counts = [np.sum([rows[i]["p_histogram"] for rows in ends], axis=0) for i in (0, -1)]
    before, after = (100 * np.array(one, float) / max(1, sum(one)) for one in counts)
    low, high = (np.array(edges[1:]) <= 0.01 + 1e-12), (np.array(edges[:-1]) >= 0.9 - 1e-12)
    name = f"probabilities of target tokens, {group.label}, {source}"
    svg = charts.histogram(name, edges, before.tolist(), after.tolist(), group.style)
    below, above = ((float(before[chosen].sum()), float(after[chosen].sum())) for chosen in (low, high))
    return Change(group.label, group.style, svg, source, below, above, tokens)
