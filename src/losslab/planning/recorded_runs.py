"""How much runs of one recipe differ, from the recorded seeds of a sweep that is planned."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from losslab.config.schema import Config
from losslab.records.reading import DamagedRecord, read_scores
from losslab.records.record import Cell
from losslab.results.right_shares import right_shares
from losslab.statistics.power import BETWEEN_RUNS, Floats

FEWEST_SEEDS = 3

OfSeeds = dict[int, dict[str, tuple[Floats, int]]]  # by seed and benchmark: as `scored`, in percent


@dataclass(frozen=True)
class Differences:
    """Of two recorded rows, in points, by benchmark."""

    values: dict[str, Floats]  # (seeds, problems)
    noise: dict[str, float]  # variance of a seed's mean difference that comes of sampling; 0 with one sample


@dataclass(frozen=True)
class Runs:
    """How much the differences between recorded rows vary from seed to seed."""

    pairs: list[Differences]

    @classmethod
    def of(cls, groups: Sequence[Sequence[Config]]) -> "Runs":
        """From the cells of one model by row: of all pairs of rows with three recorded seeds or more in common.

        Where no pair has them, each row with so many stands for the difference to an independent one, which has twice
        its variance; not where rows share a base or training rows that change with the seed, which cancel in a pair.
        """
        rows = [row for group in groups if group[0].trains and len(row := _recorded(group)) >= FEWEST_SEEDS]
        common = [(a, b, seeds) for a, b in combinations(rows, 2) if len(seeds := _common(a, b)) >= FEWEST_SEEDS]
        pairs = [_between(a, b, seeds) for a, b, seeds in common]
        config = groups[0][0]
        if not pairs and config.model.pretrain_seed is not None and config.dataset.seed is not None:
            alone = [(row, seeds) for row in rows if len(seeds := _common(row, row)) >= FEWEST_SEEDS]
            pairs = [_of_one(row, seeds) for row, seeds in alone]
        return cls(pairs)

    def variance(self, names: Sequence[str]) -> float | None:
        """Between runs, of the mean difference on these benchmarks, without the noise of sampling; None if unknown.

        What training changes on each problem by itself counts: another run changes it anew. With one sample of each
        problem its noise cannot be told apart and counts too.
        """
        if not self.pairs:
            return None
        of_pairs = []
        for pair in self.pairs:
            means = np.mean([pair.values[name].mean(1) for name in names], axis=0)
            noise = sum(pair.noise[name] for name in names) / len(names) ** 2
            of_pairs.append(float(means.var(ddof=1)) - noise)
        return max(0.0, float(np.mean(of_pairs)))

    def sentence(self, names: Sequence[str]) -> str:
        """Which variance between runs a plan takes."""
        variance = self.variance(names)
        if variance is None:
            return f"runs of one recipe differ by {BETWEEN_RUNS} points on the average of five benchmarks"
        seeds = min(len(of) for pair in self.pairs for of in pair.values.values())
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
    return {seed: {name: (100 * p, n) for name, (p, n) in of.items()} for seed, of in recorded.items() if of}


def _common(a: OfSeeds, b: OfSeeds) -> list[int]:
    """The seeds that two rows have on as many problems of the same benchmarks."""
    seeds = [seed for seed in a if seed in b and _shapes(a[seed]) == _shapes(b[seed])]
    return [seed for seed in seeds if _shapes(a[seed]) == _shapes(a[seeds[0]])]


def _shapes(of_seed: dict[str, tuple[Floats, int]]) -> dict[str, int]:
    return {name: len(shares) for name, (shares, _) in of_seed.items()}


def _between(a: OfSeeds, b: OfSeeds, seeds: Sequence[int]) -> Differences:
    names = list(a[seeds[0]])
    values = {name: np.array([b[seed][name][0] - a[seed][name][0] for seed in seeds]) for name in names}
    return Differences(values, {name: _noise(a, seeds, name) + _noise(b, seeds, name) for name in names})


def _of_one(row: OfSeeds, seeds: Sequence[int]) -> Differences:
    names = list(row[seeds[0]])
    values = {name: 2**0.5 * np.array([row[seed][name][0] for seed in seeds]) for name in names}
    return Differences(values, {name: 2 * _noise(row, seeds, name) for name in names})


def _noise(row: OfSeeds, seeds: Sequence[int], name: str) -> float:
    """The variance of a seed's mean that comes of sampling, without bias, in squared points."""
    parts = [row[seed][name] for seed in seeds]
    return float(np.mean([(p * (100 - p)).mean() / (n - 1) / len(p) if n > 1 else 0.0 for p, n in parts]))
