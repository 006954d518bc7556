"""Paired differences between rows of a table, problem by problem, over the seeds that both have."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losslab.records.reading import read_scores
from losslab.results.learning_curves import AVERAGE
from losslab.results.load_records import CellScores, problem_hashes
from losslab.results.right_shares import right_shares
from losslab.results.tables import Row, Table
from losslab.statistics.intervals import LEVEL, Estimate, over_seeds_and_problems
from losslab.statistics.versions import Originals


@dataclass(frozen=True)
class ScoredProblems:
    """The samples of one cell under one protocol, problem by problem."""

    problems: dict[str, str]  # the hash of each benchmark's problems
    shares: dict[str, NDArray[np.float64]]  # of right samples of each problem, by benchmark
    originals: dict[str, list[str]] = field(default_factory=dict)  # of benchmarks with versions of problems

    @cached_property
    def versions(self) -> dict[str, tuple[str, int]]:
        """The hash and the number of each benchmark's problems: equal where two cells have the same problems."""
        return {name: (self.problems[name], len(shares)) for name, shares in self.shares.items()}


@dataclass(frozen=True)
class Points:
    """The difference of two rows in percentage points, paired by seed and problem."""

    seeds: list[int]
    benchmarks: list[NDArray[np.float64]]  # (seeds, problems) of each
    originals: list[Originals]


@dataclass(frozen=True)
class Difference:
    """The mean differences of two rows, in percentage points."""

    seeds: list[int]  # in which both have all of the table's benchmarks; where there is none, that both have
    columns: dict[str, Estimate]  # by the names of the table's columns, where their problems are the same


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
        return self.at(entry.scores_folder)


class ProblemShares:
    """Reads the share of right samples of each problem for the cells of a table, each once."""

    def __init__(self, table: Table, scores: Scores | None = None) -> None:
        self.table, self.scores = table, scores or Scores(table)
        self.cells: dict[tuple[Path, str], ScoredProblems] = {}
        # By id(row); the row is held, so that no other gets its id.
        self.rows: dict[int, tuple[Row, dict[int, ScoredProblems]]] = {}
        # Of each benchmark and hash of its problems, from any cell: earlier records of the same problems have none.
        self.originals = {
            (name, entry.problems.get(name)): list(versions.originals)
            for row in table.rows
            for entry in row.entries
            for name, versions in entry.versions.items()
        }

    def of(self, entry: CellScores) -> ScoredProblems:
        """The shares of a cell; empty without scores or, in older records, without samples, which is no damage."""
        key = entry.folder, str(entry.protocol)
        if key not in self.cells:
            folder, content = entry.scores_folder, self.scores.of(entry)

            def read(_: Path) -> ScoredProblems:
                parts = content["benchmarks"].items()
                if any("right" not in part and not (folder / f"{name}.jsonl").exists() for name, part in parts):
                    return ScoredProblems({}, {})
                shares = right_shares(folder, content, content["verdict"])
                hashes = problem_hashes(folder)
                known = {name: self.originals.get((name, hashes.get(name))) for name in shares}
                originals = {name: of for name, of in known.items() if of and len(of) == len(shares[name])}
                return ScoredProblems({name: hashes.get(name, "") for name in shares}, shares, originals)

            self.cells[key] = self.table.attempt(read, folder, ScoredProblems({}, {}))
        return self.cells[key]

    def by_seed(self, row: Row) -> dict[int, ScoredProblems]:
        """The shares of a row's scored cells."""
        if id(row) not in self.rows:
            self.rows[id(row)] = row, {entry.seed: self.of(entry) for entry in row.scored}
        return self.rows[id(row)][1]

    def on_record(self, row: Row) -> bool:
        """Whether any cell of a row has shares."""
        return any(scored.shares for scored in self.by_seed(row).values())

    def points(self, a: Row, b: Row, names: Sequence[str]) -> Points | None:
        """Row b minus row a on these benchmarks, over the seeds in which both have the same problems of each of them.

        None without such a seed.
        """
        left, right = self.by_seed(a), self.by_seed(b)
        seeds = sorted(left.keys() & right.keys())
        for name in names:
            versions = {seed: left[seed].versions.get(name) for seed in seeds}
            having = [seed for seed in seeds if versions[seed] and versions[seed] == right[seed].versions.get(name)]
            seeds = [seed for seed in having if versions[seed] == versions[having[0]]]
        if not seeds or not names:
            return None
        differences = (np.array([right[s].shares[name] - left[s].shares[name] for s in seeds]) for name in names)
        originals: list[Originals] = [right[seeds[0]].originals.get(name) for name in names]
        return Points(seeds, [100 * difference for difference in differences], originals)

    def difference(self, a: Row, b: Row, level: float = LEVEL) -> Difference | None:
        """Row b minus row a in each column of the table, with intervals of this level; None without a common one.

        A benchmark's is over the seeds in which both have the same problems of it, the average's over those in which
        both have the same problems of all of the table's; without any it is left out.
        """
        of_column = {name: self.points(a, b, [name]) for name in self.table.columns}
        of_column[AVERAGE] = whole = self.points(a, b, self.table.benchmarks)
        columns = {
            name: over_seeds_and_problems(points.benchmarks, level, points.originals)
            for name, points in of_column.items()
            if points
        }
        if not columns:
            return None
        common = {entry.seed for entry in a.scored} & {entry.seed for entry in b.scored}
        return Difference(whole.seeds if whole else sorted(common), columns)


def comparable(a: Row, b: Row) -> bool:
    """Whether two different rows have the same model and measure."""
    return a is not b and a.measure is not None and (a.names["model"], a.measure) == (b.names["model"], b.measure)
