"""Judges the claims of a sweep: expected differences between two of its rows.

Rows are paired by seed, so that the effect of a seed on both cancels; the 95% interval of the mean difference
(Student's t over seeds) decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab.config.choices import End
from losslab.config.sweep import DirectionConfig
from losslab.data.probability_bins import EDGES, RARE, SURE
from losslab.files.csv_files import csv_text
from losslab.results.learning_curves import AVERAGE, values
from losslab.results.probability_plots import read_probabilities
from losslab.results.table_formats import MISSING, Sheet, SheetCell
from losslab.results.tables import Measure, Row, Table, declared_measures
from losslab.statistics.intervals import Estimate, over_seeds

CAPTION = (
    "Differences in percentage points of the average, or of the answer tokens, paired by seed, with 95% intervals. "
    "A claim holds if the interval is above zero, and is open if zero lies inside. The intervals are for other seeds "
    "on the same problems, and are not corrected for the number of claims."
)


@dataclass(frozen=True)
class JudgedClaim:
    claim: str
    differences: dict[int, float]  # by seed: percentage points, positive where the claim is right
    asked: int = 0  # seeds that the sweep's file declares

    @property
    def seeds(self) -> str:
        """`2/5` for two of the five seeds that were asked for."""
        count = len(self.differences)
        return f"{count}/{self.asked}" if count < self.asked else str(count)

    @property
    def estimate(self) -> Estimate | None:
        """The mean difference with its interval; None if no seed has both rows."""
        return over_seeds(list(self.differences.values())) if self.differences else None

    @property
    def verdict(self) -> str:
        mean = self.estimate
        if mean is None:
            return "not measured"
        if not mean.nonzero:
            return "open"
        return "holds" if mean.mean > 0 else "the other way round"


def judge(claim: DirectionConfig, table: Table) -> JudgedClaim:
    """Judge a claim by the records of a sweep, over the seeds that both rows have."""
    if claim.grows is not None:
        return JudgedClaim(claim.claim, _growth(table, claim.higher, claim.grows), _seeds_asked(table))
    high, low = (named_rows(table, keys) for keys in (claim.higher, claim.lower))
    # Only scores of the same measure compare: preferably the one that the sweep's file declares.
    declared = declared_measures(table)
    shared = sorted(high.keys() & low.keys(), key=lambda measure: (measure not in declared, str(measure)))
    differences = {}
    if shared:
        above, below = (_averages(table, rows[shared[0]], claim.step) for rows in (high, low))
        differences = {seed: above[seed] - below[seed] for seed in sorted(above.keys() & below.keys())}
    return JudgedClaim(claim.claim, differences, _seeds_asked(table))


def sheet(table: Table) -> Sheet:
    """The claims of a sweep as a table."""
    texts = []
    for expected in table.sweep.directions:
        claim = judge(expected, table)
        difference = f"{claim.estimate:.2f}" if claim.estimate else MISSING
        texts.append([claim.claim, claim.verdict, difference, claim.seeds])
    head = ["claim", "verdict", "difference", "seeds"]
    return Sheet("Claims", "", head, [[SheetCell(text) for text in row] for row in texts], CAPTION, [])


def to_csv(table: Table) -> str:
    """CSV of the claims: the mean difference, half of its interval, and the number of seeds."""
    rows = []
    for judged in (judge(claim, table) for claim in table.sweep.directions):
        mean = judged.estimate
        rows.append([judged.claim, judged.verdict, mean and mean.mean, mean and mean.half, len(judged.differences)])
    return csv_text(["claim", "verdict", "difference", "half", "seeds"], rows)


def _seeds_asked(table: Table) -> int:
    """How many seeds the sweep's file declares; 0 for a sweep without one."""
    return len({config.seed for config in table.grid})


def named_rows(table: Table, keys: Mapping[str, Any]) -> dict[Measure | None, Row]:
    """The row with these values of keys, for each measure of its scores; if the sweep has a file, a row that it
    declares.

    Raises ValueError if several rows have them.
    """
    rows: dict[Measure | None, Row] = {}
    for row in (row for row in table.rows if not row.earlier):
        has_keys = all((row.config | row.names).get(key) == value for key, value in keys.items())
        if has_keys and (row.declared or not table.grid):
            if row.measure in rows:
                labels = f"{rows[row.measure].label}, {row.label}"
                raise ValueError(
                    f"{table.name}: {dict(keys)} fits several rows ({labels}): add keys to its sweep.directions"
                )
            rows[row.measure] = row
    return rows


def _averages(table: Table, row: Row, step: int | None) -> dict[int, float]:
    """The average score of each seed's cell, in percent."""
    if step is None:
        return {entry.seed: entry.scores[AVERAGE].mean for entry in row.entries if AVERAGE in entry.scores}
    averages = {}
    for entry in row.entries:
        by_step = table.by_step(entry)
        if step in by_step and (scores := values(by_step[step], table.benchmarks)):
            averages[entry.seed] = scores[AVERAGE]
    return averages


def _growth(table: Table, keys: Mapping[str, Any], end: End) -> dict[int, float]:
    """The increase, in points, of the share of training answer tokens in an end of the histogram."""
    gained = {}
    for entry in (entry for row in named_rows(table, keys).values() for entry in row.entries):
        if measured := table.attempt(read_probabilities, entry.folder, {}):
            before, after = (_share(measured[when]["counts"], end) for when in ("before", "after"))
            gained[entry.seed] = 100 * (after - before)
    return gained


def _share(counts: list[int], end: End) -> float:
    lows = np.array(EDGES[:-1])
    return float(np.array(counts)[lows < RARE if end == End.rare else lows >= SURE].sum() / np.sum(counts))
