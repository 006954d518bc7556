"""Judges the claims of a sweep: expected differences between two of its rows.

Rows are paired by seed and problem, and the 95% interval of the mean difference decides. It is over seeds and problems,
as that of a conclusion, and over seeds alone where no problems are on record: after a step, in a share of tokens, and
in older records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab.config.choices import End
from losslab.config.sweep import DirectionConfig
from losslab.data.probability_bins import EDGES, RARE, SURE
from losslab.files.csv_files import csv_text
from losslab.results.learning_curves import AVERAGE, values
from losslab.results.probability_plots import read_probabilities
from losslab.results.problem_shares import ProblemShares
from losslab.results.table_formats import MISSING, Sheet, SheetCell
from losslab.results.tables import Measure, Row, Table, declared_measures
from losslab.statistics.intervals import Estimate, over_seeds, over_seeds_and_problems

CAPTION = (
    "Differences in percentage points of the average, or of the answer tokens, with 95% intervals. A claim holds if "
    "the interval of several seeds is above zero, and is open if zero lies inside or if there is no interval, as of a "
    "few equal numbers. Intervals of averages are paired by seed and problem, for other seeds and other problems of "
    "these kinds; those of claims about a step or about tokens, and of records without problems, are for other seeds "
    "on the same problems. They are not corrected for the number of claims."
)


@dataclass(frozen=True)
class JudgedClaim:
    claim: str
    differences: dict[int, float]  # by seed: percentage points, positive where the claim is right
    estimate: Estimate | None  # the mean difference with its interval; None if no seed has both rows
    asked: int = 0  # seeds that the sweep's file declares

    @property
    def seeds(self) -> str:
        """`2/5` for two of the five seeds that were asked for."""
        count = len(self.differences)
        return f"{count}/{self.asked}" if count < self.asked else str(count)

    @property
    def outcome(self) -> str:
        mean = self.estimate
        if mean is None:
            return "not measured"
        if len(self.differences) == 1 or not mean.nonzero:  # one seed says nothing of another training
            return "open"
        return "holds" if mean.mean > 0 else "the other way round"


def judge(claim: DirectionConfig, table: Table, shares: ProblemShares) -> JudgedClaim:
    """Judge a claim by the records of a sweep, over the seeds that both rows have."""
    asked = _seeds_asked(table)
    if claim.grows is not None:
        return _over_seeds(claim.claim, _growth(table, claim.higher, claim.grows), asked)
    high, low = (named_rows(table, keys) for keys in (claim.higher, claim.lower))
    # Only scores of the same measure compare: preferably the one that the sweep's file declares.
    declared = declared_measures(table)
    shared = sorted(high.keys() & low.keys(), key=lambda measure: (measure not in declared, str(measure)))
    if not shared:
        return JudgedClaim(claim.claim, {}, None, asked)
    above, below = (rows[shared[0]] for rows in (high, low))
    if claim.step is None:
        return judge_rows(claim.claim, above, below, shares, asked)
    return _over_seeds(claim.claim, _differences(*(_at_step(table, row, claim.step) for row in (above, below))), asked)


def judge_rows(claim: str, above: Row, below: Row, shares: ProblemShares, asked: int = 0) -> JudgedClaim:
    """Judge the claim that one row is above another, problem by problem where the records of a seed have problems."""
    points = shares.points(below, above, shares.table.benchmarks)
    if points is None:
        return _over_seeds(claim, _differences(_averages(above), _averages(below)), asked)
    means = np.mean([benchmark.mean(1) for benchmark in points.benchmarks], axis=0)
    differences = {seed: float(mean) for seed, mean in zip(points.seeds, means, strict=True)}
    estimate = over_seeds_and_problems(points.benchmarks, originals=points.originals)
    return JudgedClaim(claim, differences, estimate, asked)


def _over_seeds(claim: str, differences: dict[int, float], asked: int) -> JudgedClaim:
    return JudgedClaim(claim, differences, over_seeds([*differences.values()]) if differences else None, asked)


def _differences(above: Mapping[int, float], below: Mapping[int, float]) -> dict[int, float]:
    return {seed: above[seed] - below[seed] for seed in sorted(above.keys() & below.keys())}


def judged(table: Table, shares: ProblemShares) -> list[JudgedClaim]:
    """All claims of a sweep."""
    return [judge(claim, table, shares) for claim in table.sweep.directions]


def sheet(claims: Sequence[JudgedClaim]) -> Sheet:
    """The claims of a sweep as a table."""
    texts = []
    for claim in claims:
        difference = f"{claim.estimate:.2f}" if claim.estimate else MISSING
        texts.append([claim.claim, claim.outcome, difference, claim.seeds])
    head = ["claim", "outcome", "difference", "seeds"]
    return Sheet("Claims", "", head, [[SheetCell(text) for text in row] for row in texts], CAPTION, [])


def to_csv(claims: Sequence[JudgedClaim]) -> str:
    """CSV of the claims: the mean difference, half of its interval, and the number of seeds.

    The outcome keeps the column's name of earlier files, `verdict`.
    """
    rows = []
    for claim in claims:
        mean = claim.estimate
        rows.append([claim.claim, claim.outcome, mean and mean.mean, mean and mean.half, len(claim.differences)])
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


def _averages(row: Row) -> dict[int, float]:
    """The average score of each seed's cell, in percent."""
    return {entry.seed: entry.scores[AVERAGE].mean for entry in row.entries if AVERAGE in entry.scores}


def _at_step(table: Table, row: Row, step: int) -> dict[int, float]:
    """Likewise after some steps of training."""
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
