"""Means and paired differences with 95% intervals: the one estimator behind tables, reports, comparisons and claims.

The model. A score y[s, p] of seed s on problem p (the share of right samples, or the paired difference of two shares)
is mu + seed[s] + problem[p] + rest[s, p], all of them independent and normal: a two-way random model without
replication (Searle, Casella & McCulloch, *Variance Components*, 1992). Seeds are the same on all benchmarks; the
problems of a benchmark are drawn independently of another's, except that the versions of one problem are taken together
(`losslab.statistics.versions`). The variance of the mean has two estimated parts:

    seeds:     the variance of the seeds' means / number of seeds                     S - 1 degrees of freedom
    problems:  the variance of the problems' means / number of problems, less what    P - 1 degrees of freedom
               the rest contributes to it, and not below zero; summed over benchmarks

With t_s and t_p the quantiles of Student's t at these degrees of freedom and r the part of the seeds in the variance V,
half of the interval is

    sqrt(V * (t_p^2 + (t_s^2 - t_p^2) * w)),    w = r^2 / (r^2 + 1 - r)

w = r is Banerjee's interval (Sankhya 22, 1960), which covers the mean at least as often as its level says, and at 95%
with two seeds up to 98.7% of the time; this w takes the excess away. At the higher levels of simultaneous intervals its
error rate would be up to 1.7 times the nominal one, so those use w = r. The usual approximation (Satterthwaite,
Biometrics Bulletin 2, 1946) covers the mean at 95% in 87% of the cases with two seeds and in 92% with three.

Where the seeds' means vary less than the rest alone would make them, the estimate of the variance of seed[s] is zero,
as usual in analysis of variance: the seeds are taken not to differ, and the interval is the one over the problems, of
the means of the seeds. At the levels of simultaneous intervals it is the longer of the two. So no interval is shorter
than the one over the problems alone, however well a few seeds agree by chance.

A few equal numbers do not tell how much others would differ: equal values of several seeds have no interval, and
neither have fewer than 30 numbers of seeds and problems that are all equal.

What an interval covers. That of several seeds and problems: another seed (order of the data, sampling), other problems
of the same kind, other samples. That over problems alone, where there is one seed: other problems and other samples of
the same trained model, and not another training. That over seeds alone: another seed on these very problems. None
covers another model, data set or recipe, nor the choice of the best of several rows: `simultaneous_level` does that.

Coverage, by simulation (benchmarks/coverage.py, results/benchmarks/coverage.md), where 95% is meant:

    2 to 5 normal seeds                                         94.8 to 95.6%
    seeds and problems, whatever the ratio of their variances   94.1 to 97.3% with 3 or more seeds, 92.4 to 97.1% with 2
    problems alone, Bernoulli samples, a score of 30 to 50%     94.2 to 95.5% on 30 or more problems
    the same, a score of 10 to 90%                              94.5 to 95.1% on 500 problems, 93 to 95% on 100

A score near 0 or 100% on few problems has an interval that is too short: 30 problems at 5% are covered in 78 to 83% of
the cases.

A variance between seeds that is pooled over the rows would not keep this: where one row varies three (five) times as
much as the others, the interval of its difference to another covers 89% (74%).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from losslab.statistics.versions import Originals, Versions, merged

LEVEL = 0.95
MOST_POINTS = 100.0  # no two scores in percent differ by more
FEW = 30  # numbers of seeds and problems: if fewer are all equal, there is no interval
EQUAL = 1e-9  # half of an interval that is zero but for rounding
Shares = Mapping[str, ArrayLike]  # of each benchmark: (seeds, problems) shares of right samples


@dataclass(frozen=True)
class Estimate:
    mean: float
    half: float | None = None  # of the interval; None where one value, or a few equal ones, give no variance

    @classmethod
    def recorded(cls, mean: float, interval: Sequence[float] | None) -> "Estimate":
        """From [low, high] of a scores.json, as `read_scores` gives it."""
        return cls(mean, None if interval is None else (interval[1] - interval[0]) / 2)

    @property
    def low(self) -> float:
        return self.mean - (np.inf if self.half is None else self.half)

    @property
    def high(self) -> float:
        return self.mean + (np.inf if self.half is None else self.half)

    @property
    def nonzero(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.half is not None and abs(self.mean) > self.half

    def contains(self, value: float) -> bool | None:
        """Whether a value lies inside the interval; None without an interval."""
        return None if self.half is None else self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self}"

    def __format__(self, spec: str) -> str:
        """Mean ± half of the interval, each in the given format of a number; with one decimal where none is given."""
        spec = spec or ".1f"
        half = "" if self.half is None else f" ± {abs(self.half):{spec.lstrip('+')}}"  # which has no sign
        return f"{self.mean:{spec}}{half}"


def over_seeds(values: Sequence[float] | NDArray[np.float64], level: float = LEVEL) -> Estimate:
    """The mean of one number for each seed; the problems are taken as they are. Equal numbers have no interval."""
    x = np.asarray(values, float)
    if len(x) == 1:
        return Estimate(float(x[0]))
    half = _half(float(x.var(ddof=1)) / len(x), len(x) - 1, [], level)
    return Estimate(float(x.mean()), half if half > EQUAL else None)


def over_problems(values: Sequence[float] | NDArray[np.float64], originals: Originals = None) -> Estimate:
    """The mean of one number for each problem, at least one, from a single seed."""
    return over_seeds_and_problems([np.asarray(values, float)[None]], originals=[originals])


def over_seeds_and_problems(
    benchmarks: Sequence[NDArray[np.float64]], level: float = LEVEL, originals: Sequence[Originals] | None = None
) -> Estimate:
    """The mean over benchmarks, each with the same weight.

    Args:
        benchmarks: (seeds, problems) numbers of each; row s is the same seed in all of them.
        level: of the interval.
        originals: of each benchmark, where some problems are versions of one another.

    There is no interval where a benchmark has a single problem, or where fewer than FEW numbers are all equal.
    With one seed, `rest` counts with the problems.
    """
    return with_variances(benchmarks, level, originals)[0]


@dataclass(frozen=True)
class _Parts:
    """What the estimate of a mean needs of (seeds, problems) numbers."""

    seeds: NDArray[np.float64]  # their means
    problems: float | None  # their part in the variance of the mean; None where there is one problem
    degrees: int
    rest: float = 0.0  # its part in the variance of a seed's mean


def _parts(values: NDArray[np.float64]) -> _Parts:
    """Sums of squares of a two-way layout: seeds, problems, and the rest, which is what these leave of the total."""
    seeds, problems = values.shape
    mean = values.mean()
    centred = values - mean
    of_seeds, of_problems = centred.mean(1), centred.mean(0)
    if problems == 1:
        return _Parts(of_seeds + mean, None, 0)
    squares_of_problems = float(of_problems @ of_problems)
    variance, rest = squares_of_problems / (problems - 1) / problems, 0.0
    if seeds > 1:
        total, squares_of_seeds = float(np.vdot(centred, centred)), float(of_seeds @ of_seeds)
        squares = max(0.0, total - problems * squares_of_seeds - seeds * squares_of_problems)
        rest = squares / ((seeds - 1) * (problems - 1) * problems)
    return _Parts(of_seeds + mean, max(0.0, variance - rest / seeds), problems - 1, rest)


@dataclass(frozen=True)
class Variances:
    """The variance of a mean over benchmarks, as a design needs it: in squared units of the numbers."""

    between_seeds: float  # of the mean of a single seed; that of several is divided by their number
    problems: tuple[tuple[float, int], ...]  # of each benchmark its part, which seeds do not lower, and its degrees
    rest: float = 0.0  # the part of the rest in `between_seeds`, which is all of it where seeds do not differ


def with_variances(
    benchmarks: Sequence[NDArray[np.float64]], level: float = LEVEL, originals: Sequence[Originals] | None = None
) -> tuple[Estimate, Variances | None]:
    """As `over_seeds_and_problems`, with the variances of the mean; None where a benchmark has one problem.

    One seed does not vary: `between_seeds` is then 0 and says nothing.
    """
    weights = [1] * len(benchmarks)
    if originals is not None:
        benchmarks, weights = merged(benchmarks, originals)
    return _mean_over([_parts(values) for values in benchmarks], weights, level)


def _mean_over(benchmarks: Sequence[_Parts], weights: Sequence[int], level: float) -> tuple[Estimate, Variances | None]:
    """The weighted mean over benchmarks with the same seeds, and its variances."""
    shares = np.array(weights) / sum(weights)
    seeds = np.average([part.seeds for part in benchmarks], axis=0, weights=weights)
    of_problems = [(part.problems, part.degrees) for part in benchmarks]
    problems = [
        (of * share**2, degrees) for (of, degrees), share in zip(of_problems, shares, strict=True) if of is not None
    ]
    mean = float(seeds.mean())
    if len(problems) < len(benchmarks):
        return Estimate(mean), None
    rest = float(shares**2 @ [part.rest for part in benchmarks])
    parts = Variances(float(seeds.var(ddof=1)) if len(seeds) > 1 else 0.0, tuple(problems), rest)
    half = half_of(parts, len(seeds), level)
    few = len(seeds) * sum(degrees + 1 for _, degrees in problems) < FEW
    return Estimate(mean, None if few and half <= EQUAL else half), parts


def half_of(parts: Variances, seeds: int, level: float = LEVEL, degrees: int | None = None) -> float:
    """Half of the interval of a mean over so many seeds, given its variances; with one over the problems alone.

    `degrees` are those of `between_seeds` where it is pooled over more than these seeds.
    """
    of_seeds = max(1, seeds - 1) if degrees is None else degrees
    between, rest = parts.between_seeds / seeds, parts.rest / seeds
    half = _half(between, of_seeds, parts.problems, level)
    if between >= rest:
        return half
    alone = (rest + sum(variance for variance, _ in parts.problems)) ** 0.5 * student(_pooled(parts.problems), level)
    return max(half, alone) if level > LEVEL else alone


def _half(seeds: float, degrees: int, problems: Sequence[tuple[float, int]], level: float = LEVEL) -> float:
    """From the parts of the variance of the mean: that of the seeds, and (variance, degrees) of each benchmark."""
    total = seeds + sum(variance for variance, _ in problems)
    if total == 0:
        return 0.0
    ratio = seeds / total
    weight = ratio if level > LEVEL else ratio**2 / (ratio**2 + 1 - ratio)
    square = 0.0
    if weight < 1:
        square += (1 - weight) * student(_pooled(problems), level) ** 2
    if weight > 0:
        square += weight * student(degrees, level) ** 2
    return float((total * square) ** 0.5)


def _pooled(parts: Sequence[tuple[float, int]]) -> int:
    """Degrees of freedom of a sum of variances (Satterthwaite): near enough where each has many."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return min(degrees for _, degrees in parts)
    return max(1, int(total**2 / sum(variance**2 / degrees for variance, degrees in parts) + 1e-6))  # 58.999999 is 59


