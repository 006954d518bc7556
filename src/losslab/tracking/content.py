"""Turns records into entries for a tracker: a cell's curves, scores and samples, and the table of a sweep."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from losslab.data.probability_bins import EDGES
from losslab.files.json_files import read_json, read_lines
from losslab.records.record import Cell
from losslab.results import paper, table_formats
from losslab.results.tables import Table as Ablation
from losslab.tracking import Entry, Histogram, Scores, Table

SAMPLES = 50  # problems of each benchmark in the table of samples


def entries(
    cell: Cell, scores: Path, benchmarks: list[str], trains: bool, after: int = -1, told: Scores | None = None
) -> Iterator[Entry]:
    """The complete entries of a cell's records after number `after`.

    The entry of a training step has the number of the step and includes the validation metrics of that step: with
    held-out rows, the newest step therefore waits for the next one or for the model. Scores follow once all are
    complete, ordered by step of training, since a tracker's curve must not go back: the finished model is scored first
    but comes last. Scores that have changed since they were told, as by another verdict, and those of further
    benchmarks follow as further entries, behind those that they replace, which stay in the curve.

    Args:
        scores: the folder of the cell's scores under one protocol.
        benchmarks: those that must be scored before scores are logged.
        trains: whether the cell trains a model; a base does not.
        told: the scores of the entries up to `after`; None where they are not on record, and count as unchanged.
    """
    rows, held_out = read_lines(cell.metrics), {row["step"]: row for row in read_lines(cell.validation)}
    ready = rows[:-1] if held_out and not cell.model.exists() else rows
    for row in ([{"step": 0}] if 0 in held_out else []) + ready:
        if row["step"] > after:
            yield _training(row, held_out.get(row["step"], {}))
    if trains and not cell.model.exists():
        return
    last = rows[-1]["step"] if rows else 0
    models = {step: scores / "steps" / f"{step:08d}" for step in sorted(cell.steps())} | {last: scores}
    scores_of = {step: read_json(folder / "scores.json") for step, folder in models.items()}
    if not all(set(benchmarks) <= set(of_step.get("benchmarks", {})) for of_step in scores_of.values()):
        return
    latest = after
    for number, (step, of_step) in enumerate(scores_of.items(), start=last + 1):
        shown = values(of_step)
        if number <= after:  # told already
            known = shown if told is None else told.get(str(step), {})
            shown = {name: value for name, value in shown.items() if known.get(name) != value}
            if not shown:
                continue
        latest = max(number, latest + 1)
        if step == last:
            histograms, tokens = _probabilities(cell)
            yield Entry(latest, step, shown, histograms, tokens | samples(scores, of_step))
        else:
            yield Entry(latest, step, shown)


def _training(row: dict[str, Any], held_out: dict[str, Any]) -> Entry:
    numbers: dict[str, Any] = {}
    histograms: dict[str, Histogram] = {}
    measured = {key: value for key, value in held_out.items() if key != "step"}
    for name, part in (("train", row), ("validation", measured)):
        numbers |= {f"{name}/{key}": value for key, value in part.items() if isinstance(value, int | float)}
        if counts := part.get("p_histogram"):
            histograms[f"{name}/p"] = counts, list(EDGES)
    return Entry(row["step"], row["step"], numbers, histograms)


def _probabilities(cell: Cell) -> tuple[dict[str, Histogram], dict[str, Table]]:
    """Histograms of the target probabilities before and after training, and the tokens of both ends, if measured."""
    measured = read_json(cell.probabilities)
    of_time = {when: measured[when] for when in ("before", "after") if when in measured}
    histograms = {
        f"probabilities/{when}": (histogram["counts"], histogram["edges"]) for when, histogram in of_time.items()
    }
    rows = [
        [when, end, token, count]
        for when, histogram in of_time.items()
        for end in ("lowest", "highest")
        for token, count in histogram[end]
    ]
    tables = {"probabilities/tokens": Table(["training", "probability", "token", "count"], rows)} if rows else {}
    return histograms, tables


def values(scores: dict[str, Any]) -> dict[str, float]:
    """The content of scores.json, percent: `scores/<benchmark>`, `breakdown/<benchmark>/<column>/<value>` and
    `scores/average`.
    """
    benchmarks = scores.get("benchmarks", {})
    shown = {f"scores/{name}": part["score"] for name, part in benchmarks.items()}
    for name, part in benchmarks.items():
        for column, values in part.get("breakdown", {}).items():
            shown |= {f"breakdown/{name}/{column}/{value}": row["score"] for value, row in values.items()}
    return shown | ({"scores/average": scores["average"]["score"]} if scores.get("average") else {})


def samples(folder: Path, scores: dict[str, Any]) -> dict[str, Table]:
    """For each benchmark, the first sample of its first problems, with the verdict that makes the table."""
    columns = ["problem", "question", "gold", "sample", "extracted", "correct", "finish_reason", "tokens"]
    tables = {}
    for name in scores["benchmarks"]:
        rows = []
        for record in read_lines(folder / f"{name}.jsonl")[:SAMPLES]:
            first = record["samples"][0]
            told = [first["text"], first["extracted"], first[scores["verdict"]], first["finish_reason"]]
            rows.append([record["index"], record["question"], record["gold"], *told, first["tokens"]])
        tables[f"samples/{name}"] = Table(columns, rows)
    return tables


def summary(cell: Cell, scores: Path) -> dict[str, Any]:
    """The final values of a cell: its state, costs, last step of training and scores."""
    state = cell.state()
    told = {key: state[key] for key in ("state", "attempts", "training_seconds", "scoring_seconds") if key in state}
    rows, held_out = read_lines(cell.metrics), read_lines(cell.validation)
    last = _training(rows[-1], held_out[-1] if held_out else {}).values if rows else {}
    return told | last | values(read_json(scores / "scores.json"))


def ablation(table: Ablation) -> Table:
    """The table of a sweep, with one number per column."""
    return Table(*table_formats.columns_and_rows(table, paper.compare(table)))
