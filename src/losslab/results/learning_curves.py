"""Accuracy over the steps of training, from records alone: the curves of the paper's Figure 1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from losslab.files.csv_files import csv_text
from losslab.records.reading import read_metrics, read_scores
from losslab.statistics.intervals import Estimate, over_seeds

AVERAGE = "average"

Scores = dict[str, float]  # percent, by benchmark and AVERAGE
LearningCurve = dict[int, list[Scores]]  # by step: the scores of each seed


def scores_by_step(folder: Path, metrics: Path) -> dict[int, dict[str, Any]]:
    """The content of scores.json for each scored step of a cell, in order; the finished model counts as the last step.

    Args:
        folder: the scores of a cell under one protocol.
        metrics: the cell's metrics.jsonl, whose last row has the last step.
    """
    paths = {int(path.parent.name): path for path in folder.glob("steps/*/scores.json")}
    rows = read_metrics(metrics, last=1)
    if rows and (folder / "scores.json").exists():
        paths[rows[-1]["step"]] = folder / "scores.json"
    return {step: read_scores(path) for step, path in sorted(paths.items())}


def values(scores: Mapping[str, Any], benchmarks: list[str]) -> Scores | None:
    """The score on each benchmark and their mean; None if one is missing."""
    if not set(benchmarks) <= set(scores["benchmarks"]):
        return None
    of_benchmarks = {name: float(scores["benchmarks"][name]["score"]) for name in benchmarks}
    return of_benchmarks | {AVERAGE: float(np.mean(list(of_benchmarks.values())))}


def markdown(by_step: Mapping[int, Mapping[str, Any]]) -> str:
    """Accuracy over steps as a Markdown table; the last line is the finished model."""
    benchmarks = list(dict.fromkeys(name for scores in by_step.values() for name in scores["benchmarks"]))
    heads = ["step", *benchmarks, AVERAGE]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    for step, scores in by_step.items():
        numbers = {name: part["score"] for name, part in scores["benchmarks"].items()}
        numbers |= values(scores, benchmarks) or {}
        texts = (f"{numbers[name]:.1f}" if name in numbers else "–" for name in heads[1:])
        lines.append(f"| {step} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def means(curve: LearningCurve, column: str) -> dict[int, Estimate]:
    """The mean of each step over the seeds that have it."""
    return {step: over_seeds([score[column] for score in scores]) for step, scores in sorted(curve.items())}


def to_csv(curves: Mapping[str, LearningCurve], columns: list[str]) -> str:
    """A line for each objective, benchmark and step; with one seed there is no half of an interval."""
    rows = [
        [label, column, step, mean.mean, mean.half, len(curve[step])]
        for label, curve in curves.items()
        for column in columns
        for step, mean in means(curve, column).items()
    ]
    return csv_text(["objective", "benchmark", "step", "accuracy", "half", "seeds"], rows)
