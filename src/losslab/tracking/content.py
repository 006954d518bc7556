"""What records say, as entries for a tracker: a cell's curves, scores and samples, and the table of a sweep."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from losslab.config.schema import BASE
from losslab.data.probability_bins import EDGES
from losslab.files import read_json, read_lines
from losslab.records.record import Cell
from losslab.results import paper, table_formats
from losslab.results.tables import Table as Ablation
from losslab.tracking import Entry, Histogram, Table

SAMPLES = 50  # problems of each benchmark in the table of samples


def entries(cell: Cell, scores: Path, benchmarks: list[str], after: int = -1) -> Iterator[Entry]:
    """What the records of a cell hold beyond entry `after`, each entry whole.

    A step of training has its own number. The scores go on from there when all of them are made, by step of training:
    a curve of the tracker runs from left to right, and the finished model is scored first but comes last.

    Args:
        scores: the folder of the cell's scores under one protocol.
        benchmarks: those that scores must have before they are shown.
    """
    rows = read_lines(cell.metrics)
    for row in rows:
        if row["step"] > after:
            yield _training(row)
    if not cell.model.exists() and cell.state().get("names", {}).get("loss") != BASE:
        return
    last = rows[-1]["step"] if rows else 0
    models = {step: scores / "steps" / f"{step:08d}" for step in sorted(cell.steps())} | {last: scores}
    found = {step: read_json(folder / "scores.json") for step, folder in models.items()}
    if not all(set(benchmarks) <= set(one.get("benchmarks", {})) for one in found.values()):
        return
    for number, (step, one) in enumerate(found.items(), start=last + 1):
        if number <= after:
            continue
        if step == last:
            histograms, tokens = _probabilities(cell)
            yield Entry(number, step, values(one), histograms, tokens | samples(scores, one))
        else:
            yield Entry(number, step, values(one))


def _training(row: dict[str, Any]) -> Entry:
    counts = row.get("p_histogram")
    numbers = {f"train/{key}": value for key, value in row.items() if isinstance(value, int | float)}
    return Entry(row["step"], row["step"], numbers, {"train/p": (counts, list(EDGES))} if counts else {})


def _probabilities(cell: Cell) -> tuple[dict[str, Histogram], dict[str, Table]]:
    """The probabilities of the training targets before and after, and the tokens at both ends; where they are known."""
    measured = read_json(cell.probabilities)
    found = {when: measured[when] for when in ("before", "after") if when in measured}
    histograms = {f"probabilities/{when}": (one["counts"], one["edges"]) for when, one in found.items()}
    rows = [
        [when, end, token, count]
        for when, one in found.items()
        for end in ("lowest", "highest")
        for token, count in one[end]
    ]
    tables = {"probabilities/tokens": Table(["training", "probability", "token", "count"], rows)} if rows else {}
    return histograms, tables


def values(scores: dict[str, Any]) -> dict[str, float]:
    """The content of scores.json, percent: `scores/<benchmark>`, `breakdown/<benchmark>/<column>/<value>` and
    `scores/average`.
    """
    benchmarks = scores.get("benchmarks", {})
    found = {f"scores/{name}": part["score"] for name, part in benchmarks.items()}
    for name, part in benchmarks.items():
        for column, values in part.get("breakdown", {}).items():
            found |= {f"breakdown/{name}/{column}/{value}": row["score"] for value, row in values.items()}
    return found | ({"scores/average": scores["average"]["score"]} if scores.get("average") else {})


def samples(folder: Path, scores: dict[str, Any]) -> dict[str, Table]:
    """For each benchmark, the first sample of its first problems, with the verdict that counts."""
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
    """What a cell came to: its state, costs, last step of training and scores."""
    state = cell.state()
    told = {key: state[key] for key in ("state", "attempts", "training_seconds", "scoring_seconds") if key in state}
    rows = read_lines(cell.metrics)
    last = _training(rows[-1]).values if rows else {}
    return told | last | values(read_json(scores / "scores.json"))


def ablation(table: Ablation) -> Table:
    """The table of a sweep, each number in a column of its own."""
    return Table(*table_formats.columns_and_rows(table, paper.compare(table)))
