"""How far training moved each row of a table from its base: the KL that `training.kl_to_base` measured of its cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.files.csv_files import csv_text
from losslab.files.record_names import KL_TO_BASE
from losslab.records.reading import NUMBER, DamagedRecord, read_facts
from losslab.results.table_formats import MISSING, Sheet, SheetCell, and_
from losslab.results.tables import Row, Table
from losslab.statistics.intervals import Estimate, over_seeds

_FORM = {
    "benchmarks": [str], "answers": int, "problems": int, "tokens": int, "retokenised": int,
    "per_token": [(*NUMBER, type(None))], "per_answer": [(*NUMBER, type(None))],
}  # fmt: skip
COLUMN = "KL to the base"  # in a table of something else
NUMBERS = (COLUMN, "nats per token", "nats per answer", "samples")


@dataclass(frozen=True)
class Divergence:
    """The KL of a row's trained models to their base, in nats."""

    row: Row
    per_token: Estimate
    per_answer: Estimate
    answers: int  # that were measured, of all cells
    retokenised: int  # of these, whose tokens are not those that were sampled
    benchmarks: tuple[str, ...]  # that they answer
    seeds: int


def read_kl_to_base(folder: Path) -> dict[str, Any]:
    """The content of the kl_to_base.json in a folder of scores; `{}` if it was not measured. Raises DamagedRecord."""
    path = folder / KL_TO_BASE
    content = read_facts(path, _FORM)
    if content and not set(content) >= set(_FORM):
        raise DamagedRecord(path, f"lacks {min(set(_FORM) - set(content))}")
    if any(len(content[name]) != 2 or content[name][0] is None for name in ("per_token", "per_answer") if content):
        raise DamagedRecord(path, "has no mean with half of its interval")
    return content


def divergences(table: Table) -> list[Divergence]:
    """The rows of a table whose cells have the KL to their base on record, in its order."""
    of_rows = []
    for row in table.rows:
        read = [table.attempt(read_kl_to_base, entry.scores_folder, {}) for entry in row.scored if row.trains]
        if records := [record for record in read if record]:
            of_row = Divergence(
                row,
                per_token=_over_cells([record["per_token"] for record in records]),
                per_answer=_over_cells([record["per_answer"] for record in records]),
                answers=sum(record["answers"] for record in records),
                retokenised=sum(record["retokenised"] for record in records),
                benchmarks=tuple(dict.fromkeys(name for record in records for name in record["benchmarks"])),
                seeds=len(records),
            )
            of_rows.append(of_row)
    return of_rows


def _over_cells(values: Sequence[Sequence[float | None]]) -> Estimate:
    """Over seeds where there are several, else the interval over problems that is on record."""
    if len(values) > 1:
        return over_seeds([mean for mean, _ in values if mean is not None])
    ((mean, half),) = values
    assert mean is not None
    return Estimate(mean, half)


def by_row(measured: Sequence[Divergence]) -> Callable[[Row], Estimate | None]:
    """The KL per token of a row; None where it is not on record."""
    values = {id(divergence.row): divergence.per_token for divergence in measured}
    return lambda row: values.get(id(row))


def sheet(measured: Sequence[Divergence]) -> Sheet:
    """The KL of each row to its base, per token and per answer, and on how many samples it was measured."""
    rows = [
        [
            *(SheetCell(of_row.row.names["model"]), SheetCell(of_row.row.label)),
            *(SheetCell(text(of_row.per_token)), SheetCell(f"{of_row.per_answer:.2f}")),
            SheetCell(f"{of_row.answers:,}"),
        ]
        for of_row in measured
    ]
    return Sheet(COLUMN, "", ["model", "objective", *NUMBERS[1:]], rows, caption(measured), [])


def text(value: Estimate | None) -> str:
    return MISSING if value is None else f"{value:.4f}"


def caption(measured: Sequence[Divergence]) -> str:
    """What the numbers are, where they come from, and what they do not say."""
    tasks = list(dict.fromkeys(of_row.benchmarks for of_row in measured))
    on = and_(tasks[0]) if len(tasks) == 1 else "benchmarks that differ between the rows, which do not compare"
    several = any(of_row.seeds > 1 for of_row in measured)
    sentences = [
        "KL(trained || base), estimated as the mean of log p(trained) - log p(base) over the trained model's own "
        f"samples on {on}, ± half of the 95% interval{' over seeds, with one seed' if several else ''} over problems.",
        "RL's Razor (arXiv 2509.04259) finds that the KL on the new task predicts what is forgotten; its law is for "
        "the other direction, KL(base || trained), which takes samples of the base. It is no measure of forgetting "
        "itself, and compares rows of one model and one task alone.",
    ]
    if retokenised := sum(of_row.retokenised for of_row in measured):
        answers = sum(of_row.answers for of_row in measured)
        sentences.append(f"{retokenised:,} of {answers:,} samples have other tokens here than were sampled.")
    return " ".join(sentences)


def to_csv(measured: Sequence[Divergence]) -> str:
    head = ["model", "objective", "per_token", "per_token_half", "per_answer", "per_answer_half"]
    lines = [
        [d.row.names["model"], d.row.label, d.per_token.mean, d.per_token.half, d.per_answer.mean, d.per_answer.half]
        + [d.answers, d.retokenised, d.seeds, " ".join(d.benchmarks)]
        for d in measured
    ]
    return csv_text([*head, "samples", "retokenised", "seeds", "benchmarks"], lines)
