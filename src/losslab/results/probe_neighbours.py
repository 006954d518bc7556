"""Predicts which objectives beat SFT, from records whose base found its demonstrations about as probable.

A record is a row of a sweep beside the row of SFT that differs from it in the objective alone, with two seeds or more,
and with the probabilities of the demonstrations under the base (`machine.probabilities`). Its place is the share of
tokens with p below 0.1 and the share with p of 0.9 or more. Records of one base and one data set, by their recorded
configurations, are one setting, since more rates on the same demonstrations add no evidence. A new probe is placed by
its nearest settings: they decide where all of them agree, and where the probe is no further from them than they are
from theirs. Else there is no answer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from losslab.data.probability_bins import DOUBTFUL, SURE
from losslab.records.cell_records import cell_records
from losslab.results.compare_to_baselines import but_objective
from losslab.results.labels import canonical
from losslab.results.learning_curves import AVERAGE
from losslab.results.probability_plots import read_probabilities
from losslab.results.problem_shares import ProblemShares
from losslab.results.tables import Measure, Row, Table, build
from losslab.results.write_tables import layouts
from losslab.statistics.intervals import Estimate

NEAREST = 3  # settings that have to agree
# Mean p of the demonstrations under the base, and what came out: arXiv 2510.00526 ("Beyond Log Likelihood").
ANCHORS = (
    ("mathematics", ".76 to .81", "objectives that lean on the model's own probabilities (DFT) are ahead of SFT"),
    ("medical questions", "about .5", "no objective is ahead"),
    ("figfont puzzles", "about .01", "cross-entropy (SFT) is ahead"),
)

Place = tuple[float, float]  # shares of the answer tokens with p below 0.1, and with p from 0.9 on


@dataclass(frozen=True)
class Known:
    """An objective beside SFT in one setting."""

    sweep: str
    objective: str
    setting: str  # the configuration of its base and of its demonstrations
    place: Place  # of these demonstrations, as far as they were measured
    difference: Estimate  # to SFT, in points of the average

    @property
    def outcome(self) -> str:
        return "open" if not self.difference.nonzero else "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class Setting:
    """All records of an objective on one base and one set of demonstrations, at whatever rates: one vote."""

    records: list[Known]

    @property
    def place(self) -> Place:
        """The mean over its records: sweeps may measure different numbers of the same demonstrations."""
        below, above = np.mean([record.place for record in self.records], axis=0)
        return float(below), float(above)

    @property
    def outcome(self) -> str | None:
        """The one that all of its records have."""
        outcomes = {record.outcome for record in self.records}
        return outcomes.pop() if len(outcomes) == 1 else None


@dataclass(frozen=True)
class Placement:
    """What the nearest settings say of an objective."""

    objective: str
    settings: int
    nearest: list[Setting]
    outcome: str | None  # None: no answer
    reason: str = ""  # why there is none
    right: int = 0  # of settings that are left out one by one, those whose outcome the others name
    answered: int = 0  # those of which the others name any


def known(results: str) -> list[Known]:
    """The records of a results folder, each once: that of the sweep which has the most seeds of it."""
    cells = cell_records(results)
    try:
        sweeps = [sweep for sweep in layouts([], results, cells) if not sweep.needs]
    except ValueError:  # there is no record
        return []
    most_seeds: dict[tuple[str, Measure | None], tuple[int, Known]] = {}
    for sweep in sweeps:
        for row, seeds, record in _of_table(build(sweep, results, cells)):
            key = canonical(row.config), row.measure
            if seeds > most_seeds.get(key, (0, record))[0]:
                most_seeds[key] = seeds, record
    return [record for _, record in most_seeds.values()]


def _of_table(table: Table) -> Iterator[tuple[Row, int, Known]]:
    """The rows of a table that are records, with the number of their seeds."""
    shares = ProblemShares(table)
    rows = [row for row in table.rows if row.scored and not row.earlier]
    for sft in (row for row in rows if row.names["loss"] == "sft"):
        if (place := _place(table, sft)) is None:
            continue
        for row in rows:
            if row is sft or not row.trains or but_objective(row) != but_objective(sft):
                continue
            difference = shares.difference(sft, row)
            if difference and len(difference.seeds) > 1 and AVERAGE in difference.columns:
                average = difference.columns[AVERAGE]
                yield row, len(difference.seeds), Known(table.name, row.names["loss"], _setting(row), place, average)


def _setting(row: Row) -> str:
    """What makes the base and the demonstrations of two rows the same."""
    return canonical({key: value for key, value in row.config.items() if key.startswith(("model.", "dataset."))})


def _place(table: Table, row: Row) -> Place | None:
    """Of a row's demonstrations under its base, the mean over its cells; None where that was not measured."""
    read = [table.attempt(read_probabilities, entry.folder, {}) for entry in row.scored]
    places = [place_of(content["before"]["edges"], content["before"]["counts"]) for content in read if content]
    if not places:
        return None
    below, above = np.mean(places, axis=0)
    return float(below), float(above)


