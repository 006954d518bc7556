"""From verdicts to scores with their uncertainty. Accuracies and shares are in percent.

All arrays of verdicts are (problems, samples).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losslab.evaluation import mastery
from losslab.statistics.intervals import Estimate, over_benchmarks, over_problems, over_seeds
from losslab.statistics.pass_at_k import majority_at, pass_at, rounded, sizes
from losslab.statistics.versions import Originals, Versions

UNKNOWN = "unknown"  # the finish reason of an answer to a task of lm_eval, which does not say


def summarise(records: Sequence[Mapping[str, Any]], k: int, verdict: str) -> dict[str, Any]:
    """The scores of one benchmark from its records, over the first `k` samples of each problem.

    `verdict` is `official` or `corrected`. Intervals are at 95%, by `losslab.statistics.intervals`: the one over
    problems takes the problems as drawn from a larger set; the one over seeds takes the problems as given and their `k`
    samples as repeated runs. Both are None where there is one number.

    Where the records are questions of multi-step problems, these are the problems, and what is right is the points of
    `losslab.evaluation.mastery`; pass@n, maj@n, shares and the breakdown are of questions.
    """
    samples = [record["samples"][:k] for record in records]
    originals = [record["original"] for record in records] if "original" in records[0] else None
    verdicts = ("official", "corrected")
    marks = {name: np.array([[s[name] for s in row] for row in samples], dtype=float) for name in verdicts}
    answered = marks[verdict]
    members = mastery.problems(records) if "step" in records[0] else None
    right = {name: mastery.points(of, members) for name, of in marks.items()} if members else marks
    correct = right[verdict]
    flat = [sample for row in samples for sample in row]
    return {
        "problems": len(correct),
        **({"questions": len(records), "mastery": mastery.summary(answered, members)} if members else {}),
        **({"judged": True} if records[0].get("judged") else {}),
        "samples": k,
        "score": 100 * float(correct.mean()),
        "interval": _interval(over_problems(100 * correct.mean(1), originals)),
        **({"originals": originals} if originals else {}),
        "interval_over_seeds": _interval(over_seeds(100 * correct.mean(0))),
        "official": 100 * float(right["official"].mean()),
        "corrected": 100 * float(right["corrected"].mean()),
        "rounded": rounded(correct),
        "right": {name: _counts(of) for name, of in right.items()},  # of each problem
        "first_sample": 100 * float(correct[:, 0].mean()),
        "pass_at": {str(n): pass_at(answered, n) for n in sizes(k)},
        "maj_at": {
            str(n): majority_at([[s["extracted"] for s in row] for row in samples], answered, n) for n in sizes(k)
        },
        "only_official": sum(s["official"] and not s["corrected"] for s in flat),
        "only_corrected": sum(s["corrected"] and not s["official"] for s in flat),
        "without_answer": share(not s["extracted"] for s in flat),
        **_cut(flat, verdict),
        "mean_tokens": float(np.mean([s["tokens"] for s in flat])),
        "timed_out": sum(s["timed_out"] for s in flat),
        "too_long": sum(row[0]["finish_reason"] == "too_long" for row in samples),
        **_seen(records, correct, members or [[i] for i in range(len(records))]),
        "breakdown": _breakdown(records, marks, answered, originals),
    }


def _cut(samples: Sequence[Mapping[str, Any]], verdict: str) -> dict[str, float | None]:
    """The share of samples cut by length, and of samples that are cut and right, which an early box can make them.

    Both are None where an engine does not say why its answers ended, as lm_eval does not.
    """
    if any(sample["finish_reason"] == UNKNOWN for sample in samples):
        return {"cut_by_length": None, "cut_and_right": None}
    cut = [sample["finish_reason"] == "length" for sample in samples]
    right = [is_cut and sample[verdict] for is_cut, sample in zip(cut, samples, strict=True)]
    return {"cut_by_length": share(cut), "cut_and_right": share(right)}


def _counts(marks: NDArray[np.float64]) -> list[int | float]:
    """How many samples of each problem are right; of a multi-step problem, its points."""
    return [int(count) if count.is_integer() else float(count) for count in marks.sum(1)]


def _seen(
    records: Sequence[Mapping[str, Any]], correct: NDArray[np.float64], members: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """How many problems occur in the training data, and the score on the others; None if that was not searched."""
    if any(record.get("seen") is None for record in records):
        return {"seen_exact": None, "seen_words": None, "unseen": None}
    searched = [[kind for i in positions for kind in records[i]["seen"]] for positions in members]
    others = correct[[not kinds for kinds in searched]]
    counts = {f"seen_{kind}": sum(kind in kinds for kinds in searched) for kind in ("exact", "words")}
    return counts | {"unseen": 100 * float(others.mean()) if len(others) else None}


def _breakdown(
    records: Sequence[Mapping[str, Any]],
    right: Mapping[str, NDArray[np.float64]],
    correct: NDArray[np.float64],
    originals: Originals,
) -> dict[str, dict[str, dict[str, Any]]]:
    """The scores by column and value of the problems' groups, numbers in their order; `interval` is over problems."""
    parts: dict[str, dict[str, dict[str, Any]]] = {}
    for column in dict.fromkeys(column for record in records for column in record.get("groups", {})):
        values = [record.get("groups", {}).get(column) for record in records]
        for value in sorted({value for value in values if value is not None}, key=_in_order):
            members = [other == value for other in values]
            parts.setdefault(column, {})[value] = {
                "problems": sum(members),
                "score": 100 * float(correct[members].mean()),
                "interval": _interval(over_problems(100 * correct[members].mean(1), _where(originals, members))),
                **{name: 100 * float(marks[members].mean()) for name, marks in right.items()},
            }
    return parts


