"""Scores from several samples of each problem, in percent: pass@k, maj@k and the official rounding.

Arrays of verdicts are (problems, samples), 1 for right.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def sizes(samples: int) -> list[int]:
    """The numbers k of so many samples that are reported: 1, 2, 4, … and all."""
    return [k for k in (2**i for i in range(samples.bit_length())) if k < samples] + [samples]


def pass_at(correct: ArrayLike, k: int) -> float:
    """The mean of `passes` over problems, in percent."""
    right = np.asarray(correct, float)
    return 100 * float(passes(right.sum(1), right.shape[1], k).mean())


def passes(right: ArrayLike, samples: int, k: int) -> NDArray[np.float64]:
    """For each problem, of whose samples so many are right: the unbiased probability that one of k samples is right
    (Chen et al. 2021, arXiv 2107.03374, equation 1)."""
    wrong = samples - np.asarray(right, float)
    none = np.ones(len(wrong))
    for i in range(k):
        none *= np.clip(wrong - i, 0, None) / (samples - i)
    return 1 - none


def majority_at(answers: Sequence[Sequence[str]], correct: ArrayLike, k: int) -> float:
    """Accuracy of the most frequent of k answers (the earliest on a tie), over n // k disjoint groups of k samples.

    A sample without an answer has no vote.
    """
    right = np.asarray(correct, float)
    groups = len(answers[0]) // k
    hits = 0.0
    for row, marks in zip(answers, right, strict=True):
        for start in range(0, groups * k, k):
            votes = Counter(answer for answer in row[start : start + k] if answer)
            if votes:
                hits += marks[start + row[start : start + k].index(max(votes, key=votes.__getitem__))]
    return 100 * hits / (len(answers) * groups)


def rounded(correct: ArrayLike) -> float:
    """The score as the official evaluation prints it: the accuracy of each column is rounded to 0.1, then averaged."""
    return float(np.round(100 * np.asarray(correct, float).mean(0), 1).mean())