def place_of(edges: Sequence[float], counts: Sequence[float]) -> Place:
    """From a histogram with edges at 0.1 and 0.9."""
    total, lower = sum(counts), np.array(edges[:-1])
    return float(sum(np.array(counts)[lower < DOUBTFUL])) / total, float(sum(np.array(counts)[lower >= SURE])) / total


def place(objective: str, probe: Place, records: Sequence[Known]) -> Placement:
    """What the records say of one objective where the demonstrations are as the probe found them."""
    by_setting: dict[str, list[Known]] = {}
    for record in records:
        if record.objective == objective:
            by_setting.setdefault(record.setting, []).append(record)
    settings = [Setting(members) for members in by_setting.values()]
    if len(settings) <= NEAREST:
        have = "1 setting has" if len(settings) == 1 else f"{len(settings)} settings have"
        few = f"{have} it beside SFT, and a placement takes {NEAREST + 1}"
        return Placement(objective, len(settings), [], None, few)
    outcome, nearest, reason = _vote(probe, settings)
    right = answered = 0
    for i, left_out in enumerate(settings):
        others = [*settings[:i], *settings[i + 1 :]]
        if len(others) > NEAREST:
            vote, _, _ = _vote(left_out.place, others)
            answered += vote is not None
            right += vote is not None and vote == left_out.outcome
    return Placement(objective, len(settings), nearest, outcome, reason, right, answered)


def _vote(probe: Place, settings: Sequence[Setting]) -> tuple[str | None, list[Setting], str]:
    """The outcome that all of the nearest settings have, these, and why it is None where it is."""
    nearest = sorted(settings, key=lambda setting: _distance(probe, setting.place))[:NEAREST]
    among = [sorted(_distance(a.place, b.place) for b in settings if b is not a)[NEAREST - 1] for a in nearest]
    if _distance(probe, nearest[-1].place) > max(among):
        return None, nearest, "it lies further from the nearest settings than these from theirs"
    outcomes = {setting.outcome for setting in nearest}
    if len(outcomes) > 1 or None in outcomes:
        return None, nearest, f"its nearest settings disagree ({', '.join(str(s.outcome or 'mixed') for s in nearest)})"
    return outcomes.pop(), nearest, ""


def _distance(a: Place, b: Place) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])


def sentence(placement: Placement) -> str:
    """What a placement says, and how often such a placement was right."""
    name = placement.objective
    if placement.outcome is None:
        return f"{name} against sft: no answer, since {placement.reason}."
    words = {"better": "better than sft", "worse": "worse than sft", "open": "not told apart from sft"}
    sweeps = ", ".join(dict.fromkeys(record.sweep for setting in placement.nearest for record in setting.records))
    hits = (
        f"of the {placement.settings} settings, left out one by one, the others named the outcome of "
        f"{placement.answered}, and {placement.right} of these rightly"
    )
    return f"{name}: {words[placement.outcome]} in the {NEAREST} nearest settings ({sweeps}); {hits}."


def folder(results: str) -> Path:
    return Path(results) / "probes"
