"""Gain on mathematics and loss on the benchmarks of forgetting of each objective, relative to the base.

Gain is the row's mean on the mathematics benchmarks minus the base's; loss is the base's mean on the forgetting
benchmarks minus the row's; both in percentage points, paired by problem and seed. A row is on the Pareto front if no
other row of its measure, nor the base, has at least its gain with at most its loss; rows whose seeds are not those of
most are left out of it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from losslab.config.forgetting import forgetting
from losslab.files.csv_files import csv_text
from losslab.results import kl_to_base, plots
from losslab.results.kl_to_base import Divergence
from losslab.results.problem_shares import ProblemShares, comparable
from losslab.results.table_formats import Sheet, SheetCell
from losslab.results.tables import Row, Table
from losslab.statistics.intervals import Estimate, over_seeds_and_problems, simultaneous_level


@dataclass(frozen=True)
class Tradeoff:
    """A trained row relative to the base of its model, in percentage points."""

    row: Row
    gain: Estimate  # on mathematics
    loss: Estimate  # on the benchmarks of forgetting: more than 0 where the row is worse than the base
    front: bool  # whether it is on the Pareto front of the rows of its model and measure, by these means
    seeds: tuple[int, ...]  # that it and the base have


def sides(table: Table) -> tuple[list[str], list[str]]:
    """The mathematics benchmarks of a table (all that are not benchmarks of forgetting), and those of forgetting."""
    names = [*table.benchmarks, *table.others]
    return [name for name in names if name not in forgetting()], [name for name in names if name in forgetting()]


def tradeoffs(table: Table, shares: ProblemShares) -> list[Tradeoff]:
    """Gain and loss of each trained row that shares a seed and all benchmarks with a base, in the order of the table.

    The intervals of all gains and losses of a model are simultaneous at 95%. Empty if the table lacks one kind of
    benchmark.
    """
    mathematics, forgotten = sides(table)
    if not mathematics or not forgotten:
        return []
    of_models: list[Tradeoff] = []
    for model in table.models:
        rows = [row for row in table.rows if row.names["model"] == model and row.scored and not row.earlier]
        bases = [row for row in rows if not row.trains]
        pairs = [(base, row) for row in rows if row.trains for base in bases if comparable(base, row)]
        level = simultaneous_level(2 * len(pairs))
        measured: list[tuple[Row, Estimate, Estimate, tuple[int, ...]]] = []
        for base, row in pairs:
            if points := shares.points(base, row, [*mathematics, *forgotten]):
                gained, changed = points.benchmarks[: len(mathematics)], points.benchmarks[len(mathematics) :]
                of_gained, of_changed = points.originals[: len(mathematics)], points.originals[len(mathematics) :]
                gain = over_seeds_and_problems(gained, level, of_gained)
                loss = over_seeds_and_problems([-change for change in changed], level, of_changed)
                measured.append((row, gain, loss, tuple(points.seeds)))
        for row, gain, loss, seeds in measured:
            alike = [(*_point(g, m), s) for other, g, m, s in measured if other.measure == row.measure]
            usual = Counter(s for *_, s in alike).most_common(1)[0][0]
            rivals = [(g, m) for g, m, s in alike if s == usual]
            front = seeds == usual and _on_front(_point(gain, loss), rivals)
            of_models.append(Tradeoff(row, gain, loss, front, seeds))
    return of_models


def _point(gain: Estimate, loss: Estimate) -> tuple[float, float]:
    """The means, equal where they are equal but for rounding."""
    return round(gain.mean, 9), round(loss.mean, 9)


def _on_front(point: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Whether neither the base at (0, 0) nor another point, unless it is equal, has at least this gain and at most this
    loss."""
    rivals = [(0.0, 0.0), *(other for other in others if other != point)]
    return not any(gain >= point[0] and loss <= point[1] for gain, loss in rivals)


