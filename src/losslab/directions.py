"""Does a sweep show what it was expected to show? Differences between two of its rows, each with a verdict.

Rows are compared seed by seed, so that what a seed does to both cancels; the verdict is that of the 95% interval of
the mean difference (Student t over seeds).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab import curves
from losslab.collect import Entry
from losslab.curves import AVERAGE
from losslab.estimate import Estimate
from losslab.files import read_json
from losslab.histogram import EDGES
from losslab.render import MISSING, Cell, Sheet
from losslab.schema import DirectionConfig, End
from losslab.tables import Table

CAPTION = (
    "Differences in percentage points of the average, or of the answer tokens, paired by seed, with 95% intervals. "
    "A claim holds where the interval is above zero, and is open where zero lies inside."
)
RARE, SURE = 1e-2, 0.9  # below and from which on a probability is in one of the two ends of the histogram


@dataclass(frozen=True)
class Finding:
    claim: str
    differences: dict[int, float]  # by seed: percentage points, positive where the claim is right

    @property
    def estimate(self) -> Estimate | None:
        """Their mean with its interval; None where no seed has both rows."""
        return Estimate.over_seeds(list(self.differences.values())) if self.differences else None

    @property
    def verdict(self) -> str:
        mean = self.estimate
        if mean is None:
            return "not measured"
        if mean.half is None or abs(mean.mean) <= mean.half:
            return "open"
        return "holds" if mean.mean > 0 else "the other way round"


def judge(direction: DirectionConfig, table: Table) -> Finding:
    """What the records of a sweep say of a direction, over the seeds that both rows have."""
    if direction.grows is not None:
        return Finding(direction.claim, _growth(table, direction.higher, direction.grows))
    high, low = (_scores(table, row, direction.step) for row in (direction.higher, direction.lower))
    return Finding(direction.claim, {seed: high[seed] - low[seed] for seed in sorted(set(high) & set(low))})


def sheet(table: Table) -> Sheet:
    """The directions of a sweep as a table."""
    findings = [judge(direction, table) for direction in table.sweep.directions]
    rows = [
        [finding.claim, finding.verdict, str(finding.estimate or MISSING), str(len(finding.differences))]
        for finding in findings
    ]
    head = ["claim", "verdict", "difference", "seeds"]
    return Sheet("Directions", "", head, [[Cell(text) for text in row] for row in rows], CAPTION, [])


def entries(table: Table, keys: Mapping[str, Any]) -> list[Entry]:
    """The cells of the one row that has these keys; of a sweep with a file, among those that the file declares.

    Raises ValueError where the keys name several rows.
    """
    found = [
        row
        for row in table.rows
        if (row.declared or not table.grid)
        and all((row.config | row.names).get(key) == value for key, value in keys.items())
    ]
    if len(found) > 1:
        named = ", ".join(row.label for row in found)
        raise ValueError(f"{table.name}: {dict(keys)} names several rows ({named}): add keys to its sweep.directions")
    return found[0].entries if found else []


def _scores(table: Table, keys: Mapping[str, Any], step: int | None) -> dict[int, float]:
    """The average score of each seed's cell, in percent."""
    found = {}
    for entry in entries(table, keys):
        if step is None:
            if AVERAGE in entry.scores:
                found[entry.seed] = entry.scores[AVERAGE]
            continue
        points = curves.points(entry.folder / "scores" / str(entry.protocol), entry.folder / "metrics.jsonl")
        if step in points and (own := curves.values(points[step], table.benchmarks)):
            found[entry.seed] = own[AVERAGE]
    return found


def _growth(table: Table, keys: Mapping[str, Any], end: End) -> dict[int, float]:
    """Percentage points of the training set's answer tokens that an end of the histogram gained in training."""
    found = {}
    for entry in entries(table, keys):
        measured = read_json(entry.folder / "probabilities.json")
        if "after" in measured:
            before, after = (_share(measured[when]["counts"], end) for when in ("before", "after"))
            found[entry.seed] = 100 * (after - before)
    return found


def _share(counts: list[int], end: End) -> float:
    lows = np.array(EDGES[:-1])
    return float(np.array(counts)[lows < RARE if end == End.rare else lows >= SURE].sum() / np.sum(counts))
