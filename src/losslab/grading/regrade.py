"""Grades a file of stored responses again, without a model."""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from losslab.config.choices import Rules, VerdictName
from losslab.config.log import log
from losslab.config.masking import masked
from losslab.files.atomic import write
from losslab.files.content import content
from losslab.files.json_files import mend, read_lines
from losslab.files.python_source import syntax
from losslab.grading.graders import ONE_GOLD, SECONDS, Grader, Verdict
from losslab.grading.version import grader_version
from losslab.programs import assembly, languages, stack_language
from losslab.programs.sandbox import check_runnable
from losslab.progress import bar

# What other programs call a response, for a hint.
RESPONSES = ("completion", "generation", "output", "model_output", "generated_text", "text", "answer", "samples")
GOLDS = ("ground_truth", "target", "reference", "expected_answer", "label", "solution", "answer")
Row = dict[str, Any]


def regrade(
    input: Path,
    output: Path,
    workers: int,
    rules: Mapping[str, str],
    unsafe_code: bool = False,
    seconds: float = SECONDS,
) -> None:
    """Grades a JSONL file of {benchmark, response (or prediction), gold} rows, each by the rules of its benchmark.

    A row may name its rules in a column `rules`; a benchmark that `rules` lacks is graded by the general ones, with a
    message. The same rows come out in the same order with extracted, official, corrected and timed_out added. A column
    gold_raw, the gold before the official clean-up, is the gold of the corrected verdict where it is given. Both golds
    may be numbers. The accuracy of each benchmark by both verdicts is printed.

    Code in a language whose compiler is missing here comes out without a verdict, with a message: it is not wrong.

    `seconds` limit the verdict on one answer, as `machine.grading_seconds` does in an evaluation.

    Verdicts are kept beside the output as they are made: the same call after an interruption grades the rest.

    Raises:
        ValueError: a row is malformed, no code can be isolated here, or no row can be graded; nothing is written then.
    """
    rows = list(_rows(input))
    for number, row in enumerate(rows, start=1):
        if row.get("gold_raw") is not None and _rules(row, rules) in ONE_GOLD:
            raise ValueError(
                f"{input}, row {number}: rules={_rules(row, rules)} read one gold answer: leave gold_raw out"
            )
    check_stack_tests([_text(row["gold"]) for row in rows if _rules(row, rules) == Rules.stack_program], str(input))
    skipped = _skipped(rows, rules, str(input), unsafe_code)
    gradable = [row for i, row in enumerate(rows) if i not in skipped]
    for name in sorted({row["benchmark"] for row in rows if "rules" not in row} - set(rules)):
        log.info(f"benchmark {name} is not in conf/benchmark: graded by the general rules")
    output.parent.mkdir(parents=True, exist_ok=True)  # a bad path shows now and not after the work
    partial = output.with_name(f".{output.name}.partial")
    verdicts = _kept(partial, _key(input, rules, skipped, seconds))
    if verdicts:
        log.info(f"{len(verdicts)} of {len(gradable)} responses were graded before: continuing from there")
    with (
        Grader(workers, seconds, unsafe_code=unsafe_code) as grader,
        partial.open("a", encoding="utf-8") as file,
        bar("grading", len(gradable), "response", initial=len(verdicts)) as progress,
    ):
        for verdict in _verdicts(grader, gradable[len(verdicts) :], rules):
            verdicts.append(asdict(verdict))
            file.write(masked(json.dumps(verdicts[-1]) + "\n"))
            file.flush()
            progress.update()
    graded = [{**row, **verdict} for row, verdict in zip(gradable, verdicts, strict=True)]
    in_order = iter(graded)
    lines = [_without_verdict(row) if i in skipped else next(in_order) for i, row in enumerate(rows)]
    write(output, "".join(json.dumps(line) + "\n" for line in lines))
    partial.unlink()
    left = f", {len(skipped)} left without a verdict" if skipped else ""
    print(f"{summary(graded)}\n{len(graded)} responses graded{left}: {output}", flush=True)


