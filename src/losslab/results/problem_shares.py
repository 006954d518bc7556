"""Paired differences between rows of a table, problem by problem, over the seeds that both have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losslab.records.reading import read_scores
from losslab.results.compare import right_shares
from losslab.results.learning_curves import AVERAGE
from losslab.results.load_records import CellScores, problem_hashes
from losslab.results.tables import Row, Table
from losslab.statistics.intervals import LEVEL, Estimate, paired


@dataclass(frozen=True)
class ScoredProblems:
    """The samples of one cell under one protocol, problem by problem."""

    problems: dict[str, str]  # the hash of each benchmark's problems
    shares: dict[str, NDArray[np.float64]]  # of right samples of each problem, by benchmark


@dataclass(frozen=True)
class Difference:
    """The difference of two rows in percentage points, paired by seed and problem."""

    seeds: list[int]  # in which both have all of the table's benchmarks; where there is none, that both have
    columns: dict[str, Estimate]  # by the names of the table's columns, where their problems are the same
    points: dict[str, NDArray[np.float64]]  # (seeds, problems) of each benchmark of the average


class Scores:
    """Reads the scores.json of cells, each once. One that cannot be used counts as empty."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.contents: dict[Path, dict[str, Any]] = {}

    def at(self, folder: Path) -> dict[str, Any]:
        """The content of scores.json in a folder of scores."""
        if folder not in self.contents:
            content = self.table.attempt(read_scores, folder / "scores.json", {})
            self.contents[folder] = {"benchmarks": {}, "warnings": [], "verdict": "official"} | content
        return self.contents[folder]

    def of(self, entry: CellScores) -> dict[str, Any]:
        return self.at(score_folder(entry))


def score_folder(entry: CellScores) -> Path:
    return entry.folder / "scores" / str(entry.protocol)


class ProblemShares:
    """Reads the share of right samples of each problem for the cells of a table, each once."""

    def __init__(self, table: Table, scores: Scores | None = None) -> None:
        self.table, self.scores = table, scores or Scores(table)
        self.cells: dict[tuple[Path, str], ScoredProblems] = {}

    def of(self, entry: CellScores) -> ScoredProblems:
        """The shares of a cell; empty without scores or, in older records, without samples."""
        key = entry.folder, str(entry.protocol)
        if key not in self.cells:
            folder, content = score_folder(entry), self.scores.of(entry)

            def read(_: Path) -> ScoredProblems:
                shares = right_shares(folder, content, content["verdict"])
                hashes = problem_hashes(folder)
                return ScoredProblems({name: hashes.get(name, "") for name in shares}, shares)

            self.cells[key] = self.table.attempt(read, folder, ScoredProblems({}, {}))
        return self.cells[key]

    def difference(self, a: Row, b: Row, level: float = LEVEL) -> Difference | None:
        """Row b minus row a, with intervals of this level; None without a common seed or column.

        The average is over the table's benchmarks, and is left out if one of them has other problems in the two rows.
        """
        cells = [{entry.seed: self.of(entry) for entry in row.scored} for row in (a, b)]
        common = sorted(set(cells[0]) & set(cells[1]))
        if not common:
            return None
        left, right = cells
        whole = [seed for seed in common if all(same(left[seed], right[seed], n) for n in self.table.benchmarks)]
        seeds = whole or common
        first = left[seeds[0]]
        names = [n for n in self.table.columns if all(same(of[seed], first, n) for of in cells for seed in seeds)]
        a_shares, b_shares = ({n: np.stack([of[seed].shares[n] for seed in seeds]) for n in names} for of in cells)
        benchmarks = self.table.benchmarks if set(self.table.benchmarks) <= set(names) else []
        columns = paired(a_shares, b_shares, level) if names else {}
        if set(names) != set(benchmarks):  # the average is over the table's benchmarks alone
            columns.pop(AVERAGE, None)
            a_means, b_means = ({name: of[name] for name in benchmarks} for of in (a_shares, b_shares))
            columns |= {AVERAGE: paired(a_means, b_means, level)[AVERAGE]} if benchmarks else {}
        if not columns:
            return None
        return Difference(seeds, columns, {name: 100 * (b_shares[name] - a_shares[name]) for name in benchmarks})

    def common_seeds(self, a: Row, b: Row) -> tuple[int, ...]:
        return tuple(sorted({entry.seed for entry in a.scored} & {entry.seed for entry in b.scored}))

    def mean_difference(self, a: Row, b: Row, names: Sequence[str], level: float = LEVEL) -> Estimate | None:
        """Row b minus row a on the mean of these benchmarks; None without a common seed, or if one is missing."""
        cells = [{entry.seed: self.of(entry) for entry in row.scored} for row in (a, b)]
        seeds = sorted(set(cells[0]) & set(cells[1]))
        if not seeds or not all(same(of[s], cells[0][seeds[0]], name) for of in cells for s in seeds for name in names):
            return None
        left, right = ({name: np.stack([of[s].shares[name] for s in seeds]) for name in names} for of in cells)
        return paired(left, right, level)[AVERAGE]


def comparable(a: Row, b: Row) -> bool:
    """Whether two different rows have the same model and measure."""
    return a is not b and a.measure is not None and (a.names["model"], a.measure) == (b.names["model"], b.measure)


def same(a: ScoredProblems, b: ScoredProblems, name: str) -> bool:
    """Whether both cells have the same problems of a benchmark."""
    both = name in a.shares and name in b.shares
    return both and a.problems[name] == b.problems[name] and len(a.shares[name]) == len(b.shares[name])
