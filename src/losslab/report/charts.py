"""SVG charts for the report, with colours from the page's style sheet.

Every chart is 360 units wide, about the width of a phone in pixels. `style` is the number of a row's colour. Tooltips
of the page's script are in `data-` attributes; without scripts the titles serve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from losslab.statistics.intervals import Estimate

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 20  # margins of the plot
NAME = 22  # characters of a row's label beside its interval
COLOURS = 10  # in the style sheet, besides that of bases; further rows are dashed
LOG_RATIO = 30.0  # ratio of the largest to the smallest value above which a scale is logarithmic

Point = tuple[float, float]


@dataclass(frozen=True)
class ChartLine:
    """A row's curve, drawn over the curves of its cells (`parts`) or its 95% interval (`band`: step, low, high)."""

    style: int
    label: str
    points: list[Point]
    parts: list[list[Point]] = field(default_factory=list)
    band: list[tuple[float, float, float]] = field(default_factory=list)
    held_out: bool = False  # of rows that are not trained on


@dataclass(frozen=True)
class Axis:
    """A scale that maps the values from `low` to `high` to the coordinates from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values within the scale."""
        if self.log and self.high / self.low >= 10:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers][:: -(-len(powers) // (count + 1))]
        rough = (self.high - self.low) / count
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale(values: Sequence[float], start: float, end: float, log: bool = False) -> Axis:
    """A scale for all values with some margin; logarithmic if `log` allows it and their range requires it.

    It is coarse enough that the noise of a constant does not fill the chart.
    """
    low, high = min(values), max(values)
    if log and low > 0 and high / low > LOG_RATIO:
        return Axis(low / 1.15, high * 1.15, start, end, True)
    air = max(0.05 * (high - low), 0.02 * max(abs(low), abs(high))) or 0.5
    floor = 0.0 if 0 <= low < 0.4 * high else low - air  # near zero, zero shows
    return Axis(floor, high + air, start, end)


def colour(style: int) -> str:
    """The classes of a row's colour."""
    return "c0" if style == 0 else f"c{(style - 1) % COLOURS + 1} dash{min(2, (style - 1) // COLOURS)}"


def lines(name: str, curves: Sequence[ChartLine], across: str = "step", *, log: bool = False) -> Markup:
    """Curves over steps, or over the few values of another setting; at least one curve must have a point.

    `name` is the label for screen readers. With `log` the vertical scale may be logarithmic; the horizontal scale of a
    setting is.
    """
    height = 190
    every = [point for curve in curves for points in (curve.points, *curve.parts) for point in points]
    values = [y for _, y in every] + [y for curve in curves for _, *edges in curve.band for y in edges]
    places = sorted({x for x, _ in every})
    low, high = places[0], max(places[-1], places[0] + 1) if across == "step" else places[-1]
    if across == "step":
        x = Axis(low, high, LEFT, WIDTH - RIGHT)
        ticks = x.ticks(5)
    else:
        x = (
            Axis(low / 1.1, high * 1.1, LEFT, WIDTH - RIGHT, log=True)
            if low > 0
            else scale(places, LEFT, WIDTH - RIGHT)
        )
        ticks = places
    y = scale(values, height - BOTTOM, TOP, log)
    parts = [_level(y.place(tick), _text(tick)) for tick in y.ticks(4)]
    for tick in ticks:
        parts.append(f'<text x="{x.place(tick):.1f}" y="{height - 5}" text-anchor="middle">{_text(tick)}</text>')
    for curve in curves:
        if curve.band:
            edges = [(s, low) for s, low, _ in curve.band] + [(s, high) for s, _, high in reversed(curve.band)]
            parts.append(
                f'<polygon class="band {colour(curve.style)}" data-row="{curve.style}" points="{_path(edges, x, y)}"/>'
            )
        for part in curve.parts:
            parts.append(
                f'<polyline class="part {colour(curve.style)}" data-row="{curve.style}" points="{_path(part, x, y)}"/>'
            )
    for curve in curves:
        marks = f'data-x="{_numbers(s for s, _ in curve.points)}" data-v="{_numbers(v for _, v in curve.points)}"'
        label, kind = escape(curve.label), "line held" if curve.held_out else "line"
        parts.append(
            f'<polyline class="{kind} {colour(curve.style)}" data-row="{curve.style}" data-label="{label}" {marks} '
            f'points="{_path(curve.points, x, y)}"><title>{label}</title></polyline>'
        )
    ends = "; ".join(f"{c.label} from {c.points[0][1]:.3g} to {c.points[-1][1]:.3g}" for c in curves if c.points)
    return _svg(f"{name} over {across}: {ends}", height, parts, "lines", across)


def histogram(name: str, edges: Sequence[float], before: Sequence[float], after: Sequence[float], style: int) -> Markup:
    """Shares of tokens (percent) by probability, on a logarithmic scale: bars after training, a line before."""
    floor, height = 0.01, 170
    x = Axis(0, len(after), LEFT, WIDTH - RIGHT)
    y = Axis(floor, 100.0, height - BOTTOM, TOP, True)
    parts = []
    for tick in (0.01, 0.1, 1.0, 10.0, 100.0):
        parts.append(_level(y.place(tick), f"{tick:g}%"))
    for i, share in enumerate(after):
        left, top = x.place(i), y.place(share)
        tip = escape(f"p from {edges[i]:g} to {edges[i + 1]:g}: {before[i]:.2f}% before, {share:.2f}% after")
        parts.append(
            f'<g data-tip="{tip}"><rect class="hit" x="{left:.1f}" y="{TOP}" width="{x.place(i + 1) - left:.1f}" '
            f'height="{height - TOP - BOTTOM}"/><rect class="bar {colour(style)}" x="{left + 1.5:.1f}" y="{top:.1f}" '
            f'width="{x.place(i + 1) - left - 3:.1f}" height="{height - BOTTOM - top:.1f}"/><title>{tip}</title></g>'
        )
    stairs = [(x.place(i + side), y.place(share)) for i, share in enumerate(before) for side in (0, 1)]
    parts.append(f'<polyline class="before" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in stairs)}"/>')
    for i in range(len(edges)):
        if i and edges[i] != 1e-2 and (edges[i] < 0.1 or round(10 * edges[i]) % 2):
            continue  # there is no room for all
        parts.append(f'<text x="{x.place(i):.1f}" y="{height - 5}" text-anchor="middle">{edges[i]:g}</text>')
    return _svg(name, height, parts, "histogram")


def intervals(name: str, rows: Sequence[tuple[int, str, float, float | None]]) -> Markup:
    """The mean and 95% interval of each row, given as (style, label, mean, half), one below the other."""
    names = [label if len(label) <= NAME else label[: NAME - 1] + "…" for _, label, _, _ in rows]
    left, step = 18 + 6.3 * max(len(name) for name in names), 22
    height = TOP + step * len(rows) + BOTTOM
    reach = [value for _, _, mean, half in rows for value in (mean - (half or 0), mean + (half or 0))]
    x = scale([value for value in reach if math.isfinite(value)], left, WIDTH - 14)
    parts = []
    for tick in x.ticks(4):
        place = x.place(tick)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text x="{place:.1f}" y="{height - 6}" text-anchor="middle">{_text(tick)}</text>')
    for i, (short, (style, label, mean, half)) in enumerate(zip(names, rows, strict=True)):
        y = TOP + step * (i + 0.5)
        has_interval = half is not None and math.isfinite(half)
        tip = escape(f"{label}: {mean:.1f}" + (f" ± {half:.1f}" if has_interval else ""))
        parts.append(f'<g data-tip="{tip}" data-row="{style}"><title>{tip}</title>')
        parts.append(f'<rect class="hit" x="0" y="{y - step / 2:.1f}" width="{WIDTH}" height="{step}"/>')
        parts.append(f'<text class="name" x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(short)}</text>')
        if has_interval and half is not None:
            low, high = x.place(mean - half), x.place(mean + half)
            parts.append(f'<line class="line {colour(style)}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot {colour(style)}" cx="{x.place(mean):.1f}" cy="{y}" r="4.5"/></g>')
    return _svg(name, height, parts, "intervals")


def crosses(name: str, rows: Sequence[tuple[int, str, Estimate, Estimate]]) -> Markup:
    """A point with an interval in both directions for each row, given as (style, label, x, y); the base is at zero."""
    height = 230
    x = scale([0.0, *(edge for _, _, value, _ in rows for edge in _ends(value))], LEFT, WIDTH - RIGHT)
    y = scale([0.0, *(edge for _, _, _, value in rows for edge in _ends(value))], height - BOTTOM, TOP)
    parts = [_level(y.place(tick), _text(tick)) for tick in y.ticks(4)]
    for tick in x.ticks(5):
        place = x.place(tick)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text x="{place:.1f}" y="{height - 5}" text-anchor="middle">{_text(tick)}</text>')
    for style, label, loss, gain in [(0, "base", Estimate(0.0), Estimate(0.0)), *rows]:
        tip = escape(f"{label}: gain {gain.mean:+.1f}, loss {loss.mean:+.1f}")
        parts.append(f'<g data-tip="{tip}" data-row="{style}"><title>{tip}</title>')
        left, right = map(x.place, _ends(loss))
        low, high = map(y.place, _ends(gain))
        cx, cy, kind = x.place(loss.mean), y.place(gain.mean), f'class="line {colour(style)}"'
        parts.append(f'<line {kind} x1="{left:.1f}" x2="{right:.1f}" y1="{cy:.1f}" y2="{cy:.1f}"/>')
        parts.append(f'<line {kind} x1="{cx:.1f}" x2="{cx:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<circle class="dot {colour(style)}" cx="{cx:.1f}" cy="{cy:.1f}" r="4.5"/></g>')
    return _svg(name, height, parts, "intervals", "loss")


def _ends(value: Estimate) -> tuple[float, float]:
    """Of an interval; its mean where there is none."""
    half = value.half or 0.0
    return value.mean - half, value.mean + half


def _level(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    )


def _path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    return " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in points)


def _numbers(values: object) -> str:
    return " ".join(f"{value:.4g}" for value in values)  # type: ignore[attr-defined]


def _text(value: float) -> str:
    """A tick's text: 20000 as 20k."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _svg(name: str, height: int, parts: Sequence[str], kind: str, across: str = "") -> Markup:
    attributes = f'role="img" aria-label="{escape(name)}" tabindex="0" data-across="{escape(across)}"'
    return Markup(f'<svg class="{kind}" viewBox="0 0 {WIDTH} {height}" {attributes}>{"".join(parts)}</svg>')
