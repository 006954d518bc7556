"""Grading files of stored responses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from losslab.commands.regrade import main, rules
from losslab.config.machine import MachineConfig
from losslab.grading.graders import Grader, Verdict
from losslab.grading.regrade import regrade


def test_regrade(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"benchmark": "aime24", "response": "\\boxed{2500}\u2028", "gold": "25", "mine": ["\ud800"]},
        {"benchmark": "minerva_math", "prediction": "\\boxed{x+1}", "gold": "1+x"},
        {"benchmark": "math500", "response": "\\boxed{east}", "gold": "", "gold_raw": "\\text{east}"},
        {"benchmark": "aime24", "response": "\\boxed{2500}", "gold": "25"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    regrade(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 1, {"minerva_math": "minerva_math", "aime24": "general"})
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert graded == [
        {**rows[0], "extracted": "2500", "official": True, "corrected": False, "timed_out": False},
        {**rows[1], "extracted": "x+1", "official": True, "corrected": True, "timed_out": False},
        {**rows[2], "extracted": "", "official": True, "corrected": True, "timed_out": False},
        {**rows[3], "extracted": "2500", "official": True, "corrected": False, "timed_out": False},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    guessed = "benchmark math500 is not in conf/benchmark: graded by the general rules"
    printed = capsys.readouterr()
    assert guessed in printed.out.splitlines()[0]
    assert printed.out.splitlines()[3:6] == [
        "| aime24 | 2 | 100.0 | 0.0 | 2 | 0 | 0 | 0 |",
        "| math500 | 1 | 100.0 | 100.0 | 0 | 0 | 1 | 0 |",
        "| minerva_math | 1 | 100.0 | 100.0 | 0 | 0 | 0 | 0 |",
    ]
    assert "reading: 0/5" in printed.err and "grading: 0/4" in printed.err


@pytest.mark.parametrize("rules", ["exact_match", "mathverse"])
def test_a_second_gold_that_the_rules_do_not_read_is_refused(tmp_path: Path, rules: str) -> None:
    row = {"benchmark": "x", "response": "Answer: 7", "gold": "8", "gold_raw": "7"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"in.jsonl, row 1: rules={rules} read one gold answer: leave gold_raw out"):
        regrade(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 1, {"x": rules})
    assert not (tmp_path / "out.jsonl").exists()


def test_regrade_takes_golds_that_are_numbers(tmp_path: Path) -> None:
    golds = [25, 25.0, 1e-7, 12345678901234567890, 0.1, -3]
    texts = ["25", "25", "0.0000001", "12345678901234567890", "1/10", "-3"]
    rows = [{"benchmark": "x", "response": f"\\boxed{{{t}}}", "gold": g} for t, g in zip(texts, golds, strict=True)]
    rows += [{"benchmark": "x", "response": "\\boxed{4}", "gold": "5", "gold_raw": 4}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    regrade(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 1, {"x": "general"})
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["gold"] for row in graded] == [*golds, "5"]
    assert [row["corrected"] for row in graded] == [True] * 7
    assert [row["official"] for row in graded] == [True] * 6 + [False]


def test_regrade_goes_on_where_it_was_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"benchmark": "x", "response": f"\\boxed{{{i}}}", "gold": "3"} for i in range(6)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = (tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    partial = tmp_path / ".out.jsonl.partial"

    def interrupted(grader: Grader, *arguments: object) -> Iterator[Verdict]:
        yield Verdict("marked", False, True, False)
        yield Verdict("2", False, False, False)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("losslab.grading.regrade._verdicts", interrupted)
        regrade(*files, 1, {"x": "general"})
    assert not files[1].exists()
    partial.write_text(partial.read_text() + '{"extracted": "torn')
    left = partial.read_text()
    regrade(*files, 1, {"x": "general"})
    assert "2 of 6 responses were graded before: continuing from there" in capsys.readouterr().out
    graded = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert [row["extracted"] for row in graded] == ["marked", "2", "2", "3", "4", "5"]
    assert not partial.exists()

    partial.write_text(left)  # other rules: none of its verdicts counts
    regrade(*files, 1, {"x": "math500"})
    graded = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert [row["extracted"] for row in graded] == ["0", "1", "2", "3", "4", "5"]


def test_the_cores_of_the_allocation_and_the_limit_of_the_command_line_are_used(tmp_path, monkeypatch):
    made = []

    class Noted(Grader):
        def __init__(self, workers: int, seconds: float, unsafe_code: bool) -> None:
            made.append((workers, seconds, unsafe_code))
            super().__init__(workers, seconds, unsafe_code=unsafe_code)

    monkeypatch.setattr("losslab.grading.regrade.Grader", Noted)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    (tmp_path / "in.jsonl").write_text('{"benchmark": "aime24", "response": "1", "gold": "1"}\n')
    files = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
    main([*files, "machine.grading_seconds=7.5"])
    main(files)
    assert made == [(3, 7.5, False), (3, MachineConfig().grading_seconds, False)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0", "machine.grading_seconds is 0.0: set it between 0.1 and 3,600"),
        ("soon", "machine.grading_seconds=soon is not a number"),
    ],
)
def test_a_limit_that_is_none_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        main(["in.jsonl", "out.jsonl", f"machine.grading_seconds={value}"])


def test_regrade_by_the_rules_of_the_benchmark_or_of_the_row(tmp_path: Path) -> None:
    row = {"benchmark": "minerva_math", "response": "\\boxed{0.5 m}", "gold": "0.5m"}
    rows = [row, row | {"rules": "general"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    regrade(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 1, rules())
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["extracted"], row["official"]) for row in graded] == [("0.5m", True), ("0.5", False)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: this is not JSON"),
        ("[]", "line 2: a row must be a JSON object"),
        ('{"benchmark": "x", "gold": "1"}', "line 2: a row needs a text in 'response'; it has 'benchmark', 'gold'"),
        (
            '{"benchmark": "x", "gold": "1", "completion": ""}',
            "line 2: a row needs a text in 'response'; rename 'completion' to 'response'",
        ),
        (
            '{"benchmark": "x", "gold": "1", "response": ["a", "b"]}',
            "line 2: a row needs a text in 'response'; it has a list: write a row for each of its texts",
        ),
        (
            '{"benchmark": "x", "answer": 1, "response": ""}',
            "line 2: a row needs a text or a number in 'gold'; rename 'answer' to 'gold'",
        ),
        ('{"benchmark": "x", "gold": true, "response": ""}', "line 2: a row needs a text or a number in 'gold'$"),
        ('{"benchmark": "x", "gold": NaN, "response": ""}', "line 2: a row needs a text or a number in 'gold'$"),
        ('{"benchmark": "x", "gold": "1", "prediction": null}', "line 2: a row needs a text in 'prediction'"),
        (
            '{"benchmark": "x", "gold": "1", "response": "", "gold_raw": []}',
            "line 2: 'gold_raw' must be a text or a number",
        ),
        (
            '{"benchmark": "x", "gold": "1", "response": "", "rules": "mine"}',
            "line 2: rules='mine' does not exist; there",
        ),
    ],
)
def test_regrade_names_the_malformed_row(tmp_path: Path, line: str, message: str) -> None:
    good = '{"benchmark": "x", "gold": "1", "response": "1"}\n'
    (tmp_path / "in.jsonl").write_text(good + line + "\n")
    with pytest.raises(ValueError, match=f"in.jsonl, {message}"):
        regrade(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 1, {"minerva_math": "minerva_math", "aime24": "general"})
    assert not (tmp_path / "out.jsonl").exists()
