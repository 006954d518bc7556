"""The four-way score of We-Math (arXiv 2407.01284, section 3; its four_dimensional_metrics.py).

A multi-step problem is asked as a whole and as one-step questions, and falls, for each sample, into one of
    complete mastery             one-step right, whole right
    rote memorization            one-step wrong, whole right
    inadequate generalization    one-step right, whole wrong
    insufficient knowledge       one-step wrong, whole wrong
One-step counts as right when all of its questions are; loosely, for a whole that is right, when one of them is. The
score is the share of complete mastery and half of that of inadequate generalization: points of 1, 1/2 and 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WHOLE = "multi"
Floats = NDArray[np.float64]
Step = tuple[str, str]  # the multi-step problem, and which of its questions: 1, 2, … or multi


def step(place: str, row: Mapping[str, Any]) -> Step:
    """Which question of which problem a row is, from its columns `ID` and `key`. Raises ValueError."""
    problem, key = row.get("ID"), row.get("key")
    if not isinstance(problem, str) or not isinstance(key, str) or "_" not in key:
        raise ValueError(
            f"{place}: no multi-step problem in the columns 'ID' and 'key', as in 2steps_1 and 2steps_multi"
        )
    return problem, key.rpartition("_")[2]


def check(name: str, steps: Sequence[Step]) -> None:
    """Refuse a multi-step problem that lacks a question or has one twice."""
    for problem in dict.fromkeys(problem for problem, _ in steps):
        there = sorted(part for other, part in steps if other == problem)
        if len(there) < 2 or there != [*map(str, range(1, len(there))), WHOLE]:
            raise ValueError(
                f"benchmark {name}: the multi-step problem {problem} has the questions {', '.join(there)}; it must "
                f"have 1, 2 and so on and {WHOLE}, each once"
            )


def problems(records: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The positions of the records of each multi-step problem, that of the whole last."""
    members: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        members.setdefault(record["step"][0], []).append(i)
    return [sorted(positions, key=lambda i: records[i]["step"][1] == WHOLE) for positions in members.values()]


def points(right: Floats, members: Sequence[Sequence[int]], loose: bool = False) -> Floats:
    """Points of 1, 1/2 and 0, (problems, samples), from verdicts on questions, (questions, samples)."""
    kinds = classify(right, members, loose)
    return kinds["complete_mastery"] + kinds["inadequate_generalization"] / 2


def classify(right: Floats, members: Sequence[Sequence[int]], loose: bool = False) -> dict[str, Floats]:
    """1 where a problem, by a sample of it, is of the kind; (problems, samples) for each of the four."""
    whole = np.stack([right[positions[-1]] for positions in members])
    every = np.stack([right[list(positions[:-1])].min(0) for positions in members])
    some = np.stack([right[list(positions[:-1])].max(0) for positions in members]) if loose else every
    return {
        "complete_mastery": some * whole,
        "rote_memorization": (1 - some) * whole,
        "inadequate_generalization": every * (1 - whole),
        "insufficient_knowledge": (1 - every) * (1 - whole),
    }


def summary(right: Floats, members: Sequence[Sequence[int]]) -> dict[str, dict[str, float | None]]:
    """Strict and loose scores and shares in percent; rote memorization, as published, of what is right as a whole."""
    parts: dict[str, dict[str, float | None]] = {}
    for name, loose in (("strict", False), ("loose", True)):
        shares = {kind: 100 * float(marks.mean()) for kind, marks in classify(right, members, loose).items()}
        whole = shares["complete_mastery"] + shares["rote_memorization"]
        rate = 100 * shares["rote_memorization"] / whole if whole else None
        score = 100 * float(points(right, members, loose).mean())
        parts[name] = {"score": score, **shares, "rote_memorization": rate}
    return parts
