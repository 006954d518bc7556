"""Verdicts of all samples, and the samples that the page shows, in one pass over a cell's records."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from losslab.files import read_json, read_lines
from losslab.report.cells import Group
from losslab.results.learning_curves import AVERAGE

ROOM = 6_000_000  # characters of samples on a page
MOST = 100  # problems of a benchmark on a page
TEXTS = 2  # right and wrong samples of a problem whose texts are on the page, of each
LONG = 6_000  # characters of a text, above which its middle is left out

Shown = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """The samples of one cell under one protocol."""

    problems: dict[str, str]  # the hash of each benchmark's problems
    means: dict[str, NDArray[np.float64]]  # share of right samples of each problem, by benchmark
    shown: dict[str, list[Shown]]  # of the first problems: verdicts and texts
    questions: dict[str, list[Shown]]  # index, question and gold of the same


def read(folder: Path) -> Scored:
    """What a folder of scores holds; without its samples' files, as after somebody took them away, nothing."""
    scores = read_json(folder / "scores.json")
    path = folder / "protocol.yaml"
    protocol = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {"benchmarks": {}}
    found = Scored({}, {}, {}, {})
    for name, about in scores["benchmarks"].items():
        records = read_lines(folder / f"{name}.jsonl")
        if not records:
            continue
        rows = [record["samples"][: about["samples"]] for record in records]
        right = np.array([[sample[scores["verdict"]] for sample in row] for row in rows], dtype=float)
        found.problems[name] = protocol["benchmarks"].get(name, "")
        found.means[name] = right.mean(1)
        found.shown[name] = [_shown(row, scores["verdict"]) for row in rows[:MOST]]
        found.questions[name] = [
            {"index": record["index"], "question": record["question"], "gold": record["gold"]}
            for record in records[:MOST]
        ]
    return found


def _shown(samples: Sequence[Mapping[str, Any]], verdict: str) -> Shown:
    """Every sample's verdicts, and the texts of the first right and wrong ones.

    `right` has a character for each sample: 1 or 0, and `official` and `corrected` likewise where the two differ.
    """
    marks = {name: "".join("1" if sample[name] else "0" for sample in samples) for name in ("official", "corrected")}
    chosen = [j for kind in "10" for j in [i for i, mark in enumerate(marks[verdict]) if mark == kind][:TEXTS]]
    texts = [
        {
            "sample": j,
            "answer": samples[j]["extracted"],
            "text": shorten(samples[j]["text"]),
            "tokens": samples[j]["tokens"],
            "end": samples[j]["finish_reason"],
        }
        for j in sorted(chosen)
    ]
    shown: Shown = {"right": marks[verdict], "texts": texts}
    shown["cut"] = sum(sample["finish_reason"] == "length" for sample in samples)
    return shown | (marks if marks["official"] != marks["corrected"] else {})


def shorten(text: str) -> str:
    if len(text) <= LONG:
        return text
    half = LONG // 2
    return f"{text[:half]}\n[… {len(text) - LONG:,} characters are left out here …]\n{text[-half:]}"


@dataclass(frozen=True)
class Browser:
    payload: Shown  # what the page's script reads
    notes: list[str]  # how much of each benchmark is shown, and what is left out


def browser(
    groups: Sequence[Group], scored: Mapping[tuple[Path, str], Scored], reference: str | None, room: int = ROOM
) -> Browser | None:
    """The samples of one cell of each row, the one with the row's lowest seed; None where there are none.

    Each benchmark has the same share of `room` for its first problems. The page begins with the `reference` on the left
    and the row with the best average on the right.
    """
    cells: list[Shown] = []
    chosen: list[Scored] = []
    rows: list[Group] = []
    several = len({group.model for group in groups}) > 1
    for group in groups:
        entry = next((entry for entry in group.row.scored if scored[entry.folder, str(entry.protocol)].means), None)
        if entry is not None:
            label = f"{group.model} {group.label}" if several else group.label
            cells.append({"label": f"{label}, seed {entry.seed}"})
            chosen.append(scored[entry.folder, str(entry.protocol)])
            rows.append(group)
    if not cells:
        return None
    names = list(dict.fromkeys(name for one in chosen for name in one.means))
    benchmarks, notes = {}, []
    for name in names:
        first = next(one for one in chosen if name in one.means)
        alike = [one if same(one, first, name) else None for one in chosen]
        shown = [[] if one is None else one.shown[name] for one in alike]
        count = _fitting(first.questions[name], shown, room // len(names))
        benchmarks[name] = {
            "problems": first.questions[name][:count],
            "cells": [own[:count] for own in shown],
        }
        total = len(first.means[name])
        notes.append(f"{'all' if count == total else f'the first {count} of'} {total} problems of {name}")
        apart = [cell["label"] for cell, one in zip(cells, alike, strict=True) if one is None]
        if apart:
            notes.append(f"without {', '.join(apart)}, whose {name} has other problems")
    left = next((i for i, row in enumerate(rows) if row.label == reference), 0)
    others = [i for i in range(len(rows)) if i != left and rows[i].model == rows[left].model] or [left]
    start = [left, max(others, key=lambda i: value.mean if (value := rows[i].row.value(AVERAGE)) else -1.0)]
    return Browser({"cells": cells, "benchmarks": benchmarks, "start": start}, notes)


def same(one: Scored, other: Scored, name: str) -> bool:
    """Whether both have the same problems of a benchmark."""
    both = name in one.means and name in other.means
    return both and one.problems[name] == other.problems[name] and len(one.means[name]) == len(other.means[name])


def _fitting(questions: Sequence[Shown], shown: Sequence[Sequence[Shown]], room: int) -> int:
    """How many of the first problems fit."""
    for i, question in enumerate(questions):
        room -= len(json.dumps([question, *(own[i] for own in shown if own)], ensure_ascii=False))
        if room < 0:
            return i
    return len(questions)
