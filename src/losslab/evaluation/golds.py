"""The question and the gold answers of a benchmark's row, from the columns that its file names.

A value that is no answer, or a column that is not there, is refused: another column in its place, or the text of a
dictionary, would make every verdict wrong without a word.
"""

import math
import re
from collections import Counter
from fractions import Fraction
from typing import Any

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Gold, Rules
from losslab.grading import corrected_text, official_text, options
from losslab.programs import assembly, stack_language

QUESTIONS = ("question", "problem")  # the hub and the official files disagree on the name of the column
FRACTION = re.compile(r"\\frac\{(-?\d+)\}\{(\d+)\}")
BOX, HASHES = "\\boxed{}", "####"  # before the answer in a solution
UNBALANCED = "the gold answer {!r} does not parse: its braces do not match"
SOLUTION = "solution"  # so they do on this one: the hub's copy of Minerva Math has the last box alone, in `answer`


def question(place: str, row: dict[str, Any], cfg: BenchmarkConfig) -> str:
    """The question of a row, without spaces around it; `place` says in messages where the row stands.

    Raises:
        ValueError: the row lacks the column, or the column holds no text.
    """
    names = (cfg.question, *QUESTIONS) if cfg.question in QUESTIONS else (cfg.question,)
    column = next((name for name in names if name in row), None)
    if column is None:
        raise ValueError(f"{place}: no question: {_no_column(row, cfg.question)}")
    if not isinstance(row[column], str) or not row[column].strip():
        raise ValueError(f"{place}: no text in the column {column!r}; the row has {', '.join(row)}")
    return row[column].strip()


def of(place: str, row: dict[str, Any], cfg: BenchmarkConfig) -> tuple[str, str]:
    """The gold answer of a row as the official evaluation scores it, and as the authors meant it.

    Raises:
        ValueError: the row lacks the column, or the column holds nothing that the benchmark's `gold` and `rules` read.
    """
    try:
        if cfg.rules == Rules.code:
            return (assembly.problem(row, cfg.stop),) * 2
        if cfg.rules == Rules.stack_program:
            stack_language.tests(tests := str(_answer(row, cfg)))
            return tests, tests
        if cfg.rules in options.PUBLISHED:
            return (_choice(row, cfg),) * 2
        return (_right_answers(row, cfg),) * 2 if cfg.gold == Gold.any else _mathematical(row, cfg)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def solution_mark(value: Any) -> str:
    """What marks the answer in a text that is a whole solution; empty for a plain answer.

    No answer would equal such a text.
    """
    if not isinstance(value, str):
        return ""
    return BOX if corrected_text.BOX.search(value) else HASHES if HASHES in value else ""


def alike(gold: str, other: str) -> bool:
    """Whether two gold answers are the same text or the same number, as 0.5 and \\frac{1}{2} are."""
    if gold == other:
        return True
    try:
        return Fraction(FRACTION.sub(r"\1/\2", gold)) == Fraction(FRACTION.sub(r"\1/\2", other))
    except (ValueError, ZeroDivisionError):
        return False


def _no_column(row: dict[str, Any], column: str) -> str:
    return f"there is no column {column!r}; the row has {', '.join(row)}"


def _answer(row: dict[str, Any], cfg: BenchmarkConfig) -> Any:
    """What the column of the answer holds. Raises ValueError where the row lacks it."""
    if cfg.answer not in row:
        raise ValueError(f"no gold answer: {_no_column(row, cfg.answer)}")
    return row[cfg.answer]


def _choice(row: dict[str, Any], cfg: BenchmarkConfig) -> str:
    """The right answer of a question that may have options, and behind a letter the text of its option."""
    answer = _answer(row, cfg)
    if isinstance(answer, bool) or not str(_scalar(answer, cfg)).strip():
        raise ValueError(f"no gold answer in the column {cfg.answer!r}")
    try:
        choices = options.parsed(row.get(cfg.options)) if cfg.options else {}
    except ValueError as error:
        raise ValueError(f"{error} in the column {cfg.options!r}") from None
    answer = str(answer).strip()
    free = len(choices) < 2  # a text of which one line looks like an option is a question without any
    try:
        letter = answer if free else options.letter_of(answer, choices)
    except ValueError:
        if cfg.rows is None:
            raise
        letter = answer  # a published set is taken with its faults
    return options.gold(letter, choices)


