"""How often the intervals of losslab.statistics.intervals hold the true mean, by simulation.

python benchmarks/coverage.py [draws=10000]    the tables of results/benchmarks/coverage.md, in about five minutes
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from losslab.statistics.intervals import (
    Estimate,
    half_of,
    over_problems,
    over_seeds,
    over_seeds_and_problems,
    simultaneous_level,
    with_variances,
)
from losslab.statistics.racing import _pooled

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


def agreeing(
    seeds: int, ratio: tuple[float, float, float], draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Of intervals over seeds and problems, in percent: those in which the seeds are taken not to differ, and how many
    of these hold the mean. None is shorter than the one over the problems alone.
    """
    alike, held = np.zeros((2, draws), bool)
    for i in range(draws):
        values = crossed(seeds, 60, ratio, rng)
        (whole, parts), alone = with_variances([values]), over_problems(values.mean(0))
        assert parts is not None and whole.half is not None and alone.half is not None
        assert whole.half >= alone.half * (1 - 1e-9)
        alike[i], held[i] = parts.between_seeds < parts.rest, abs(whole.mean) <= whole.half
    return 100 * float(alike.mean()), 100 * float(held[alike].mean()) if alike.any() else float("nan")


def where_seeds_agree(draws: int) -> str:
    rng, lines = np.random.default_rng(2), []
    for ratio in RATIOS[1:]:  # seeds alone have no rest
        of_counts = [agreeing(seeds, ratio, draws, rng) for seeds in (2, 3, 5)]
        shares = [f"{share:.0f}" for of_count in of_counts for share in of_count]
        lines.append([" : ".join(f"{share:g}" for share in ratio), *shares])
    heads = [head for seeds in (2, 3, 5) for head in (f"{seeds} seeds, %", "of these hold, %")]
    return table(["seeds : problems : rest", *heads], lines)


def pooled(deviations: Sequence[float], seeds: int, draws: int, rng: np.random.Generator) -> list[float]:
    """Coverage of the differences of rows with one mean, in percent, on average and of the pair with the least: with
    the variance between seeds of each pair, and with one that is pooled over the rows.

    Args:
        deviations: standard deviations of the rows' averages between seeds, in points.
    """
    pairs = list(combinations(range(len(deviations)), 2))
    held = np.zeros((2, len(pairs), draws), bool)
    for i in range(draws):
        rows = [rng.normal(0, d, (seeds, 1)) + rng.normal(0, 4, 60) + rng.normal(0, 4, (seeds, 60)) for d in deviations]
        variance, degrees = _pooled(np.stack([row.mean(1) for row in rows]))
        for j, (a, b) in enumerate(pairs):
            _, parts = with_variances([rows[a] - rows[b]])
            assert parts is not None
            mean = abs(float((rows[a] - rows[b]).mean()))
            held[0, j, i] = mean <= half_of(parts, seeds)
            held[1, j, i] = mean <= half_of(replace(parts, between_seeds=variance), seeds, degrees=degrees)
    of_pairs = 100 * held.mean(2)
    return [float(value) for of_kind in of_pairs for value in (of_kind.mean(), of_kind.min())]


def over_rows(draws: int) -> str:
    rng, lines = np.random.default_rng(3), []
    for deviations in ((1, 1, 1, 1), (0.5, 1, 1, 1), (1, 1, 1, 3), (1, 1, 1, 1, 1, 1, 1, 5)):
        shares = (f"{share:.1f}" for share in pooled(deviations, 3, draws, rng))
        lines.append([", ".join(f"{d:g}" for d in deviations), *shares])
    return table(["points between seeds", "each pair's own, %", "least, %", "pooled, %", "least, %"], lines)


def normal(seeds: int, rng: np.random.Generator) -> Estimate:
    return over_seeds(rng.normal(size=seeds))


def both_drawn(seeds: int, problems: int, ratio: tuple[float, float, float], rng: np.random.Generator) -> Estimate:
    return over_seeds_and_problems([crossed(seeds, problems, ratio, rng)])


def problems_drawn(problems: int, samples: int, score: float, rng: np.random.Generator) -> Estimate:
    return over_problems(bernoulli(problems, samples, score, rng))


def versions_drawn(
    seeds: int, benchmarks: int, copies: int, common: float, together: bool, rng: np.random.Generator
) -> Estimate:
    """The mean over benchmarks that each have `copies` versions of the same 150 problems; its truth is 0."""
    shared = rng.normal(size=(150, 1)) * common**0.5
    names = [f"task/{i // copies}" for i in range(150 * copies)]
    values = [
        (shared + rng.normal(size=(150, copies)) * (1 - common) ** 0.5).ravel()
        + 0.5 * rng.normal(size=(seeds, 150 * copies))
        for _ in range(benchmarks)
    ]
    return over_seeds_and_problems(values, originals=[names if together else None] * benchmarks)


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
    tasks = []
    for common in (0.0, 0.3, 0.8):
        row = [
            percent(partial(versions_drawn, n, benchmarks, copies, common, together, rng))
            for benchmarks, copies, n in ((8, 1, 1), (8, 1, 3), (1, 5, 1), (1, 5, 3))
            for together in (False, True)
        ]
        tasks.append([f"{common:g}", *row])
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
        "## Versions of one problem",
        "Each of 150 problems is in eight benchmarks, as in eight languages, or five times in one; the first column is "
        "the share of the variance between problems that its versions have in common. Taken as independent problems, "
        "and taken together, which is what losslab does.",
        table(
            [
                "in common",
                *(
                    f"{what}, {how}, %"
                    for what in (
                        "8 benchmarks, 1 seed",
                        "8 benchmarks, 3 seeds",
                        "5 in one, 1 seed",
                        "5 in one, 3 seeds",
                    )
                    for how in ("apart", "together")
                ),
            ],
            tasks,
        ),
        "## Simultaneous intervals",
        f"Percent of {draws // 10:,} families of rows with one mean of which every interval holds zero; 60 problems, "
        "variances 0.3 : 0.3 : 0.4. All pairs are those of a sweep's conclusion, whose best row is picked afterwards.",
        families(draws // 10),
        "## Where seeds agree by chance",
        "Of 95% intervals over seeds and 60 problems: in how many the seeds' means vary less than the rest makes them, "
        "so that the seeds are taken not to differ, and how many of these hold the mean.",
        where_seeds_agree(draws),
        "## With a variance between seeds that is pooled over the rows",
        "Coverage of the differences between rows of three seeds and 60 problems, on average over the pairs and of the "
        "pair with the least: by the variance of each pair, and by one that is pooled over all rows.",
        over_rows(draws // 2),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(main(int(dict(argument.split("=") for argument in sys.argv[1:]).get("draws", 10_000))))
