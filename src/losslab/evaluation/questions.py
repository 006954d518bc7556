"""The questions of a data set with their true answers, for answers that are to be graded."""

from typing import Any

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Rules
from losslab.config.schema import DatasetConfig
from losslab.data.rows import asked
from losslab.evaluation.benchmarks import Benchmark, Problem
from losslab.grading import corrected_text, official_text

NAME = "questions"  # of the data set's questions among benchmarks


def questions(dataset: DatasetConfig) -> tuple[Benchmark, dict[str, int]]:
    """The different questions of a data set that have a gold answer, and how many rows were left out.

    The gold is the content of `gold_column`, else the last box of the solution.
    """
    golds: dict[str, str] = {}
    rows = without = repeated = 0
    for question, value in asked(dataset):
        rows += 1
        gold = gold_of(value, boxed=dataset.gold_column is None)
        if question is None or gold is None:
            without += 1
        elif question.strip() in golds:
            repeated += 1
        else:
            golds[question.strip()] = gold
    if not golds:
        place = dataset.gold_column or f"a box of {dataset.answer_column}"
        raise ValueError(f"no row of {dataset.path} has a gold answer in {place}: set dataset.gold_column")
    problems = [
        Problem(i, question, official_text.gold(Rules.general, {"answer": gold}), gold)
        for i, (question, gold) in enumerate(golds.items())
    ]
    counts = {"rows": rows, "without_gold": without, "repeated_questions": repeated, "questions": len(problems)}
    return Benchmark.of(NAME, problems, BenchmarkConfig()), counts


def gold_of(value: Any, boxed: bool) -> str | None:
    """The gold answer in a column, or in the last box of a solution; None where there is none that can be read."""
    text = str(value) if isinstance(value, str | int | float) else ""
    if boxed:
        text = corrected_text.extract(text) if "boxed" in text else ""
    return text.strip() if text.strip() and text.count("{") == text.count("}") else None
