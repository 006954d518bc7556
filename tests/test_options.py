"""The rules of MathVerse, MATH-Vision and We-Math on answers judged by hand, and We-Math's four-way score by hand."""

import json

import numpy as np
import pytest

from losslab.config.benchmark import WITH_OPTIONS, BenchmarkConfig
from losslab.config.choices import Rules
from losslab.evaluation import mastery, scores
from losslab.evaluation.benchmarks import load
from losslab.grading import options
from losslab.grading.graders import Grader

# rules, response, gold, what is extracted, official, corrected
CASES = [
    # We-Math: the letter behind the last "Answer".
    ("wemath", "<Thought process>: <<3+4=7.>> <Answer>: <<B>>", "B\n7", "B", True, True),
    ("wemath", "<Thought process>: <<so C>> <Answer>: <<C. 8>>", "B\n7", "C", False, False),
    ("wemath", "The Answer: A is wrong, so Answer: B.", "B\n7", "B", True, True),
    ("wemath", "I choose (B).", "B\n7", "", False, True),  # no word "Answer", and I is no option
    ("wemath", "<Answer>: <<7>>", "B\n7", "", False, True),  # the option in the place of its letter
    ("wemath", "Answer: Both are right", "B\n7", "B", True, False),  # a fault: any word may begin with the letter
    # MATH-Vision: the letter, or the value to two decimals.
    ("mathvision", "So it is \\boxed{B}.", "B\n$\\frac{3}{11}$", "b", True, True),
    ("mathvision", "So it is \\boxed{\\frac{3}{11}}.", "B\n$\\frac{3}{11}$", "\\frac{3}{11}", True, True),
    ("mathvision", "The answer is (B).", "B\n8", "b", True, True),
    ("mathvision", "I think the answer is 8. It fits.", "B\n8", "8", True, True),
    ("mathvision", "\\boxed{0.273}", "B\n$\\frac{3}{11}$", "0.273", True, False),  # 0.2727… to two decimals
    ("mathvision", "\\boxed{\\sqrt2+1}", "1+\\sqrt{2}", "\\sqrt{2}+1", True, True),
    ("mathvision", "\\boxed{(1, 2.001)}", "(1,2)", "(1,2.001)", True, False),
    ("mathvision", "\\boxed{(1, 3)}", "(1,2)", "(1,3)", False, False),
    ("mathvision", "First \\boxed{4}, no: \\boxed{5}", "5", "5", True, True),
    ("mathvision", "\\boxed{60^{\\circ}}", "60", "60", True, True),
    ("mathvision", "\\boxed{(C)}", "C", "c", True, True),
    ("mathvision", "\\boxed{D}", "C\n12", "d", False, False),
    ("mathvision", "1+" * 200 + "1", "401", "1+" * 200 + "1", False, False),  # a response without an answer
    ("mathvision", "", "C\n12", "", False, False),
    # MathVerse: the quick match, which a model's comparison takes the place of.
    ("mathverse", "Reasons. The answer is B.", "B\n2√3", "B", True, True),
    ("mathverse", "Reasons. The answer is B:2√3", "B\n2√3", "B:2√3", False, True),
    ("mathverse", "Hence \\boxed{14\\text{ cm}}", "14", "14\\text{ cm}", False, True),
    ("mathverse", "Hence \\boxed{14}", "14", "14", True, True),
    ("mathverse", "Hence \\boxed{A}", "B\n2√3", "A", False, False),
]


@pytest.fixture(scope="module")
def grader():
    with Grader(1, seconds=30) as grader:
        yield grader


def test_verdicts_on_answers_judged_by_hand(grader):
    waiting = [grader.submit(rules, response, gold) for rules, response, gold, *_ in CASES]
    for case, verdict in zip(CASES, waiting, strict=True):
        told = verdict.result()
        assert (told.extracted, told.official, told.corrected, told.timed_out) == (*case[3:], False), case


def test_the_configuration_knows_the_rules_with_options():
    assert set(WITH_OPTIONS) == set(options.PUBLISHED) and set(WITH_OPTIONS) <= set(Rules)
    assert [BenchmarkConfig(rows=1740, rules=rules).problems for rules in ("wemath", "mathverse")] == [525, 1740]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["4", "5"], {"A": "4", "B": "5"}),
        ("A. 300, 400;B. 400, 300; E. No correct answer", {"A": "300, 400", "B": "400, 300", "E": "No correct answer"}),
        ("A. ①; ③; B. ②; ③", {"A": "①; ③", "B": "②; ③"}),
        ("Find BC. A is a point.\nChoices:\nA:2\nB:2√{3}", {"A": "2", "B": "2√{3}"}),
        ("What is x?", {}),
    ],
)
def test_options_are_read_from_lists_and_texts(value, expected):
    assert options.parsed(value) == expected


def test_golds_and_lines_of_options():
    assert options.gold("B", {"A": "4", "B": " 5\n6 "}) == "B\n5 6" and options.gold("12", {}) == "12"
    assert options.gold("B", {"A": "A", "B": "B"}) == "B"  # the options stand in the image
    assert options.lines(["4", "5"]) == ["(A) 4", "(B) 5"] and options.lines(["A", "B", "C"]) == []


