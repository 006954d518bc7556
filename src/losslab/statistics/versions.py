"""Problems that are versions of one another: a task in several programming languages, a figure with more or less text.

A model that solves one of them tends to solve the others. An interval that took them as independent problems would be
too short, by up to the square root of their number. So the versions of one problem, its original, are taken together,
also across benchmarks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Originals = Sequence[str] | None  # of each problem of a benchmark its original; None where each is its own


@dataclass(frozen=True)
class Versions:
    """The problems of a benchmark that are versions of others."""

    values: Floats  # (problems,)
    originals: Sequence[str]


def merged(benchmarks: Sequence[Floats], originals: Sequence[Originals]) -> tuple[list[Floats], list[int]]:
    """Benchmarks with originals in common as one: (seeds, originals) numbers, and how many benchmarks each stands for.

    Args:
        benchmarks: (seeds, problems) numbers of each; row s is the same seed in all of them.
        originals: of each of them.

    The mean of each row is the mean over the benchmarks, whatever the number of versions. The number of an original is
    that mean plus the deviations of its versions from the means of their benchmarks, weighted as in the mean and
    multiplied by the number of originals: the linear form of a ratio (Cochran, *Sampling Techniques*, 1977, equation
    6.13), whose variance over originals is that of the mean. Where all have the same number of versions, it is the mean
    of the versions.
    """
    groups: list[tuple[set[str], list[int]]] = []
    for i, of_problems in enumerate(originals):
        linked = [group for group in groups if of_problems is not None and group[0] & set(of_problems)]
        groups = [group for group in groups if group not in linked]
        names = set(of_problems or ()).union(*(names for names, _ in linked))
        groups.append((names, [*(member for _, members in linked for member in members), i]))
    groups.sort(key=lambda group: min(group[1]))
    values = [_merge([benchmarks[i] for i in members], [originals[i] for i in members]) for _, members in groups]
    return values, [len(members) for _, members in groups]


def _merge(benchmarks: Sequence[Floats], originals: Sequence[Originals]) -> Floats:
    if originals[0] is None:
        (alone,) = benchmarks
        return alone
    index = {name: i for i, name in enumerate(sorted({name for of in originals for name in of or ()}))}
    means = [values.mean(1) for values in benchmarks]
    deviations = np.zeros((len(index), len(means[0])))
    for values, of_problems, mean in zip(benchmarks, originals, means, strict=True):
        places = [index[name] for name in of_problems or ()]
        np.add.at(deviations, places, (values - mean[:, None]).T / (values.shape[1] * len(benchmarks)))
    return np.asarray(np.mean(means, axis=0)[:, None] + len(index) * deviations.T)
