"""Accuracy over the steps of training, from records alone: the curves of the paper's Figure 1."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from losslab.files import read_json, read_lines
from losslab.statistics.intervals import over_seeds

AVERAGE = "average"

Scores = dict[str, float]  # percent, by benchmark and AVERAGE
Curve = dict[int, list[Scores]]  # by step: the scores of each seed


def points(folder: Path, metrics: Path) -> dict[int, dict[str, Any]]:
    """What scores.json holds for each scored step of a run, in order; the finished model is its last step.

    Args:
        folder: the scores of a cell under one protocol.
        metrics: the cell's metrics.jsonl, which knows the last step.
    """
    found = {int(path.parent.name): read_json(path) for path in folder.glob("steps/*/scores.json")}
    rows = read_lines(metrics)
    if rows and (folder / "scores.json").exists():
        found[rows[-1]["step"]] = read_json(folder / "scores.json")
    return dict(sorted(found.items()))


def values(scores: Mapping[str, Any], benchmarks: list[str]) -> Scores | None:
    """The score on each benchmark and their mean; None where one is missing."""
    if not set(benchmarks) <= set(scores["benchmarks"]):
        return None
    own = {name: float(scores["benchmarks"][name]["score"]) for name in benchmarks}
    return own | {AVERAGE: float(np.mean(list(own.values())))}


def markdown(found: Mapping[int, Mapping[str, Any]]) -> str:
    """Accuracy over steps as a table; the last line is the finished model."""
    benchmarks = list(dict.fromkeys(name for scores in found.values() for name in scores["benchmarks"]))
    heads = ["step", *benchmarks, AVERAGE]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    for step, scores in found.items():
        own = {name: part["score"] for name, part in scores["benchmarks"].items()}
        own |= values(scores, benchmarks) or {}
        lines.append(f"| {step} | " + " | ".join(f"{own[n]:.1f}" if n in own else "–" for n in heads[1:]) + " |")
    return "\n".join(lines)


def mean(curve: Curve, column: str) -> list[tuple[int, float, float]]:
    """(step, mean over the seeds that have the step, half of its 95% interval) of each step; half is 0 for one seed."""
    found = []
    for step, scores in sorted(curve.items()):
        value = over_seeds([score[column] for score in scores])
        found.append((step, value.mean, value.half or 0.0))
    return found


def spreadsheet(curves: Mapping[str, Curve], columns: list[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["objective", "benchmark", "step", "accuracy", "half", "seeds"])
    for label, curve in curves.items():
        for column in columns:
            writer.writerows([label, column, *point, len(curve[point[0]])] for point in mean(curve, column))
    return out.getvalue()