# Four two-step and two three-step problems: verdicts on the one-step questions and on the whole, one sample each.
STEPS = {
    "2steps_1": ([1, 1], 1),  # complete mastery
    "2steps_2": ([1, 1], 0),  # inadequate generalization
    "2steps_3": ([1, 0], 1),  # rote memorization, loosely complete mastery
    "2steps_4": ([0, 0], 0),  # insufficient knowledge
    "3steps_1": ([0, 0, 0], 1),  # rote memorization, loosely too
    "3steps_2": ([1, 0, 1], 0),  # insufficient knowledge
}


def records() -> list[dict]:
    """Their twenty questions, the whole of each first."""

    def record(problem: str, part: str, right: int) -> dict:
        sample = {"official": bool(right), "corrected": bool(right), "extracted": "A", "finish_reason": "stop"}
        sample |= {"tokens": 3, "timed_out": False, "text": "A"}
        key = f"{problem.split('_')[0]}_{part}"
        return {"step": [problem, part], "groups": {"key": key}, "samples": [sample], "seen": []}

    rows = []
    for problem, (ones, whole) in STEPS.items():
        rows.append(record(problem, "multi", whole))
        rows += [record(problem, str(i), right) for i, right in enumerate(ones, start=1)]
    return rows


def test_the_four_way_score_by_hand():
    row = scores.summarise(records(), 1, "official")
    assert (row["problems"], row["questions"]) == (6, 20)
    assert row["score"] == pytest.approx(100 * 1.5 / 6)  # one mastered, one not generalised
    assert row["right"]["official"] == [1, 0.5, 0, 0, 0, 0]
    strict, loose = row["mastery"]["strict"], row["mastery"]["loose"]
    assert strict == pytest.approx(
        {"score": 25, "complete_mastery": 100 / 6, "rote_memorization": 200 / 3, "inadequate_generalization": 100 / 6,
         "insufficient_knowledge": 100 / 3}
    )  # fmt: skip
    assert loose == pytest.approx(
        {"score": 100 * 2.5 / 6, "complete_mastery": 100 / 3, "rote_memorization": 100 / 3,
         "inadequate_generalization": 100 / 6, "insufficient_knowledge": 100 / 3}
    )  # fmt: skip
    assert row["pass_at"]["1"] == 100 * (7 + 3) / 20  # of questions: seven single steps and three wholes are right
    assert row["breakdown"]["key"]["2steps_multi"]["score"] == 50
    whole = {
        "verdict": "official",
        "benchmarks": {"wemath": row},
        "average": scores.average({"wemath": row}, "official"),
    }
    lines = scores.markdown(whole).splitlines()
    assert [line for line in lines if "mastery" in line or "loose" in line] == [
        "| wemath by mastery | score | complete mastery | rote memorization | inadequate generalization "
        "| insufficient knowledge |",
        "| loose | 41.67 | 33.33 | 33.33 | 16.67 | 33.33 |",
    ]


def test_points_of_several_samples_are_the_formula_of_the_paper():
    """(problems − inadequate generalization / 2 − rote memorization − insufficient knowledge) / problems."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, (40, 5)).astype(float)
    members = [list(range(4 * i, 4 * i + 4)) for i in range(10)]
    for loose in (False, True):
        kinds = mastery.classify(right, members, loose)
        assert (sum(kinds.values()) == 1).all()
        taken = kinds["inadequate_generalization"] / 2 + kinds["rote_memorization"] + kinds["insufficient_knowledge"]
        np.testing.assert_array_equal(mastery.points(right, members, loose), 1 - taken)


def wemath(folder, *rows: tuple[str, str]):
    path = folder / "wemath.jsonl"
    lines = [
        {"question": "a?", "option": "A. 1; B. 2", "answer": "B", "ID": problem, "key": key} for problem, key in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load("wemath", BenchmarkConfig(path=str(path), question="question", rules=Rules.wemath, options="option",
                                          instruction="{problem} {option}"))  # fmt: skip


def test_questions_are_of_their_multi_step_problem(tmp_path):
    problems = wemath(
        tmp_path, ("2steps_1", "2steps_1"), ("2steps_1", "2steps_2"), ("2steps_1", "2steps_multi")
    ).problems
    assert [problem.step for problem in problems] == [("2steps_1", "1"), ("2steps_1", "2"), ("2steps_1", "multi")]
    assert problems[0].gold == problems[0].gold_official == "B\n2" and problems[0].asked == "a? A. 1; B. 2"
    with pytest.raises(
        ValueError, match="problem 2steps_1 has the questions 1, multi, multi; it must have 1, 2 and so on"
    ):
        wemath(tmp_path, ("2steps_1", "2steps_1"), ("2steps_1", "2steps_multi"), ("2steps_1", "2steps_multi"))
    with pytest.raises(ValueError, match="no multi-step problem in the columns 'ID' and 'key'"):
        wemath(tmp_path, ("2steps_1", "steps"))
