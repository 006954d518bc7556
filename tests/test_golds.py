"""The rows of a benchmark: what their columns may hold, and how the rules read the golds."""

import json

import pytest

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Rules
from losslab.evaluation.benchmarks import Benchmark, load


def local(folder, *rows: dict, **options) -> Benchmark:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load("mine", BenchmarkConfig(path=str(path), **options))


@pytest.mark.parametrize("rules", [Rules.mathvision, Rules.mathverse, Rules.wemath])
@pytest.mark.parametrize(
    ("choices", "answer", "gold"),
    [
        (["3", "4"], "B", "B\n4"),
        (["3", "4"], "b", "B\n4"),
        (["3", "4"], "4", "B\n4"),
        (["3", "4"], 4, "B\n4"),
        (["2", "1"], 1, "B\n1"),  # the text and not the number of an option
        (["b", "a"], "a", "B\na"),
        ("A. 300; 400;B. 400;\n 300", "400;\n300", "B\n400; 300"),
        ([], "4", "4"),  # no multiple choice
        ("Where is\nA. Smith?", "there", "there"),
    ],
)
def test_the_gold_of_a_row_with_options_is_a_letter(tmp_path, rules, choices, answer, gold):
    row = {"problem": "2+2?", "choices": choices, "answer": answer, "ID": "2steps_1", "key": "2steps_1"}
    steps = [row, row | {"problem": "?", "key": "2steps_2"}, row | {"problem": "??", "key": "2steps_multi"}]
    rows = steps if rules == Rules.wemath else [row]
    problem = local(tmp_path, *rows, rules=rules, options="choices").problems[0]
    assert (problem.gold_official, problem.gold) == (gold, gold)


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        (["3", "4"], 1, r"jsonl:1: the answer 1 is neither a letter of its options \(A, B\) nor the text of one"),
        (["3", "4"], "C", "the answer C is neither"),
        (["3", "4"], "AB", "the answer AB is neither"),
        (["4", "4"], "4", "the answer 4 is neither"),
        ("A. 3; B. 4", "D", "the answer D is neither"),
        ([str(i) for i in range(27)], "A", r"jsonl:1: more options \(27\) than letters in the column 'choices'"),
    ],
)
def test_other_golds_of_a_row_with_options_are_refused(tmp_path, choices, answer, message):
    row = {"problem": "2+2?", "choices": choices, "answer": answer}
    with pytest.raises(ValueError, match=message):
        local(tmp_path, row, rules=Rules.mathvision, options="choices")


def test_a_published_set_keeps_an_answer_that_its_options_lack(tmp_path):
    row = {"problem": "2+2?", "choices": "A. 3; B. 4", "answer": "D"}
    assert local(tmp_path, row, rules=Rules.mathverse, options="choices", rows=1).problems[0].gold == "D"
    odd = row | {"answer": "4 apples"}  # the corrected verdict compares it as it is
    assert local(tmp_path, odd, rules=Rules.mathverse, options="choices", rows=1).problems[0].gold == "4 apples"
    with pytest.raises(ValueError, match="the answer 4 apples is neither a letter"):
        local(tmp_path, odd, rules=Rules.mathverse, options="choices")


def test_no_option_is_missing_from_a_prompt(tmp_path):
    row = {"problem": "p", "answer": "5", "other": [1] * 27}
    assert (
        local(tmp_path, row | {"choices": ["a"] * 26}, instruction="{problem}\n{choices}")
        .problems[0]
        .asked.endswith("(Y) a\n(Z) a")
    )
    with pytest.raises(ValueError, match=r"jsonl:1 has more options \(27\) than letters in `choices`"):
        local(tmp_path, row | {"choices": ["a"] * 27}, instruction="{problem}\n{choices}")


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"problem": "\ud83d?", "answer": "5"}, "problem"),
        ({"problem": "p", "answer": "\ude00"}, "answer"),
        ({"problem": "p", "answer": "5", "choices": ["a", "\ud83d"]}, "choices"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused(tmp_path, row, column):
    with pytest.raises(ValueError, match=rf"mine.jsonl:1 has half of a surrogate pair in `{column}`, which no token"):
        local(tmp_path, row)
    assert local(tmp_path, {"problem": "\ud83d\ude00?", "answer": "5"}).problems[0].question == "\U0001f600?"


@pytest.mark.parametrize(
    ("rules", "official"),
    [
        (Rules.general, ("0.5", "\\frac{1}{2}", "27", "3")),
        (Rules.math500, ("0.5", "\\frac{1}{2}", "27", "3")),
        (Rules.minerva_math, ("0.5m", "\\frac{1}{2}", "27", "3")),
        (Rules.olympiadbench, ("0.5", "\\frac{1}{2}", "27", "3")),
        (Rules.gsm8k, ("0.5", "\\frac{1}{2}", "27", "3")),
    ],
)
def test_a_plain_answer_is_cleaned_by_any_rules(tmp_path, rules, official):
    rows = [{"problem": f"{i}?", "answer": answer} for i, answer in enumerate(("0.5 m", "\\frac12", 27.0, 3))]
    problems = local(tmp_path, *rows, rules=rules).problems
    assert tuple(problem.gold_official for problem in problems) == official
    assert [problem.gold for problem in problems[:2]] == ["0.5 m", "\\frac12"]
    for answer, message in (
        (" ", "jsonl:1: the gold answer is empty"),
        ("\\frac{1}{2", r"jsonl:1: the gold answer .* does not parse: its braces do not match"),
        (None, "jsonl:1: no gold answer"),
        ("so \\boxed{2}", "holds a solution: set gold: boxed"),
    ):
        with pytest.raises(ValueError, match=message):
            local(tmp_path, {"problem": "p", "answer": answer}, rules=rules)


def test_an_identifier_that_is_null_is_none(tmp_path):
    rows = [{"problem": f"{i}+1?", "answer": str(i + 1), "id": None} for i in range(2)]
    assert [problem.gold for problem in local(tmp_path, *rows).problems] == ["1", "2"]
    rows = [row | {"unique_id": None, "id": 7} for row in rows]
    with pytest.raises(ValueError, match=r"jsonl:2: id 7 is also that of .*jsonl:1; remove one of the two"):
        local(tmp_path, *rows)