def over_clusters(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> Estimate:
    """The mean of numbers that come in clusters, as tokens in examples, given the (clusters,) sums and counts.

    Clusters are drawn, and what is in one depends on the rest of it: the interval is that of a ratio of two means, made
    linear (Cochran, *Sampling Techniques*, 1977, equation 6.13). At least one cluster has to count something.
    """
    mean = float(sums.sum() / counts.sum())
    rest = (sums - mean * counts) / counts.mean()
    degrees = len(rest) - 1
    return Estimate(mean, _half(float(rest.var(ddof=1)) / len(rest), degrees, []) if degrees else None)


def paired(a: Shares, b: Shares, originals: Mapping[str, Originals] | None = None) -> dict[str, Estimate]:
    """How much better b is than a on each benchmark, and on their mean as `average`, in points of percent.

    Row s of every array is the same seed in a and b, column p the same problem, so that what a seed or a problem does
    to both cancels. Raises ValueError where the shapes say that they are not the same.
    """
    if list(a) != list(b) or any(np.shape(a[name]) != np.shape(b[name]) for name in a):
        raise ValueError("only rows with the same benchmarks, problems and seeds compare")
    points = {name: 100 * (np.asarray(b[name], float) - np.asarray(a[name], float)) for name in a}
    of = {name: (originals or {}).get(name) for name in a}
    estimates = {name: over_seeds_and_problems([part], originals=[of[name]]) for name, part in points.items()}
    return estimates | {"average": over_seeds_and_problems([*points.values()], originals=[*of.values()])}


def simultaneous_level(comparisons: int) -> float:
    """The level of each of several intervals that are simultaneous at 95%, whatever their correlation.

    It is 0.95 ** (1 / comparisons) (Sidak, JASA 62, 1967). A row that is picked for its mean needs the number of all
    pairs of rows, k (k - 1) / 2 of k, since each might have been the one that is picked. Of rows that are compared with
    one reference the intervals are 1 to 3% longer than Dunnett's (JASA 50, 1955), which takes all variances as equal
    and no seed or problem as shared.
    """
    return LEVEL ** (1 / max(1, comparisons))


def over_benchmarks(estimates: Mapping[str, Estimate], versions: Mapping[str, Versions]) -> Estimate:
    """The mean over benchmarks of one seed, each with the same weight; those with `versions` are estimated together."""
    linked = [versions[name] for name in estimates if name in versions]
    arrays, weights = merged([each.values[None] for each in linked], [each.originals for each in linked])
    together = [over_seeds_and_problems([values]) for values in arrays]
    alone = [estimate for name, estimate in estimates.items() if name not in versions]
    shares = np.array([*weights, *[1] * len(alone)]) / len(estimates)
    halves = [estimate.half for estimate in (*together, *alone)]
    given = [half for half in halves if half is not None]
    # The mean is exactly that of the estimates, so that equal scores stay equal.
    mean = float(np.mean([estimate.mean for estimate in estimates.values()]))
    return Estimate(mean, float(np.linalg.norm(shares * given)) if len(given) == len(halves) else None)


@lru_cache(maxsize=1024)
def student(degrees: int, level: float = LEVEL) -> float:
    """The x for which |t| <= x with the given probability, t being Student's with so many degrees of freedom.

    With t = sqrt(n) tan(u), the density of u is proportional to cos(u) ** (n - 1), whose integral is computed.
    """
    end = np.pi / 2 if degrees < 30 else np.arctan(12 / degrees**0.5)
    angles = np.linspace(0, end, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    integral = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(degrees**0.5 * np.tan(np.interp(level, integral / integral[-1], angles)))
