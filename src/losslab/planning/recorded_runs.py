"""How much runs of one recipe differ, from the recorded seeds of a sweep that is planned."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from losslab.config.schema import Config
from losslab.records.reading import DamagedRecord, read_scores
from losslab.records.record import Cell
from losslab.results.right_shares import right_shares
from losslab.statistics.intervals import with_variances
from losslab.statistics.power import BETWEEN_RUNS, Floats

FEWEST_SEEDS = 3

OfSeeds = dict[int, dict[str, Floats]]  # by seed and benchmark: the share of right samples of each problem, in percent


@dataclass(frozen=True)
class Runs:
    """The differences of two recorded rows, in points."""

    differences: list[dict[str, Floats]]  # by benchmark: (seeds, problems) of each

    @classmethod
    def of(cls, groups: Sequence[Sequence[Config]]) -> "Runs":
        """From the cells of one model by row: of all pairs of rows with three recorded seeds or more in common.

        Where no pair has them, each row with so many stands for the difference to an independent one, which has twice
        its variance; not where rows share a base or training rows that change with the seed, which cancel in a pair.
        """
        rows = [row for group in groups if group[0].trains and len(row := _recorded(group)) >= FEWEST_SEEDS]
        pairs = [(a, b, seeds) for a, b in combinations(rows, 2) if len(seeds := _common(a, b)) >= FEWEST_SEEDS]
        differences = [{name: np.array([b[s][name] - a[s][name] for s in seeds]) for name in a[seeds[0]]}
                       for a, b, seeds in pairs]  # fmt: skip
        config = groups[0][0]
        if not pairs and config.model.pretrain_seed is not None and config.dataset.seed is not None:
            for row in rows:
                first = next(iter(row))
                seeds = [seed for seed in row if _shapes(row[seed]) == _shapes(row[first])]
                differences += [{name: 2**0.5 * np.array([row[s][name] for s in seeds]) for name in row[first]}]
        return cls([each for each in differences if all(len(of) >= FEWEST_SEEDS for of in each.values())])

    def variance(self, names: Sequence[str]) -> float | None:
        """Between runs, of the mean difference on these benchmarks, without the noise of samples; None if unknown."""
        parts = [with_variances([each[name] for name in names])[1] for each in self.differences]
        known = [part.between_seeds - part.rest for part in parts if part]
        return max(0.0, float(np.mean(known))) if known else None

    def sentence(self, names: Sequence[str]) -> str:
        """Which variance between runs a plan takes."""
        variance = self.variance(names)
        if variance is None:
            return f"runs of one recipe differ by {BETWEEN_RUNS} points on the average of five benchmarks"
        seeds = min(len(of) for each in self.differences for of in each.values())
        return (
            f"differences of the average vary between runs by {variance**0.5:.2f} points (standard deviation), as "
            f"measured over {seeds} or more recorded seeds of this sweep"
        )


def scored(config: Config, cell: Cell | None = None) -> dict[str, tuple[Floats, int]]:
    """The share of right samples of each problem, and the samples, by benchmark; empty where the cell lacks a score."""
    folder = (cell or Cell.of(config)).scores(config)
    if not (folder / "scores.json").is_file():
        return {}
    try:
        content = read_scores(folder / "scores.json")
        shares = right_shares(folder, content, str(config.eval.verdict))
    except DamagedRecord:
        return {}
    if not set(config.benchmark) <= set(shares):
        return {}
    return {name: (shares[name], content["benchmarks"][name]["samples"]) for name in config.benchmark}


def _recorded(group: Sequence[Config]) -> OfSeeds:
    """The scored cells of a row."""
    cells = Cell.of_seeds(group[0], [config.seed for config in group])
    # Of a hundred thousand seeds most have no record.
    recorded = {c.seed: scored(c, cell) for c, cell in zip(group, cells, strict=True) if cell.folder.exists()}
    return {seed: {name: 100 * shares for name, (shares, _) in of.items()} for seed, of in recorded.items() if of}


def _common(a: OfSeeds, b: OfSeeds) -> list[int]:
    """The seeds that two rows have on as many problems of the same benchmarks."""
    seeds = [seed for seed in a if seed in b and _shapes(a[seed]) == _shapes(b[seed])]
    return [seed for seed in seeds if _shapes(a[seed]) == _shapes(a[seeds[0]])]


def _shapes(of_seed: dict[str, Floats]) -> dict[str, int]:
    return {name: len(shares) for name, shares in of_seed.items()}
