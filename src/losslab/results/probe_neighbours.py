"""A probe among the records: which objectives beat SFT where the base found demonstrations as probable, and which not.

A record is a row of a sweep beside the row of SFT that differs from it in the objective alone, with two seeds or more,
and with the probabilities of the demonstrations under the base (`machine.probabilities`). Its place is the share of
tokens with p below 0.1 and the share with p of 0.9 or more. A new probe is placed by its nearest records: they speak
where all of them agree, and where the probe is no further from them than records are from each other. Else it abstains.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from losslab.results.compare_to_baselines import but_objective
from losslab.results.learning_curves import AVERAGE
from losslab.results.probability_plots import read_probabilities
from losslab.results.problem_shares import ProblemShares
from losslab.results.tables import Row, Table, build
from losslab.results.write_tables import layouts
from losslab.statistics.intervals import Estimate

NEAREST = 3  # records that have to agree
LOW, HIGH = 0.1, 0.9  # edges of the histograms of records
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
    place: Place
    difference: Estimate  # to SFT, in points of the average

    @property
    def outcome(self) -> str:
        return "open" if not self.difference.nonzero else "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class Placement:
    """What the nearest records say of an objective."""

    objective: str
    records: int
    nearest: list[Known]
    outcome: str | None  # None: it abstains
    reason: str = ""  # of abstaining
    right: int = 0  # of records that are left out one by one, those whose outcome the others name
    said: int = 0  # those of which the others name any


def known(results: str) -> list[Known]:
    """The records of a results folder, each once, whatever sweeps it is in."""
    found: dict[tuple[str, Place, float], Known] = {}
    try:
        sweeps = list(layouts([], results))
    except ValueError:  # there is no record
        return []
    for sweep in sweeps:
        for record in _of_table(build(sweep, results)) if not sweep.needs else ():
            found.setdefault((record.objective, record.place, record.difference.mean), record)
    return list(found.values())


def _of_table(table: Table) -> Iterator[Known]:
    shares = ProblemShares(replace(table, faults=[]))
    rows = [row for row in table.rows if row.scored and not row.earlier]
    for sft in (row for row in rows if row.names["loss"] == "sft"):
        if (place := _place(table, sft)) is None:
            continue
        for row in rows:
            if row is sft or not row.trains or but_objective(row) != but_objective(sft):
                continue
            difference = shares.difference(sft, row)
            if difference and len(difference.seeds) > 1 and AVERAGE in difference.columns:
                yield Known(table.name, row.names["loss"], place, difference.columns[AVERAGE])


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
    return float(sum(np.array(counts)[lower < LOW])) / total, float(sum(np.array(counts)[lower >= HIGH])) / total


def place(objective: str, probe: Place, records: Sequence[Known]) -> Placement:
    """What the records say of one objective where the demonstrations are as the probe found them."""
    mine = [record for record in records if record.objective == objective]
    if len(mine) <= NEAREST:
        few = f"{len(mine)} records have it beside SFT, and a placement takes {NEAREST + 1}"
        return Placement(objective, len(mine), [], None, few)
    outcome, nearest, reason = _vote(probe, mine)
    right = said = 0
    for i, left_out in enumerate(mine):
        others = [*mine[:i], *mine[i + 1 :]]
        if len(others) > NEAREST:
            vote, _, _ = _vote(left_out.place, others)
            said += vote is not None
            right += vote == left_out.outcome
    return Placement(objective, len(mine), nearest, outcome, reason, right, said)


def _vote(probe: Place, records: Sequence[Known]) -> tuple[str | None, list[Known], str]:
    """The outcome that all of the nearest records have, these, and why it is None where it is."""
    nearest = sorted(records, key=lambda record: _distance(probe, record.place))[:NEAREST]
    among = [sorted(_distance(a.place, b.place) for b in records if b is not a)[NEAREST - 1] for a in records]
    if _distance(probe, nearest[-1].place) > max(among):
        return None, nearest, "it lies further from the records than these lie from each other"
    outcomes = {record.outcome for record in nearest}
    if len(outcomes) > 1:
        return None, nearest, f"its nearest records disagree ({', '.join(record.outcome for record in nearest)})"
    return outcomes.pop(), nearest, ""


def _distance(a: Place, b: Place) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])


def sentence(placement: Placement) -> str:
    """What a placement says, and how often such a placement was right."""
    name = placement.objective
    if placement.outcome is None:
        return f"{name} against sft: no answer, since {placement.reason}."
    words = {"better": "better than sft", "worse": "worse than sft", "open": "not told apart from sft"}
    settings = ", ".join(dict.fromkeys(record.sweep for record in placement.nearest))
    hits = (
        f"of the {placement.records} records, left out one by one, the others named the outcome of {placement.said}, "
        f"and {placement.right} of these rightly"
    )
    return f"{name}: {words[placement.outcome]} in the {NEAREST} nearest records ({settings}); {hits}."


def folder(results: str) -> Path:
    return Path(results) / "probes"
