"""Paired differences between rows of a table, problem by problem, over the seeds that both have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losslab.records.reading import read_scores
from losslab.results.compare import Shares, right_shares
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

        A benchmark's is over the seeds in which both have the same problems of it, the average's over those in which
        both have the same problems of all of the table's; without any it is left out.
        """
        left, right = ({entry.seed: self.of(entry) for entry in row.scored} for row in (a, b))
        common = sorted(set(left) & set(right))

        def alike(name: str) -> list[int]:
            """The seeds in which both have the same problems of a benchmark."""
            having = [seed for seed in common if same(left[seed], right[seed], name)]
            return [seed for seed in having if same(left[seed], left[having[0]], name)]

        def shares(of: dict[int, ScoredProblems], names: Sequence[str], seeds: Sequence[int]) -> Shares:
            return {name: np.stack([of[seed].shares[name] for seed in seeds]) for name in names}

        columns = {}
        for name in self.table.columns:
            if seeds := alike(name):
                columns[name] = paired(shares(left, [name], seeds), shares(right, [name], seeds), level)[name]
        benchmarks = self.table.benchmarks
        whole = [seed for seed in common if all(seed in alike(name) for name in benchmarks)] if benchmarks else []
        if not columns:
            return None
        if not whole:
            return Difference(common, columns, {})
        a_shares, b_shares = (shares(of, benchmarks, whole) for of in (left, right))
        columns[AVERAGE] = paired(a_shares, b_shares, level)[AVERAGE]
        return Difference(whole, columns, {name: 100 * (b_shares[name] - a_shares[name]) for name in benchmarks})

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