def sheet(table: Table, points: Sequence[Tradeoff], divergences: Sequence[Divergence] = ()) -> Sheet:
    """Gain and loss of each row, its KL to the base where some have one, and the rows of the Pareto front."""
    mathematics, forgotten = sides(table)
    kl = kl_to_base.by_row(divergences)
    rows = [
        [
            *(SheetCell(point.row.names["model"]), SheetCell(point.row.label)),
            *(SheetCell(f"{value:+.1f}".replace("-", "−")) for value in (point.gain, point.loss)),
            *([SheetCell(kl_to_base.text(kl(point.row)))] if divergences else []),
            SheetCell(str(len(point.seeds))),
            SheetCell("yes" if point.front else "no"),
        ]
        for point in points
    ]
    missing = [row.label for row in table.rows if row.trains and row.scored and row not in [p.row for p in points]]
    caption = (
        "Percentage points relative to the base, ± half of the 95% interval; the intervals of a model are "
        f"simultaneous (Šidák). Gain: the mean of {', '.join(mathematics)}. Loss: the decrease of the mean of "
        f"{', '.join(forgotten)}. On the Pareto front, by the means: neither the base nor another row, unless it is "
        "equal in both, has at least its gain with at most its loss, among the rows of one protocol, verdict and "
        "number of samples with the seeds that most have; of one seed the interval covers other problems alone."
    )
    if missing:
        caption += f" Not shown, since they do not share a seed and all benchmarks with a base: {', '.join(missing)}."
    if divergences:
        caption += f" {kl_to_base.COLUMN}: nats per token, each with its own interval, as in the table of that name."
    head = [
        "model",
        "objective",
        "gain",
        "loss",
        *([kl_to_base.COLUMN] if divergences else []),
        "seeds",
        "Pareto front",
    ]
    return Sheet("Gain against loss", "", head, rows, caption, [])


def to_csv(points: Sequence[Tradeoff], divergences: Sequence[Divergence] = ()) -> str:
    kl = kl_to_base.by_row(divergences)
    lines = []
    for p in points:
        estimates = p.gain, p.loss, kl(p.row)
        values = [part for value in estimates for part in ((value.mean, value.half) if value else (None, None))]
        lines.append([p.row.names["model"], p.row.label, *values, len(p.seeds), p.front])
    head = [f"{name}{part}" for name in ("gain", "loss", "kl_to_base") for part in ("", "_half")]
    return csv_text(["model", "objective", *head, "seeds", "pareto_front"], lines)


Drawn = tuple[str, str, Estimate, Estimate, bool, str]  # model, label, gain, loss, front, and the measure as a text


def drawn(points: Sequence[Tradeoff]) -> list[Drawn]:
    """The values that the figure draws."""
    return [(p.row.names["model"], p.row.label, p.gain, p.loss, p.front, str(p.row.measure)) for p in points]


def figure(points: Sequence[Drawn]) -> Any:
    """A panel for each model: gain over loss with their intervals, the base at zero, the Pareto fronts as lines."""
    models = list(dict.fromkeys(model for model, *_ in points))
    canvas, grid = plots.canvas(1, len(models), (1 + 4.5 * len(models), 4.2))
    colour = plots.colours(label for _, label, *_ in points)
    for panel, model in zip(grid[0], models, strict=True):
        of_model = [point for point in points if point[0] == model]
        for _, label, gain, loss, front, _ in of_model:
            halves = {"xerr": plots.error_bar(loss), "yerr": plots.error_bar(gain)}
            bars = halves | {"capsize": 3, "markersize": 8 if front else 5}
            panel.errorbar(loss.mean, gain.mean, fmt="o", color=colour[label], label=label, **bars)
        for measure in dict.fromkeys(point[5] for point in of_model):
            edge = sorted((p[3].mean, p[2].mean) for p in of_model if p[4] and p[5] == measure)
            panel.step([x for x, _ in edge], [y for _, y in edge], where="post", color="grey", linestyle=":", zorder=0)
        panel.plot(0, 0, marker="+", color="black", markersize=10)
        panel.axhline(0, color="grey", linewidth=0.5)
        panel.axvline(0, color="grey", linewidth=0.5)
        panel.set_title(f"{model}: gain against loss (+ base, ··· Pareto front)", fontsize="medium")
        panel.set_xlabel("lost on the benchmarks of forgetting, points")
    grid[0][0].set_ylabel("gained on mathematics, points")
    plots.legend(canvas)
    return canvas