def summary(graded: Sequence[Row]) -> str:
    """The accuracy of each benchmark by both verdicts, in percent, as a Markdown table."""
    lines = [
        "| benchmark | responses | official | corrected | official alone | corrected alone | no answer | timed out |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted({row["benchmark"] for row in graded}):
        part = [row for row in graded if row["benchmark"] == name]
        shares = [f"{100 * sum(row[verdict] for row in part) / len(part):.1f}" for verdict in VerdictName]
        counts = [
            sum(row["official"] and not row["corrected"] for row in part),
            sum(row["corrected"] and not row["official"] for row in part),
            sum(not row["extracted"] for row in part),
            sum(row["timed_out"] for row in part),
        ]
        lines.append(f"| {' | '.join([name, str(len(part)), *shares, *map(str, counts)])} |")
    return "\n".join(lines)


def check_stack_tests(golds: Sequence[str], place: str) -> None:
    """Refuse gold answers that are not tests of a stack program, before the first verdict."""
    for gold in golds:
        try:
            stack_language.tests(gold)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def lacking(golds: Sequence[Any], place: str, unsafe_code: bool) -> dict[str, str]:
    """The languages of code problems whose compiler is missing here, each with the sentence that says so.

    Raises:
        ValueError: no isolation, no limits, or a gold answer that is not a problem of code.
    """
    kinds = set()
    for gold in golds:
        if not assembly.is_problem(gold):
            raise ValueError(
                f"{place}: the gold answer of a code row must be a JSON object in a text, with language, prompt, stop "
                "and test (docs/evaluation.md)"
            )
        kinds.add(assembly.language(gold))
    if golds:
        check_runnable(unsafe_code)
    return {kind: sentence for kind in sorted(kinds) if (sentence := languages.without(kind))}


def _skipped(rows: Sequence[Row], rules: Mapping[str, str], place: str, unsafe_code: bool) -> set[int]:
    """The positions of the rows whose language has no compiler here, with a message for each language."""
    code = {i: row["gold"] for i, row in enumerate(rows) if _rules(row, rules) == Rules.code}
    lacks = lacking(list(code.values()), place, unsafe_code)
    skipped = {i for i, gold in code.items() if assembly.language(gold) in lacks}
    if skipped and len(skipped) == len(rows):
        raise ValueError(f"{place}: {'; '.join(lacks.values())}")
    for kind, sentence in lacks.items():
        count = sum(assembly.language(code[i]) == kind for i in skipped)
        log.warning(f"{count} responses are left without a verdict: {sentence}")
    return skipped


def _without_verdict(row: Row) -> Row:
    """The row without what an earlier grading may have said of it."""
    return {column: value for column, value in row.items() if column not in Verdict.__dataclass_fields__}


def _rules(row: Row, rules: Mapping[str, str]) -> str:
    return str(row.get("rules", rules.get(row["benchmark"], Rules.general)))


def _verdicts(grader: Grader, rows: Sequence[Row], rules: Mapping[str, str]) -> Iterator[Verdict]:
    """In the order of the rows, each as soon as it and those before it are done."""
    waiting: deque[Future[Verdict]] = deque()
    for row in rows:
        raw = row.get("gold_raw")
        truth = None if raw is None else _text(raw)
        waiting.append(grader.submit(_rules(row, rules), row[_response(row)], _text(row["gold"]), truth))
        while waiting and waiting[0].done():
            yield waiting.popleft().result()
    for verdict in waiting:
        yield verdict.result()


def _key(input: Path, rules: Mapping[str, str], skipped: set[int], seconds: float) -> str:
    """A hash of what decides the verdicts: the rows, those left out, the rules, the limit and the code."""
    code = [grader_version(), syntax(Path(__file__).read_text(encoding="utf-8"))]  # this module reads the rows
    about = [content(str(input)), sorted(skipped), dict(rules), seconds, code]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _kept(partial: Path, key: str) -> list[Row]:
    """The verdicts of an interrupted call on the same rows by the same grader; the file begins with their key."""
    mend(partial)
    lines = read_lines(partial)
    if not lines or lines[0] != {"key": key}:
        write(partial, json.dumps({"key": key}) + "\n")
        return []
    return lines[1:]


def _rows(path: Path) -> Iterator[Row]:
    lines = path.read_text(encoding="utf-8").split("\n")
    with bar("reading", len(lines), "line") as progress:
        for number, line in enumerate(lines, start=1):
            progress.update()
            if line.strip():
                yield _row(f"{path}, line {number}", line)


def _row(place: str, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        raise ValueError(f"{place}: this is not JSON; each line must be one JSON object") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a row must be a JSON object")
    for column, names in (("benchmark", ("task", "dataset", "source")), (_response(row), RESPONSES)):
        if not isinstance(row.get(column), str):
            raise ValueError(f"{place}: a row needs a text in {column!r}{_hint(row, column, names)}")
    if not _is_gold(row.get("gold")):
        raise ValueError(f"{place}: a row needs a text or a number in 'gold'{_hint(row, 'gold', GOLDS)}")
    if not _is_gold(row.get("gold_raw", "")):
        raise ValueError(f"{place}: 'gold_raw' must be a text or a number")
    if row.get("rules", Rules.general) not in list(Rules):
        raise ValueError(f"{place}: rules={row['rules']!r} does not exist; there are {', '.join(Rules)}")
    return row


def _hint(row: Row, column: str, names: Sequence[str]) -> str:
    """What else may be meant, where the column is missing or holds a list."""
    if isinstance(row.get(column), list):
        return "; it has a list: write a row for each of its texts"
    if column in row:
        return ""
    other = next((name for name in names if name in row), None)
    return f"; rename {other!r} to {column!r}" if other else f"; it has {', '.join(map(repr, row)) or 'no columns'}"


def _response(row: Row) -> str:
    return "prediction" if "prediction" in row and "response" not in row else "response"


def _is_gold(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0
    return number or isinstance(value, str)


def _text(gold: str | int | float) -> str:
    """A gold as text; a number without an exponent."""
    return f"{Decimal(repr(gold)):f}" if isinstance(gold, float) else str(gold)
