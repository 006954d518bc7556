"""The samples of the page: one cell of each drawn row, with texts of the first problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from losslab.pages.samples import Json, answers, fitting, problem
from losslab.records.reading import DamagedRecord, first_rows
from losslab.report.rows import ReportRow
from losslab.results.learning_curves import AVERAGE
from losslab.results.problem_shares import ProblemShares, ScoredProblems

ROOM = 6_000_000  # characters of samples on a page
MOST = 100  # problems of a benchmark on a page
TEXTS = 2  # right and wrong samples of a problem whose texts are on the page, of each
LONGEST = 6_000  # characters of a text, above which its middle is left out


@dataclass(frozen=True)
class CellSamples:
    """The first problems of each benchmark of one cell, and its answers to them."""

    row: ReportRow
    label: str
    scored: ScoredProblems
    problems: dict[str, list[Json]]
    answers: dict[str, list[Json]]
    counts: dict[str, int]  # of problems in all; of multi-step problems, their questions


@dataclass(frozen=True)
class RowSamples:
    payload: Json  # what the page's script reads
    notes: list[str]  # the share of each benchmark that is shown


def row_samples(rows: Sequence[ReportRow], shares: ProblemShares, reference: str | None) -> RowSamples | None:
    """The samples of one cell of each row, the one with the row's lowest seed; None where there are none.

    Each benchmark has the same share of `ROOM` for its first problems. The page begins with the `reference` on the left
    and the row with the best average on the right.
    """
    several = len({row.model for row in rows}) > 1
    cells = [cell for row in rows if (cell := _of_row(row, shares, several))]
    if not cells:
        return None
    names = list(dict.fromkeys(name for cell in cells for name in cell.problems))
    benchmarks, notes = {}, []
    for name in names:
        first = next(cell for cell in cells if name in cell.problems)
        alike = [
            name in cell.answers and cell.scored.versions.get(name) == first.scored.versions.get(name) for cell in cells
        ]
        shown = [cell.answers[name] if is_alike else [] for cell, is_alike in zip(cells, alike, strict=True)]
        count = fitting(first.problems[name], shown, ROOM // len(names))
        benchmarks[name] = {"problems": first.problems[name][:count], "cells": [answered[:count] for answered in shown]}
        total = first.counts[name]
        notes.append(f"{'all' if count == total else f'the first {count} of'} {total} problems of {name}")
        if apart := [cell.label for cell, is_alike in zip(cells, alike, strict=True) if not is_alike]:
            notes.append(f"without {', '.join(apart)}, whose {name} has other problems or no samples")
    labels = [{"label": cell.label} for cell in cells]
    return RowSamples({"cells": labels, "benchmarks": benchmarks, "start": _start(cells, reference)}, notes)


def _start(cells: Sequence[CellSamples], reference: str | None) -> list[int]:
    """The cells that the page shows at first, on the left and on the right."""

    def average(i: int) -> float:
        value = cells[i].row.row.value(AVERAGE)
        return value.mean if value else -1.0

    left = next((i for i, cell in enumerate(cells) if cell.row.label == reference), 0)
    others = [i for i, cell in enumerate(cells) if i != left and cell.row.model == cells[left].row.model]
    return [left, max(others, key=average, default=left)]


def _of_row(row: ReportRow, shares: ProblemShares, several: bool) -> CellSamples | None:
    for entry in row.row.scored:
        folder, content = entry.scores_folder, shares.scores.of(entry)
        problems: dict[str, list[Json]] = {}
        shown: dict[str, list[Json]] = {}
        for name in shares.of(entry).shares:
            count = content["benchmarks"][name]["samples"]

            def read(path: Path, count: int = count, verdict: str = content["verdict"]) -> list[tuple[Json, Json]]:
                return _first_problems(path, count, verdict)

            if pairs := shares.table.attempt(read, folder / f"{name}.jsonl", []):
                problems[name], shown[name] = map(list, zip(*pairs, strict=True))
        if problems:
            label = f"{row.model} {row.label}" if several else row.label
            scored = shares.of(entry)
            parts = content["benchmarks"]
            counts = {name: parts[name].get("questions", len(scored.shares[name])) for name in problems}
            return CellSamples(row, f"{label}, seed {entry.seed}", scored, problems, shown, counts)
    return None


def _first_problems(path: Path, count: int, verdict: str) -> list[tuple[Json, Json]]:
    try:
        return [
            (problem(record), answers(record["samples"][:count], verdict, TEXTS, LONGEST))
            for record in first_rows(path, MOST)
        ]
    except (KeyError, TypeError, AttributeError):
        raise DamagedRecord(path, "a problem or a sample lacks a part") from None