def _where(originals: Originals, members: Sequence[bool]) -> Originals:
    return None if originals is None else list(compress(originals, members))


def _in_order(value: str) -> tuple[bool, float, str]:
    """Numbers by size, before texts."""
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _interval(estimate: Estimate) -> list[float] | None:
    return None if estimate.half is None else [estimate.low, estimate.high]


def average(benchmarks: Mapping[str, Mapping[str, Any]], verdict: str) -> dict[str, Any]:
    """The mean over benchmarks, each with the same weight; its interval takes them as independent.

    Benchmarks with versions of the same problems are taken together.
    """
    rows = list(benchmarks.values())
    names = ("official", "corrected", "rounded")
    of_versions = {name: row for name, row in benchmarks.items() if "originals" in row}
    shares = {name: np.array(row["right"][verdict]) / row["samples"] for name, row in of_versions.items()}
    mean = over_benchmarks(
        {name: Estimate.recorded(row["score"], row["interval"]) for name, row in benchmarks.items()},
        {name: Versions(100 * shares[name], row["originals"]) for name, row in of_versions.items()},
    )
    return {
        "score": mean.mean,
        "interval": _interval(mean),
        **{name: float(np.mean([row[name] for row in rows])) for name in names},
    }


def cost(samples: Iterable[Mapping[str, Any]], prices: Sequence[float]) -> dict[str, Any]:
    """What the samples of an endpoint took, each once, whichever call asked for them; in dollars by two prices."""
    counts = [(sample.get("prompt_tokens") or 0, sample.get("tokens") or 0) for sample in samples]
    read, written = (sum(count[i] for count in counts) for i in range(2))
    dollars = {"dollars": (prices[0] * read + prices[1] * written) / 1e6} if prices else {}
    return {"prompt_tokens": read, "tokens": written, **({"prices": list(prices)} if prices else {}), **dollars}


def share(conditions: Iterable[bool]) -> float:
    """How many of the conditions hold, in percent."""
    values = list(conditions)
    return 100 * sum(values) / len(values)


def percent(value: float | None) -> str:
    """A share as a text, – where it is not known."""
    return "–" if value is None else f"{value:.0f}%"


def markdown(scores: Mapping[str, Any]) -> str:
    """The scores as a Markdown table, for people."""
    lines = [
        f"| {scores['verdict']} verdict | score | rounded | 95% interval | official | corrected | no answer | cut "
        "| tokens |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in scores["benchmarks"].items():
        lines.append(
            f"| {name} avg@{row['samples']} | {_cells(row)} | {percent(row['without_answer'])} "
            f"| {percent(row['cut_by_length'])} | {row['mean_tokens']:.0f} |"
        )
    lines.append(f"| average | {_cells(scores['average'])} | | | |")
    for title, head, rows in breakdown_tables(scores):
        lines += ["", f"| {title} | {' | '.join(head)} |", "|---|---:|---:|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def breakdown_tables(scores: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """For each benchmark and column, and the four-way score: a title, the other heads, and rows of texts."""
    head = ["problems", "score", "95% interval", "official", "corrected"]
    for name, row in scores["benchmarks"].items():
        for column, values in row.get("breakdown", {}).items():
            yield (
                f"{name} by {column}",
                head,
                [
                    [value, str(part["problems"]), f"{part['score']:.2f}", _range(part["interval"])]
                    + [f"{part[verdict]:.1f}" for verdict in ("official", "corrected")]
                    for value, part in values.items()
                ],
            )
        if "mastery" in row:
            kinds = list(row["mastery"]["strict"])
            cells = {
                way: ["–" if shares[kind] is None else f"{shares[kind]:.2f}" for kind in kinds]
                for way, shares in row["mastery"].items()
            }
            heads = [kind.replace("_", " ") for kind in kinds]
            yield f"{name} by mastery", heads, [[way, *shares] for way, shares in cells.items()]


def _cells(row: Mapping[str, Any]) -> str:
    numbers = [f"{row['score']:.2f}", f"{row['rounded']:.1f}", _range(row["interval"])]
    return " | ".join([*numbers, f"{row['official']:.1f}", f"{row['corrected']:.1f}"])


def _range(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else "{:.1f} to {:.1f}".format(*interval)
