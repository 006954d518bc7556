"""Does a sweep show what it was expected to show? Differences between two of its rows, each with a verdict.

Rows are compared seed by seed, so that what a seed does to both cancels; the verdict is that of the 95% interval of
the mean difference (Student t over seeds).
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab.config.schema import DirectionConfig, End
from losslab.data.probability_bins import EDGES
from losslab.files import read_json
from losslab.records.record import protocol_name
from losslab.results import learning_curves
from losslab.results.learning_curves import AVERAGE
from losslab.results.table_formats import MISSING, Cell, Sheet
from losslab.results.tables import Measure, Row, Table
from losslab.statistics.intervals import Estimate, over_seeds

CAPTION = (
    "Differences in percentage points of the average, or of the answer tokens, paired by seed, with 95% intervals. "
    "A claim holds where the interval is above zero, and is open where zero lies inside."
)
RARE, SURE = 1e-2, 0.9  # below and from which on a probability is in one of the two ends of the histogram


@dataclass(frozen=True)
class Finding:
    claim: str
    differences: dict[int, float]  # by seed: percentage points, positive where the claim is right
    asked: int = 0  # seeds, of a sweep whose file says how many

    @property
    def seeds(self) -> str:
        """`2/5` for two of the five seeds that were asked for."""
        found = len(self.differences)
        return f"{found}/{self.asked}" if found < self.asked else str(found)

    @property
    def estimate(self) -> Estimate | None:
        """Their mean with its interval; None where no seed has both rows."""
        return over_seeds(list(self.differences.values())) if self.differences else None

    @property
    def verdict(self) -> str:
        mean = self.estimate
        if mean is None:
            return "not measured"
        if not mean.nonzero:
            return "open"
        return "holds" if mean.mean > 0 else "the other way round"


def judge(direction: DirectionConfig, table: Table) -> Finding:
    """What the records of a sweep say of a direction, over the seeds that both rows have."""
    if direction.grows is not None:
        return Finding(direction.claim, _growth(table, direction.higher, direction.grows), asked(table))
    high, low = (rows(table, keys) for keys in (direction.higher, direction.lower))
    # Only scores of one measure compare: that of the sweep's file where both rows have it.
    shared = sorted(high.keys() & low.keys(), key=lambda measure: (measure not in measures(table), str(measure)))
    differences = {}
    if shared:
        ours, theirs = (_scores(table, found[shared[0]], direction.step) for found in (high, low))
        differences = {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}
    return Finding(direction.claim, differences, asked(table))


def sheet(table: Table) -> Sheet:
    """The directions of a sweep as a table."""
    found = [judge(direction, table) for direction in table.sweep.directions]
    cells = [[one.claim, one.verdict, f"{one.estimate:.2f}" if one.estimate else MISSING, one.seeds] for one in found]
    head = ["claim", "verdict", "difference", "seeds"]
    return Sheet("Directions", "", head, [[Cell(text) for text in row] for row in cells], CAPTION, [])


def spreadsheet(table: Table) -> str:
    """CSV of the directions: the mean difference, half of its interval and the seeds that it is over."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["claim", "verdict", "difference", "half", "seeds"])
    for one in (judge(direction, table) for direction in table.sweep.directions):
        mean = one.estimate
        writer.writerow([one.claim, one.verdict, mean and mean.mean, mean and mean.half, len(one.differences)])
    return out.getvalue()


def asked(table: Table) -> int:
    """How many seeds the sweep's file declares; 0 for a sweep without one."""
    return len({config.seed for config in table.grid})


def measures(table: Table) -> set[Measure]:
    """Those of the scores that the sweep's file asks for."""
    return {Measure(protocol_name(one), str(one.eval.verdict), (one.eval.samples,)) for one in table.grid}


def rows(table: Table, keys: Mapping[str, Any]) -> dict[Measure | None, Row]:
    """The row that has these keys, by the measure of its scores; of a sweep with a file, among those that it declares.

    Raises ValueError where the keys name several rows.
    """
    found: dict[Measure | None, Row] = {}
    for row in (row for row in table.rows if not row.earlier):
        mine = all((row.config | row.names).get(key) == value for key, value in keys.items())
        if mine and (row.declared or not table.grid):
            if row.measure in found:
                named = f"{found[row.measure].label}, {row.label}"
                raise ValueError(
                    f"{table.name}: {dict(keys)} names several rows ({named}): add keys to its sweep.directions"
                )
            found[row.measure] = row
    return found


def _scores(table: Table, row: Row, step: int | None) -> dict[int, float]:
    """The average score of each seed's cell, in percent."""
    found = {}
    for entry in row.entries:
        if step is None:
            if AVERAGE in entry.scores:
                found[entry.seed] = entry.scores[AVERAGE]
            continue
        points = learning_curves.points(entry.folder / "scores" / str(entry.protocol), entry.folder / "metrics.jsonl")
        if step in points and (own := learning_curves.values(points[step], table.benchmarks)):
            found[entry.seed] = own[AVERAGE]
    return found


def _growth(table: Table, keys: Mapping[str, Any], end: End) -> dict[int, float]:
    """Percentage points of the training set's answer tokens that an end of the histogram gained in training."""
    found = {}
    for entry in (entry for row in rows(table, keys).values() for entry in row.entries):
        measured = read_json(entry.folder / "probabilities.json")
        if "after" in measured:
            before, after = (_share(measured[when]["counts"], end) for when in ("before", "after"))
            found[entry.seed] = 100 * (after - before)
    return found


def _share(counts: list[int], end: End) -> float:
    lows = np.array(EDGES[:-1])
    return float(np.array(counts)[lows < RARE if end == End.rare else lows >= SURE].sum() / np.sum(counts))
