"""How much better one configuration is than another, from one or more seeds of each, paired by seed and by problem.

Hard problems are hard for both, and seeds share the order of their data, so that a paired difference is known better
than two scores. Its interval takes seeds and problems as drawn from more of both: a two-way random model without a
repeated cell (Searle, Casella & McCulloch, *Variance Components*, 1992), whose variance has the degrees of freedom of
Satterthwaite (Biometrics Bulletin 2, 1946). With one seed it is over problems alone, as that of a comparison
(`losslab.results.compare`), which draws it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from losslab.evaluation.scores import student


@dataclass(frozen=True)
class Difference:
    """In points of percent; `half` is of the 95% interval, infinite where one number says nothing of its error."""

    value: float
    half: float

    @property
    def distinct(self) -> bool:
        """Whether the interval leaves zero out."""
        return abs(self.value) > self.half


Means = Mapping[str, ArrayLike]  # of each benchmark: (seeds, problems) shares of right samples


def differences(a: Means, b: Means) -> dict[str, Difference]:
    """How much better b is than a on each benchmark, and on their mean as `average`.

    Row s of every array is the same seed, column i of a benchmark the same problem. Raises ValueError where the shapes
    say that they are not.
    """
    apart = {name: 100 * (np.asarray(b[name], float) - np.asarray(a[name], float)) for name in shared(a, b)}
    return {name: _difference([found]) for name, found in apart.items()} | {
        "average": _difference(list(apart.values()))
    }


def shared(a: Means, b: Means) -> list[str]:
    """The benchmarks, which have to be the same, of the same shape."""
    if list(a) != list(b) or any(np.shape(a[name]) != np.shape(b[name]) for name in a):
        raise ValueError("only rows with the same benchmarks, problems and seeds compare")
    return list(a)


def _difference(apart: Sequence[NDArray[np.float64]]) -> Difference:
    """Of the mean over benchmarks, given the (seeds, problems) differences of each.

    The problems of each benchmark are drawn on their own, the seeds are the same in all. What seeds and problems add
    together is counted with the seeds, which cannot differ less than that says: three that agree by chance make no
    narrow interval.
    """
    count, seeds = len(apart), np.mean([found.mean(1) for found in apart], axis=0)
    value = float(seeds.mean())
    if any(found.shape[1] == 1 for found in apart):
        return Difference(value, float("inf"))
    rests = [_rest(found) for found in apart]
    parts = [  # of the variance of the mean, with the degrees of freedom of each
        (max(0.0, float(found.mean(0).var(ddof=1)) / found.shape[1] - rest) / count**2, found.shape[1] - 1)
        for found, rest in zip(apart, rests, strict=True)
    ]
    if len(seeds) > 1:
        parts.append((max(float(seeds.var(ddof=1)) / len(seeds), sum(rests) / count**2), len(seeds) - 1))
    variance = sum(part for part, _ in parts)
    degrees = variance**2 / sum(part**2 / own for part, own in parts) if variance else 1.0
    return Difference(value, student(max(1, int(degrees))) * variance**0.5)


def _rest(found: NDArray[np.float64]) -> float:
    """The part of seeds and problems together in the variance of the mean of (seeds, problems) differences."""
    seeds, problems = found.shape
    if seeds == 1:
        return 0.0
    apart = found - found.mean(0) - found.mean(1, keepdims=True) + found.mean()
    return float(np.square(apart).sum()) / ((seeds - 1) * (problems - 1) * seeds * problems)
