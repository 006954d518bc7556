"""The page of a race: its verdict, its rows on every rung, what they cost, and links to the reports of the rungs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from losslab import __version__
from losslab.cells import race_text
from losslab.cells.race import Entrant, Race, Rung
from losslab.config.schema import BASE
from losslab.files.atomic import write
from losslab.pages.page import render
from losslab.records.cell_records import training_device_seconds
from losslab.report import charts
from losslab.report.page import hours
from losslab.report.training import Chart
from losslab.results.table_formats import Sheet, SheetCell


def write_page(race: Race, rungs: Sequence[Rung]) -> Path:
    """Write the page beside those of the rungs; returns its path."""
    path = race.results / "reports" / race.name / "race.html"
    names = [rung.name for rung in rungs]
    page = render(
        "race.html",
        ["pages/style.css"],
        ["pages/base.js", "report/script.js"],
        "losslab.report",
        filters={"colour": charts.colour},
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        race=race.name,
        said=race_text.sentences(race, rungs),
        sheet=race_text.sheet(race, rungs) if rungs else None,
        chart=_chart(race, rungs) if rungs else None,
        costs=_costs(race, rungs) if rungs else None,
        reports=[(name, f"{name}.html") for name in names if path.with_name(f"{name}.html").is_file()],
    )
    write(path, page)
    return path


def _chart(race: Race, rungs: Sequence[Rung]) -> Chart:
    """The average of each row over the training rows, and that of the base."""
    lines = [charts.ChartLine(0, BASE, [(float(rung.rows), rung.base) for rung in rungs])]
    for style, entrant in enumerate(race.entrants, start=1):
        points = [
            (float(rung.rows), row.average) for rung in rungs for row in rung.standings if row.name == entrant.label
        ]
        lines.append(charts.ChartLine(style, entrant.label, points))
    title, across = "average over training rows", "training rows"
    return Chart(title, "percent", charts.lines(title, lines, across), [(line.style, line.label) for line in lines])


def _costs(race: Race, rungs: Sequence[Rung]) -> Sheet:
    """What each rung has taken so far, and by it what a sweep of all rows on all of the data would take."""
    seeds = len(race.seeds)
    lines = [_Cost("base", 0, seeds, *_seconds(race, rungs[0].name, [race.base]))]
    for rung in rungs:
        entrants = [entrant for entrant in race.entrants if entrant.label in [row.name for row in rung.standings]]
        count = len(entrants) * seeds
        lines.append(_Cost(rung.name, rung.rows * count, count, *_seconds(race, rung.name, entrants)))
    total = _Cost("race", *(sum(getattr(line, f.name) for line in lines) for f in fields(_Cost)[1:]))
    count = len(race.entrants) * seeds
    rows, models = count * race.training_rows("all"), count + seeds
    training, scoring = total.training * rows / total.rows, total.scoring * models / total.models
    lines += [total, _Cost("sweep", rows, models, training, scoring)]
    texts = [
        [line.name, f"{line.rows:,}", f"{line.models:,}", hours(line.training / 3600), hours(line.scoring / 3600)]
        for line in lines
    ]
    caption = (
        "Of all cells of a rung together, as measured: training in time of its devices, scoring in wall time. Sweep is "
        "an estimate: all rows trained on all of the data, at the mean time that the race took for a training row and "
        "for a scored model."
    )
    head = ["rung", "training rows", "models scored", "training", "scoring"]
    return Sheet("Costs", "", head, [[SheetCell(text) for text in of_line] for of_line in texts], caption, [], naming=1)


@dataclass(frozen=True)
class _Cost:
    name: str
    rows: int
    models: int
    training: float  # seconds
    scoring: float


def _seconds(race: Race, rung: str, entrants: Sequence[Entrant]) -> tuple[float, float]:
    """Of training, times its devices, and of scoring, as the records of these rows have them."""
    states = [cell.state() for entrant in entrants for cell, _ in race.cells(rung, entrant)]
    training = sum(training_device_seconds(state, state.get("devices", 1)) for state in states)
    return training, sum(state.get("scoring_seconds", 0.0) for state in states)
