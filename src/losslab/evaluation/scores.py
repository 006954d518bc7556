"""From verdicts to scores with their uncertainty. Accuracies and shares are in percent.

All arrays of verdicts are (problems, samples).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NORMAL = 1.959964  # 97.5% quantiles
STUDENT = [
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
]  # fmt: skip
DRAWS = 10_000

Interval = list[float]  # low, high


def summary(records: Sequence[Mapping[str, Any]], k: int, verdict: str) -> dict[str, Any]:
    """The scores of one benchmark from its records, over the first `k` samples of each problem.

    `verdict` is `official` or `corrected`. Intervals are at 95%: the one over problems takes the problems as drawn from
    a larger set and is normal; the one over seeds takes the problems as given and their `k` samples as repeated runs.
    """
    samples = [record["samples"][:k] for record in records]
    verdicts = ("official", "corrected")
    right = {name: np.array([[s[name] for s in row] for row in samples], dtype=float) for name in verdicts}
    correct = right[verdict]
    flat = [sample for row in samples for sample in row]
    sizes = [n for n in (2**i for i in range(k.bit_length())) if n < k] + [k]
    return {
        "problems": len(records),
        "samples": k,
        "score": 100 * float(correct.mean()),
        "interval": over_problems(correct),
        "interval_over_seeds": over_seeds(correct),
        "official": 100 * float(right["official"].mean()),
        "corrected": 100 * float(right["corrected"].mean()),
        "rounded": rounded(correct),
        "first_sample": 100 * float(correct[:, 0].mean()),
        "pass_at": {str(n): pass_at(correct, n) for n in sizes},
        "maj_at": {str(n): majority_at([[s["extracted"] for s in row] for row in samples], correct, n) for n in sizes},
        "only_official": int(((right["official"] == 1) & (right["corrected"] == 0)).sum()),
        "only_corrected": int(((right["official"] == 0) & (right["corrected"] == 1)).sum()),
        "without_answer": share(not s["extracted"] for s in flat),
        "cut_by_length": share(s["finish_reason"] == "length" for s in flat),
        "mean_tokens": float(np.mean([s["tokens"] for s in flat])),
        "timed_out": sum(s["timed_out"] for s in flat),
        "too_long": sum(row[0]["finish_reason"] == "too_long" for row in samples),
        **_seen(records, correct),
    }


def _seen(records: Sequence[Mapping[str, Any]], correct: NDArray[np.float64]) -> dict[str, Any]:
    """How many problems stand in the training data, and the score on the others; None where that is not known."""
    known = [record["seen"] for record in records if record.get("seen") is not None]
    if len(known) < len(records):
        return {"seen_exact": None, "seen_words": None, "unseen": None}
    others = correct[[not kinds for kinds in known]]
    counts = {f"seen_{kind}": sum(kind in kinds for kinds in known) for kind in ("exact", "words")}
    return counts | {"unseen": 100 * float(others.mean()) if len(others) else None}


def average(benchmarks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over benchmarks, each with the same weight; its interval takes them as independent."""
    rows = list(benchmarks.values())
    score = float(np.mean([row["score"] for row in rows]))
    half = float(np.sqrt(sum(((row["interval"][1] - row["interval"][0]) / 2) ** 2 for row in rows))) / len(rows)
    names = ("official", "corrected", "rounded")
    return {
        "score": score,
        "interval": [score - half, score + half],
        **{name: float(np.mean([row[name] for row in rows])) for name in names},
    }


def over_problems(correct: ArrayLike) -> Interval:
    """Normal interval of the mean of the problems' means."""
    means = np.asarray(correct, float).mean(1)
    return _around(means, NORMAL)


def over_seeds(correct: ArrayLike) -> Interval | None:
    """Student interval of the mean of the columns (one sample of each problem); None with a single column."""
    columns = np.asarray(correct, float).mean(0)
    return None if len(columns) == 1 else _around(columns, student(len(columns) - 1))


def student(degrees: int) -> float:
    """The 97.5% quantile of Student's t; beyond the table by its expansion around the normal one."""
    if degrees <= len(STUDENT):
        return STUDENT[degrees - 1]
    z = NORMAL
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _around(values: NDArray[np.float64], quantile: float) -> Interval:
    mean = 100 * float(values.mean())
    half = 100 * quantile * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    return [mean - half, mean + half]


def rounded(correct: ArrayLike) -> float:
    """As the official evaluation prints it: the accuracy of each column rounded to 0.1, then the mean of these."""
    return float(np.round(100 * np.asarray(correct, float).mean(0), 1).mean())


def pass_at(correct: ArrayLike, k: int) -> float:
    """Unbiased chance that one of k samples is right (Chen et al. 2021, arXiv 2107.03374, equation 1)."""
    right = np.asarray(correct, float)
    n = right.shape[1]
    wrong = n - right.sum(1)
    none = np.ones(len(right))
    for i in range(k):
        none *= np.clip(wrong - i, 0, None) / (n - i)
    return 100 * float((1 - none).mean())


def majority_at(answers: Sequence[Sequence[str]], correct: ArrayLike, k: int) -> float:
    """Accuracy of the most frequent of k answers, the earliest on a tie; over the n // k disjoint groups of k samples.

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


def share(conditions: Any) -> float:
    values = [bool(condition) for condition in conditions]
    return 100 * sum(values) / len(values)


def paired_difference(
    a: Mapping[str, ArrayLike], b: Mapping[str, ArrayLike], seed: int = 0, draws: int = DRAWS
) -> dict[str, dict[str, Any]]:
    """How much better b is than a on each benchmark and on their average, in points, problem by problem.

    The 95% intervals are percentiles of a paired bootstrap over problems: each draw takes the same problems of both.

    Args:
        a, b: (problems, samples) verdicts of each benchmark; the numbers of samples may differ.

    Raises:
        ValueError: not the same benchmarks, or not the same number of problems.
    """
    if set(a) != set(b):
        raise ValueError(f"only runs on the same benchmarks compare: {', '.join(a)} and {', '.join(b)}")
    rng = np.random.default_rng(seed)
    result, all_draws = {}, []
    for name in sorted(a):
        left, right = (np.asarray(x, float).mean(1) for x in (a[name], b[name]))
        if len(left) != len(right):
            raise ValueError(f"{name}: {len(left)} and {len(right)} problems; only runs on the same problems compare")
        difference = 100 * (right - left)
        means = difference[rng.integers(len(difference), size=(draws, len(difference)))].mean(1)
        all_draws.append(means)
        result[name] = _difference(float(difference.mean()), means)
    result["average"] = _difference(float(np.mean([r["difference"] for r in result.values()])), np.mean(all_draws, 0))
    return result


def _difference(value: float, draws: NDArray[np.float64]) -> dict[str, Any]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"difference": value, "interval": [float(low), float(high)]}


def table(scores: Mapping[str, Any]) -> str:
    """The scores as a Markdown table, for people."""
    lines = [
        f"| {scores['verdict']} verdict | score | rounded | 95% interval | official | corrected | no answer | cut "
        "| tokens |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in scores["benchmarks"].items():
        lines.append(
            f"| {name} avg@{row['samples']} | {_cells(row)} | {row['without_answer']:.0f}% "
            f"| {row['cut_by_length']:.0f}% | {row['mean_tokens']:.0f} |"
        )
    lines.append(f"| average | {_cells(scores['average'])} | | | |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    numbers = [f"{row['score']:.2f}", f"{row['rounded']:.1f}", f"{low:.1f} to {high:.1f}"]
    return " | ".join([*numbers, f"{row['official']:.1f}", f"{row['corrected']:.1f}"])
