"""How often the intervals of losslab.statistics.intervals hold the true mean, by simulation.

python benchmarks/coverage.py [draws=10000]    the tables of results/benchmarks/coverage.md, in about five minutes
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from losslab.statistics.intervals import (
    Estimate,
    over_problems,
    over_seeds,
    over_seeds_and_problems,
    simultaneous_level,
)

RATIOS = (  # of the variance of the mean: the shares of seeds, problems and rest
    (1.0, 0.0, 0.0), (0.6, 0.3, 0.1), (0.3, 0.6, 0.1), (0.3, 0.3, 0.4), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8),
    (0.5, 0.0, 0.5), (0.0, 0.5, 0.5),
)  # fmt: skip
SCORES = (0.05, 0.1, 0.3, 0.5, 0.9)  # means of the chances


def crossed(
    seeds: int, problems: int, ratio: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """(seeds, problems) numbers with the mean 0, of which 1 is the variance of their mean, in three parts."""
    of_seeds, of_problems, rest = ratio
    return (
        rng.normal(0, (of_seeds * seeds) ** 0.5, (seeds, 1))
        + rng.normal(0, (of_problems * problems) ** 0.5, problems)
        + rng.normal(0, (rest * seeds * problems) ** 0.5, (seeds, problems))
    )


def bernoulli(problems: int, samples: int, score: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Shares of right samples of each problem; the chances of the problems are Beta distributed."""
    chances = rng.beta(score, 1 - score, problems)
    return rng.binomial(samples, chances) / samples


def coverage(draw: Callable[[], Estimate], truth: float, draws: int) -> float:
    """Percent of drawn estimates whose interval holds the truth."""
    estimates = [draw() for _ in range(draws)]
    return 100 * sum(bool(estimate.contains(truth)) for estimate in estimates) / draws


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] + ["---:"] * (len(head) - 1), *rows])


def family(seeds: int, rows: int, pairs: Sequence[tuple[int, int]], rng: np.random.Generator) -> bool:
    """Whether the intervals of these pairs of rows, all with one mean, all hold zero."""
    level, scores = simultaneous_level(len(pairs)), [crossed(seeds, 60, (0.3, 0.3, 0.4), rng) for _ in range(rows)]
    return all(over_seeds_and_problems([scores[a] - scores[b]], level).contains(0.0) for a, b in pairs)


def families(draws: int) -> str:
    """The table of simultaneous intervals."""
    rng, lines = np.random.default_rng(1), []
    for rows in (3, 5, 9):
        all_pairs = list(combinations(range(rows), 2))
        for pairs, name in ((all_pairs[: rows - 1], "a reference"), (all_pairs, "all pairs")):
            held = [np.mean([family(n, rows, pairs, rng) for _ in range(draws)]) for n in (2, 3, 4, 5)]
            lines.append([str(rows), name, *(f"{100 * share:.1f}" for share in held)])
    return table(["rows", "compared with", *(f"{n} seeds, %" for n in (2, 3, 4, 5))], lines)


def normal(seeds: int, rng: np.random.Generator) -> Estimate:
    return over_seeds(rng.normal(size=seeds))


def both_drawn(seeds: int, problems: int, ratio: tuple[float, float, float], rng: np.random.Generator) -> Estimate:
    return over_seeds_and_problems([crossed(seeds, problems, ratio, rng)])


def problems_drawn(problems: int, samples: int, score: float, rng: np.random.Generator) -> Estimate:
    return over_problems(bernoulli(problems, samples, score, rng))


def main(draws: int) -> str:
    rng = np.random.default_rng(0)
    counts = (2, 3, 4, 5)

    def percent(draw: Callable[[], Estimate], truth: float = 0.0) -> str:
        return f"{coverage(draw, truth, draws):.1f}"

    seeds = [[str(n), percent(partial(normal, n, rng))] for n in counts]
    both = []
    for ratio, problems in ((ratio, problems) for ratio in RATIOS for problems in (30, 200)):
        row = [percent(partial(both_drawn, n, problems, ratio, rng)) for n in counts]
        both.append([" : ".join(f"{share:g}" for share in ratio), str(problems), *row])
    bernoullis = []
    for problems, samples in ((30, 1), (30, 16), (100, 1), (100, 16), (500, 16)):
        row = [percent(partial(problems_drawn, problems, samples, s, rng), s) for s in SCORES]
        bernoullis.append([str(problems), str(samples), *row])
    chance = 196 * (0.95 * 0.05 / draws) ** 0.5
    parts = [
        "# Coverage of the 95% intervals",
        f"`python benchmarks/coverage.py`: percent of {draws:,} simulated estimates whose interval holds the mean, "
        f"± {chance:.1f} by chance. The estimator and its assumptions: `src/losslab/statistics/intervals.py`.",
        "## Over normal seeds",
        table(["seeds", "coverage, %"], seeds),
        "## Over seeds and problems",
        "The first column is how the variance of the mean is made up.",
        table(["seeds : problems : rest", "problems", *(f"{n} seeds, %" for n in counts)], both),
        "## Over problems, with Bernoulli samples",
        "The chance of a right sample is Beta distributed over problems; most are nearly always or never solved.",
        table(["problems", "samples", *(f"score {100 * score:g}, %" for score in SCORES)], bernoullis),
        "## Simultaneous intervals",
        f"Percent of {draws // 10:,} families of rows with one mean of which every interval holds zero; 60 problems, "
        "variances 0.3 : 0.3 : 0.4. All pairs are those of a sweep's conclusion, whose best row is picked afterwards.",
        families(draws // 10),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(main(int(dict(argument.split("=") for argument in sys.argv[1:]).get("draws", 10_000))))
