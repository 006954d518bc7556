"""The questions of a data set with their true answers, for answers that are to be graded."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Rules, SampleRules
from losslab.config.schema import DatasetConfig
from losslab.data.rows import asked
from losslab.data.table import load
from losslab.evaluation.benchmarks import Benchmark, Problem
from losslab.evaluation.golds import HASHES, solution_mark
from losslab.grading import corrected_text, official_text
from losslab.grading.regrade import check_stack_tests, lacking
from losslab.programs import assembly

NAME = "questions"  # of the data set's questions among benchmarks


def questions(dataset: DatasetConfig) -> tuple[Benchmark, dict[str, int]]:
    """The different questions of a data set that have a gold answer, and how many rows were left out.

    The gold is the content of `gold_column`, else the last box of the solution, of a list the first; with rules=code it
    is the problem of code that the row is, which has the prompt and the stops of the data set.

    Raises:
        ValueError: no row can be asked, or `gold_column` holds solutions.
    """
    code, general = (dataset.rules == rules for rules in (SampleRules.code, SampleRules.general))
    golds: dict[str, str] = {}
    rows = beside = without = repeated = several = 0
    for question, gold, others in _problems_of_code(dataset) if code else _true_answers(dataset):
        rows += 1
        beside += question is None and gold is not None
        if question is None or gold is None:
            without += 1
        elif question.strip() in golds:
            repeated += 1
        else:
            golds[question.strip()] = gold
            several += others > 0
    if not golds and beside:
        raise ValueError(
            f"no row of {dataset.path} asks a single question, and {beside:,} with a gold answer ask it after earlier "
            "turns, or with a system prompt, tools or chat_template_kwargs: take these out of the rows"
        )
    if not golds:
        place = dataset.gold_column or f"a box of {dataset.answer_column}"
        raise ValueError(
            f"no row of {dataset.path} has texts in prompt and in test (or tests), which dataset.rules=code needs"
            if code
            else f"no row of {dataset.path} has a gold answer in {place}: set dataset.gold_column"
        )
    problems = [
        Problem(i, question, official_text.gold(Rules.general, {"answer": gold}) if general else gold, gold)
        for i, (question, gold) in enumerate(golds.items())
    ]
    counts = {"rows": rows, "without_gold": without, "repeated_questions": repeated, "questions": len(problems)}
    counts |= {"first_of_several_golds": several} if several else {}
    about = BenchmarkConfig(rules=Rules(dataset.rules))
    if code:
        about = replace(about, prompt=dataset.template, stop=dataset.stop)
    return Benchmark.of(NAME, problems, about), counts


def check_verifier(dataset: DatasetConfig, golds: list[str], unsafe_code: bool) -> None:
    """Raise ValueError where answers to these questions are code that cannot be run on this machine or has no tests."""
    if dataset.rules == SampleRules.code:
        for sentence in lacking(golds, dataset.path, unsafe_code).values():  # a missing compiler scores nothing
            raise ValueError(f"{dataset.path}: {sentence}")
    if dataset.rules == SampleRules.stack_program:
        check_stack_tests(golds, dataset.path)


def _true_answers(dataset: DatasetConfig) -> Iterator[tuple[str | None, str | None, int]]:
    """Question and gold of each row, and how many golds besides the first, which alone the graders compare with."""
    for question, value in asked(dataset):
        values = value if isinstance(value, list) and value else [value]
        if dataset.gold_column and dataset.rules == SampleRules.general:
            _check_plain(dataset, values[0])
        yield question, gold_of(values[0], boxed=dataset.gold_column is None), len(values) - 1


def _check_plain(dataset: DatasetConfig, gold: Any) -> None:
    """Raise ValueError where the gold column holds a solution, which no answer would equal."""
    mark = solution_mark(gold)
    if mark == HASHES:
        advice = f"put what follows {HASHES} into a column of its own, and set dataset.gold_column to that"
    else:
        advice = (
            f"leave dataset.gold_column out and set dataset.answer_column={dataset.gold_column}, whose last box is read"
        )
    if mark:
        raise ValueError(f"{dataset.path}: the column {dataset.gold_column!r} holds solutions, with {mark}: {advice}")


def _problems_of_code(dataset: DatasetConfig) -> Iterator[tuple[str | None, str | None, int]]:
    """The prompt of each row and the row as a problem; None where it is not one. ValueError for an unknown language."""
    for raw in load(dataset).rows():
        row = {column: value for column, value in raw.items() if value is not None}
        texts = [row.get("prompt"), row.get("test", row.get("tests"))]
        if all(isinstance(text, str) and text.strip() for text in texts):
            yield texts[0], assembly.problem(row, dataset.stop), 0
        else:
            yield None, None, 0


def gold_of(value: Any, boxed: bool) -> str | None:
    """The gold answer in a column, or in the last box of a solution; None where there is none that can be read."""
    text = str(value) if isinstance(value, str | int | float) else ""
    if boxed:
        text = corrected_text.extract(text) if "boxed" in text else ""
    return text.strip() if text.strip() and text.count("{") == text.count("}") else None
