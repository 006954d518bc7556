"""Statistical power: the smallest difference that a sweep can show, and the number of seeds that a difference takes.

The paired difference of two rows over S seeds and the problems of the benchmarks follows the model of
`losslab.statistics.intervals`. Its mean is normal with variance

    V = between_seeds / S + problems

and a difference is shown if the interval, whose level may be corrected for many rows, excludes zero. A true difference
d is shown with probability

    E [ Phi((d - half) / sqrt(V)) + Phi((-d - half) / sqrt(V)) ]

with the expectation over `half`, half of the interval: the estimated variance between S seeds is the true one times a
chi-squared variable with S - 1 degrees of freedom divided by S - 1, while the variance of the many problems is treated
as known. (The usual (t_level + t_power) sqrt(V) of Bloom, Evaluation Review 19, 1995, treats `half` as fixed, and is
too small with two or three seeds.) With one seed each, no difference between two recipes can be shown.

`assumed` gives the variances before a difference has been measured, after Miller, *Adding Error Bars to Evals* (arXiv
2411.00640, section on power): over P problems with K samples each,

    V = (omega^2 + sigma_a^2 / K + sigma_b^2 / K) / P,    omega^2 = Var(a) + Var(b) - 2 Cov(a, b)

with omega^2 the variance of the true difference over problems, and sigma^2 the mean of p (1 - p) over problems. Each
seed has its own K samples, so the sigmas are part of `between_seeds`, its `rest`, added to the variance between runs.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import erf

import numpy as np
from numpy.typing import NDArray

from losslab.statistics.intervals import LEVEL, MOST_POINTS, Variances, half_of

POWER = 0.8
MORE_SEEDS = 5
MOST_SEEDS = 100  # largest number of seeds that is reported
# Standard deviation of the average of five benchmarks between runs of one recipe, in points, including the noise of 16
# samples: reported to the authors of arXiv 2508.05629, their repository's issue 33.
BETWEEN_RUNS = 0.41
BENCHMARKS_OF_RUNS = 5
# Correlation of two models' success probabilities over problems: 0.3 to 0.7 between frontier models (arXiv 2411.00640).
# Two fine-tunings of one model are more alike, so this is conservative.
CORRELATION = 0.5
GRID = 128  # points of the distribution of a standard deviation

Floats = NDArray[np.float64]


def between_runs(benchmarks: int) -> float:
    """Variance between seeds of the difference of two rows, in squared points, assumed if no record gives it.

    Each row has the variance between runs of one recipe, and the two are independent; with fewer than five benchmarks
    the variance of the average grows as for independent benchmarks.
    """
    return 2 * BETWEEN_RUNS**2 * BENCHMARKS_OF_RUNS / benchmarks


def assumed(chances: Sequence[Floats], samples: Sequence[int], runs: float | None = None) -> Variances:
    """Variances of the mean difference of two rows whose models are as good as a scored one, in squared points.

    Args:
        chances: for each benchmark, each problem's probability of a right sample, between 0 and 1.
        samples: for each benchmark, the samples of each problem per seed.
        runs: variance between runs of the difference, without the noise of samples, where it was measured.
    """
    count = len(chances)
    omega = [2 * (1 - CORRELATION) * float(p.var(ddof=1)) for p in chances]
    sigma = [float((p * (1 - p)).mean()) for p in chances]
    scale = [1e4 / len(p) / count**2 for p in chances]  # to squared points of the average
    noise = sum(2 * s / n * c for s, n, c in zip(sigma, samples, scale, strict=True))
    problems = tuple((o * c, len(p) - 1) for o, c, p in zip(omega, scale, chances, strict=True))
    return Variances((between_runs(count) if runs is None else runs) + noise, problems, noise)


def true_chances(shares: Floats, samples: int) -> Floats:
    """Success probabilities of problems: the mean of their shares of right samples, and the variance of the true ones.

    Shares of `samples` answers vary more than the true probabilities, by the mean of p (1 - p) / samples; shrinking
    them to their mean removes this. A single sample determines only the mean: then the result is uniform around it, as
    wide as fits between 0 and 1.
    """
    mean, total = float(shares.mean()), float(shares.var(ddof=1))
    if samples == 1:
        width = min(mean, 1 - mean)
        return np.linspace(mean - width, mean + width, len(shares))
    noise = float((shares * (1 - shares)).mean()) / (samples - 1)
    shrink = max(0.0, 1 - noise / total) ** 0.5 if total else 0.0
    return mean + shrink * (shares - mean)


def uniform_chances(problems: int) -> Floats:
    """The assumption for a benchmark without scores: success probabilities spread evenly from 0 to 1."""
    return (np.arange(problems) + 0.5) / problems


def chance_to_show(difference: float, variances: Variances, seeds: int, level: float = LEVEL) -> float:
    """The probability that the interval of a true difference over `seeds` seeds excludes zero, on either side.

    0 with one seed, since the variance between seeds is then unknown.
    """
    if seeds < 2:
        return 0.0
    if not (deviation := _deviation(variances, seeds)):
        return float(difference != 0)
    halves, weights = _halves(variances, seeds, level)
    chances = [_normal((difference - h) / deviation) + _normal((-difference - h) / deviation) for h in halves]
    return float(np.dot(weights, chances))


def detectable(variances: Variances, seeds: int, level: float = LEVEL) -> float | None:
    """The smallest true difference in points that is shown with probability POWER.

    None where no difference of two scores is: with one seed, or where it would be above MOST_POINTS.
    """
    if seeds < 2:
        return None
    low, high = 0.0, _deviation(variances, seeds)
    while high and chance_to_show(high, variances, seeds, level) < POWER:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if chance_to_show(middle, variances, seeds, level) >= POWER else (middle, high)
    return high if high <= MOST_POINTS else None


def seeds_for(difference: float, variances: Variances, level: float = LEVEL) -> int | None:
    """The fewest seeds that show a true difference with probability POWER; None if MOST_SEEDS do not."""
    enough = range(2, MOST_SEEDS + 1)
    if chance_to_show(difference, variances, MOST_SEEDS, level) < POWER:
        return None
    return next(seeds for seeds in enough if chance_to_show(difference, variances, seeds, level) >= POWER)


def more_seeds(seeds: int) -> int:
    """How many seeds a plan or a conclusion names besides these: MORE_SEEDS, or twice as many."""
    return MORE_SEEDS if seeds < MORE_SEEDS else 2 * seeds


def _deviation(variances: Variances, seeds: int) -> float:
    """Standard deviation of the mean difference over `seeds` seeds."""
    return (variances.between_seeds / seeds + sum(part for part, _ in variances.problems)) ** 0.5


@lru_cache(maxsize=256)
def _halves(variances: Variances, seeds: int, level: float) -> tuple[list[float], Floats]:
    """Halves of the interval for a grid of estimated standard deviations between seeds, and their probabilities."""
    ratios = (np.arange(GRID) + 0.5) / GRID * (1 + 6 / (2 * (seeds - 1)) ** 0.5)
    logs = (seeds - 2) * np.log(ratios) - (seeds - 1) * ratios**2 / 2  # of chi over the root of its degrees
    weights = np.exp(logs - logs.max())
    scaled = (replace(variances, between_seeds=variances.between_seeds * float(ratio) ** 2) for ratio in ratios)
    return [half_of(parts, seeds, level) for parts in scaled], weights / weights.sum()


def _normal(x: float) -> float:
    return 0.5 * (1 + erf(x / 2**0.5))
