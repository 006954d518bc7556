"""Benchmark problems in the training data: planted ones are found, and on real sets a slow search finds the same."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from losslab.evaluation import contamination
from losslab.evaluation.benchmarks import Benchmark, Problem
from losslab.evaluation.contamination import WORD, Corpus, search, seen

LONG = "Ann has 3 red, 4 blue and 5 green marbles; how many marbles does she have in all?"  # 18 words


def benchmark(name: str, *questions: str) -> Benchmark:
    return Benchmark(name, [Problem(i, question, "1", "1") for i, question in enumerate(questions)], f"hash of {name}")


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ((LONG, "12"), {"exact", "words"}),
        ((f"  {LONG.upper()}\n", "12"), {"exact", "words"}),
        (("Solve this. " + LONG, "12"), {"words"}),
        (("Something else?", "As in: " + LONG.replace("?", ".")), {"words"}),
        ((LONG.replace(";", " -"), "12"), {"words"}),  # other punctuation is another text of the same words
        ((" ".join(LONG.split()[5:]), "12"), {"words"}),  # the last 13 words
        ((" ".join(LONG.split()[6:]), "12"), set()),  # twelve are too few
        ((" ".join(LONG.split()[:8]), " ".join(LONG.split()[8:])), set()),  # two texts are no row of words
        ((LONG.replace("marbles", "stones"), "12"), set()),
        ((None, LONG), {"words"}),  # a broken row
        ((None, None), set()),
    ],
)
def test_one_row(row, kinds):
    found = search([("1+1=?", "2"), row], {"mine": ["7*8=?", LONG]})["mine"]
    assert {kind for kind, indices in found.items() if indices == [1]} == kinds
    assert all(indices in ([], [1]) for indices in found.values())


def test_each_character_of_a_script_without_spaces_is_a_word():
    """The last 13 characters of a question, of which no 13 stand between two spaces or signs; 12 are too few."""
    question = (
        "\u5728\u4e09\u89d2\u5f62ABC\u4e2d\uff0c\u5df2\u77e5\u89d2A\u7684\u5927\u5c0f\uff0c\u6c42\u8fb9BC\u7684\u957f"
    )
    words = WORD.findall(question)
    assert len(words) == 18 and words[4:6] == ["ABC", "\u4e2d"]
    for start, found in ((question.index("\u4e2d"), [0]), (question.index("\u5df2"), [])):
        assert search([("\u95ee: " + question[start:], "5")], {"zh": [question]})["zh"]["words"] == found


def test_short_questions_count_only_as_a_whole():
    rows = [("1+1=?", "2"), ("What is 1 + 2 = ?", "3"), ("1 - 3 = ?", "-2")]
    found = search(rows, {"sums": ["1+1=?", "1+2=?", "1+3=?", "1 -3=?"], "others": ["5+5=?", "1 + 1 = ?"]})
    assert found == {"sums": {"exact": [0, 3], "words": []}, "others": {"exact": [1], "words": []}}


def test_a_corpus_is_read_once_and_only_for_what_is_new(tmp_path):
    readings = []

    def rows():
        readings.append(1)
        yield from [(LONG, "12"), ("1+1=?", "2")]

    one, two = benchmark("one", LONG, "2+2=?"), benchmark("two", "1+1=?")
    corpus = Corpus("a", rows)
    assert seen(corpus, [one, two], tmp_path) == {
        "one": {"exact": [0], "words": [0]},
        "two": {"exact": [0], "words": []},
    }
    assert seen(corpus, [two, one], tmp_path)["one"] == {"exact": [0], "words": [0]}
    assert len(readings) == 1
    assert seen(corpus, [one, benchmark("three", "3+3=?")], tmp_path)["three"] == {"exact": [], "words": []}
    seen(Corpus("b", rows), [one], tmp_path)
    assert len(readings) == 3


def test_nothing_is_said_of_a_benchmark_with_images(tmp_path):
    shown = replace(benchmark("shown", LONG), problems=[Problem(0, LONG, "1", "1", images=(b"",))])
    corpus = Corpus("a", lambda: iter([(LONG, "12")]))
    assert seen(corpus, [benchmark("one", LONG), shown], tmp_path) == {"one": {"exact": [0], "words": [0]}}


@pytest.fixture(scope="module")
def real(shared) -> dict[str, list[str]]:
    questions = {}
    for path in sorted((shared / "data/benchmarks").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if "problem" in rows[0] or "question" in rows[0]:  # others are programs
            questions[path.stem] = [row.get("problem", row.get("question")) for row in rows]
    return questions


def training(shared: Path, name: str, *columns: str) -> list[tuple[str, ...]]:
    lines = (shared / f"data/train/{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [tuple(json.loads(line)[column] for column in columns) for line in lines if line]


def test_real_sets_and_planted_problems(shared, real):
    """MATH without MATH500 holds no MATH500 question, and neither does GSM8K's train split one of its test split."""
    math = training(shared, "math_4500", "problem", "solution")
    clean = search(math, real)
    assert {name: len(found["exact"]) for name, found in clean.items()} == dict.fromkeys(real, 0)
    assert {name: len(found["words"]) for name, found in clean.items()} == {
        "math500": 47, "minerva_math": 0, "olympiadbench": 3, "aime24": 5, "amc23": 1, "aime25": 7, "gsm8k": 0,
    }  # fmt: skip
    gsm8k = search(training(shared, "gsm8k_7473", "question", "answer"), real)["gsm8k"]
    assert (len(gsm8k["exact"]), gsm8k["words"]) == (0, [581, 602, 632])

    fresh = [i for i in range(500) if i not in clean["math500"]["words"]]
    long = [i for i in fresh if len(contamination.WORD.findall(real["math500"][i])) >= 13]
    short = [i for i in fresh if i not in long]
    as_questions, in_answers = [*long[:20], *short[:3]], long[20:30]
    planted = [(real["math500"][i].replace(" ", "  ").upper(), "no idea") for i in as_questions]
    planted += [("What do you know?", f"This one: {real['math500'][i]} And more.") for i in in_answers]
    found = search([*math[:2000], *planted, *math[2000:]], real)
    assert found["math500"]["exact"] == sorted(as_questions)
    assert found["math500"]["words"] == sorted([*clean["math500"]["words"], *long[:30]])
    assert found["amc23"] == clean["amc23"]


def test_it_agrees_with_a_slow_search(shared, real):
    rows = training(shared, "math_4500", "problem", "solution")[:1500]

    def grams(text: str) -> set[str]:
        words = re.sub(r"\W+", " ", text.lower()).split()
        return {" ".join(words[i : i + 13]) for i in range(len(words) - 12)}

    corpus = set().union(*(grams(text) for row in rows for text in row))
    for name, found in search(rows, real).items():
        assert found["words"] == [i for i, question in enumerate(real[name]) if grams(question) & corpus]