def _right_answers(row: dict[str, Any], cfg: BenchmarkConfig) -> str:
    """A line for each of the right answers."""
    answers = _answer(row, cfg)
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise ValueError(f"no list of right answers ({cfg.gold}) in the column {cfg.answer!r}")
    return "\n".join(" ".join(answer.split()) for answer in answers)


def _mathematical(row: dict[str, Any], cfg: BenchmarkConfig) -> tuple[str, str]:
    if cfg.gold == Gold.column and (mark := solution_mark(row.get(cfg.answer))):
        raise ValueError(
            f"the answer column holds a solution: set gold: {Gold.hashes if mark == HASHES else Gold.boxed}"
        )
    rules, official = _as_official(cfg, row)
    try:
        gold_official, gold = official_text.gold(rules, official), corrected_text.gold(rules, official)
    except ValueError:
        raise ValueError(f"no gold answer ({cfg.gold}) in the column {cfg.answer!r}") from None
    if not gold.strip():
        raise ValueError("the gold answer is empty")
    if Counter(gold)["{"] != Counter(gold)["}"]:
        raise ValueError(UNBALANCED.format(gold))
    return gold_official, gold


def _as_official(cfg: BenchmarkConfig, row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The rules that read the gold of a row, and the row with the columns of the official files."""
    if cfg.gold == Gold.boxed:
        if cfg.answer == SOLUTION and SOLUTION not in row and "answer" in row:
            answer = _in_box(_scalar(row["answer"], cfg))
        else:
            answer = _answer(row, cfg)
        has_box = isinstance(answer, str) and "boxed" in answer
        return cfg.rules if cfg.rules in official_text.GOLD_FROM_SOLUTION else "math", {
            **row,
            "solution": answer if has_box else None,
        }
    answer = _answer(row, cfg)
    if cfg.gold == Gold.hashes:
        return Rules.gsm8k, {"answer": answer}
    if not isinstance(answer, list):
        return cfg.rules, _plain(cfg.rules, _scalar(answer, cfg))
    if cfg.rules != Rules.olympiadbench:
        raise ValueError(
            f"the gold answer in the column {cfg.answer!r} is a list: set rules: olympiadbench where its items are the "
            "parts of one answer, or gold: any and rules: exact_match where each of them is right"
        )
    return cfg.rules, {"final_answer": [str(_scalar(part, cfg)) for part in answer]}


def _plain(rules: Rules, answer: str | int | float) -> dict[str, Any]:
    """A row with a plain answer where the official file of the rules has it, so that it is cleaned as they say."""
    if not str(answer).strip():
        raise ValueError("the gold answer is empty")
    if rules in official_text.GOLD_FROM_SOLUTION:
        return {"solution": _in_box(answer)}
    if rules == Rules.olympiadbench:
        return {"final_answer": [str(answer)]}
    return {"answer": f"{HASHES} {answer}" if rules == Rules.gsm8k else answer}


def _in_box(answer: str | int | float) -> str:
    """An answer as a solution. Raises ValueError where the box would end elsewhere than the answer."""
    if (text := str(answer)).count("{") != text.count("}"):
        raise ValueError(UNBALANCED.format(text))
    return f"\\boxed{{{text}}}"


def _scalar(value: Any, cfg: BenchmarkConfig) -> str | int | float:
    """A value that is a text, a finite number or a truth value. Raises ValueError for any other."""
    if value is None:
        raise ValueError(f"no gold answer ({cfg.gold}) in the column {cfg.answer!r}")
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(
            f"the gold answer in the column {cfg.answer!r} is {str(value)[:60]!r}, a {type(value).__name__}: "
            "a gold answer must be a text or a finite number"
        )
    return value
