"""The page for reading the samples of an evaluation: scores, where the two verdicts differ, and every sample."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from losslab.evaluation.scores import breakdown_tables, percent
from losslab.grading import corrected_text
from losslab.pages import samples
from losslab.pages.page import embed, render

ROOM = 20_000_000  # characters of samples on the page, which browsers can still open; the records have all samples
HEADS = (
    "score", "rounded", "95%", "pass@k", "maj@k", "official", "corrected", "no answer", "cut", "tokens", "timed out",
)  # fmt: skip

Record = Mapping[str, Any]


def sample_page(title: str, scores: Record, records: Mapping[str, Sequence[Record]], room: int = ROOM) -> str:
    """The page as HTML. Each benchmark has the same share of `room` characters for its first problems."""
    benchmarks, notes = {}, []
    for name, of_benchmark in records.items():
        problems = [samples.problem(record, prompt=True) for record in of_benchmark]
        cell = [samples.answers(record["samples"], scores["verdict"]) for record in of_benchmark]
        count = samples.fitting(problems, [cell], room // len(records)) or 1
        benchmarks[name] = {"problems": problems[:count], "cells": [cell[:count]]}
        if count < len(problems):
            notes.append(f"{len(problems) - count} more problems of {name} are in its records.")
    return render(
        "samples.html",
        ["pages/style.css"],
        ["pages/base.js", "pages/samples.js"],
        title=title,
        heads=(f"{scores['verdict']} verdict", *HEADS),
        scores=[_row(name, row) for name, row in scores["benchmarks"].items()],
        warnings=scores["warnings"],
        breakdowns=[{"heads": [title, *heads], "rows": rows} for title, heads, rows in breakdown_tables(scores)],
        disagreements=[_disagreement(name, part, scores["benchmarks"][name]) for name, part in records.items()],
        note=" ".join(notes),
        several_cells=False,
        payload=embed({"cells": [{}], "benchmarks": benchmarks}),
    )


def _row(name: str, row: Record) -> list[str]:
    """The scores of a benchmark; pass@k and maj@k are of all its samples."""
    k, interval = str(row["samples"]), "{:.1f} – {:.1f}".format(*row["interval"]) if row["interval"] else "–"
    numbers = [row["pass_at"][k], row["maj_at"][k], row["official"], row["corrected"]]
    return [
        *(f"{name} avg@{k}", f"{row['score']:.2f}", f"{row['rounded']:.2f}", interval),
        *(f"{number:.1f}" for number in numbers),
        *(percent(row[share]) for share in ("without_answer", "cut_by_length")),
        *(f"{row['mean_tokens']:.0f}", str(row["timed_out"])),
    ]


def _disagreement(name: str, records: Sequence[Record], row: Record) -> dict[str, Any]:
    """Every answer on which the two verdicts differ, and how many samples gave it."""
    answers: Counter[tuple[int, str, str, str]] = Counter()
    for record in records:
        for sample in record["samples"][: row["samples"]]:
            if sample["official"] != sample["corrected"]:
                side = "official" if sample["official"] else "corrected"
                answers[record["index"], record["gold"], corrected_text.extract(sample["text"]), side] += 1
    title = (
        f"{name}: right by the official verdict alone {row['only_official']}, by the corrected verdict alone "
        f"{row['only_corrected']} of {len(records) * row['samples']} samples"
    )
    return {"title": title, "rows": [[*answer, count] for answer, count in sorted(answers.items())]}
