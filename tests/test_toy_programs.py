"""The embedded world's code: the stack language by hand, and formulas, programs and tests that agree with it."""

import hashlib
import json
import random

import pytest
from hydra import compose, initialize_config_dir

from losslab.commands.regrade import rules
from losslab.composition.compose import read
from losslab.config.benchmark import BenchmarkConfig
from losslab.config.paths import CONF
from losslab.config.schema import Config, DatasetConfig
from losslab.data import toy_programs, toy_task
from losslab.data.table import load
from losslab.evaluation import benchmarks
from losslab.evaluation.questions import check_verifier, questions
from losslab.files.content import TOY_TASK
from losslab.grading.graders import Grader
from losslab.grading.regrade import regrade
from losslab.online.verifier import Verifier
from losslab.programs import stack_language
from losslab.records.identity import identity

EXACT = random.Random(0)  # for programs without bugs


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
        return read(cfg, cfg.hydra.runtime.choices)


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ("7", 7),
        ("xy+", 7),
        ("xy-", 3),  # the lower number first
        ("yx-", -3),
        ("x3+y*z-", 7),  # (5+3)*2-9
        ("zyx3+*-", -7),
        ("xyz", None),  # three numbers are left
        ("x+", None),  # one is missing
        ("+", None),
        ("", None),
        ("x y +", None),
        ("x²", None),
        ("xw+", None),
        ("__import__", None),
        ("1" + "1*" * 128, None),  # longer than a program may be
    ],
)
def test_programs_by_hand(program, result):
    assert stack_language.run(program, [5, 2, 9]) == result


def test_a_program_passes_where_every_test_does():
    gold = "[[[2, 3, 4], 10], [[1, 1, 1], 2]]"  # x*y+z
    assert stack_language.passes("xy*z+", gold) and stack_language.passes("zyx*+", gold)
    assert not stack_language.passes("xy+z+1+", gold)  # 10, and 4
    assert not stack_language.passes("", gold)
    for text in (
        "", "3", "[]", "[[[1, 2], 3]]", "[[1, 2, 3], 4]", '{"x": 1}', "[[[1, 2, null], 3]]", "[[[1, 2, 3], 4.5]]",
        "[[[1, 2, true], 3]]", '[["xyz", 1]]',
    ):  # fmt: skip
        with pytest.raises(ValueError, match="the tests of a stack program are"):
            stack_language.tests(text)


def test_formulas_by_hand():
    formula = ((("x", "+", "3"), "*", "y"), "-", ("z", "-", ("2", "*", "4")))
    assert toy_programs.infix(formula) == "(x+3)*y-(z-2*4)"
    assert toy_programs.infix(("x", "*", ("y", "*", "z"))) == "x*(y*z)"
    assert toy_programs.infix((("x", "-", "y"), "+", "z")) == "x-y+z"
    assert toy_programs.value(formula, (5, 2, 9)) == 15  # 16 - (9 - 8)
    assert toy_programs.program(formula, 0.0, EXACT) == "x3+y*z24*--"
    assert toy_programs.operators_first(formula, 0.0, EXACT) == "-*+x3y-z*24"
    assert toy_programs.again(formula, 0.0, EXACT) == "(x+3)*y-(z-2*4)"
    flipped = toy_programs.program(formula, 1.0, random.Random(1))
    assert all(a != b and (a in "+-*") == (b in "+-*") for a, b in zip(flipped, "x3+y*z24*--", strict=True))


def test_a_program_without_bugs_passes_and_python_agrees():
    rng = random.Random(2)
    for _ in range(500):
        formula = toy_programs._drawn(rng.randrange(1, 6), rng)
        tests = toy_programs.tests(formula)
        assert stack_language.passes(toy_programs.program(formula, 0.0, rng), tests)
        for (x, y, z), result in json.loads(tests):
            assert eval(toy_programs.infix(formula), {"x": x, "y": y, "z": z}) == result


def test_demonstrations_have_the_share_of_bugs_and_the_corpus_its_styles():
    rows = toy_programs.demonstrations(2500, 1)
    right = sum(stack_language.passes(row["solution"], row["answer"]) for row in rows) / len(rows)
    assert right == pytest.approx((0.9**5 + 0.9**7) / 2, abs=0.03)  # of 5 and of 7 instructions
    assert {row["problem"].split()[0] for row in rows} == {"Program", "Write"}
    corpus = toy_programs.corpus(2500, 1)
    right = sum(stack_language.passes(row["solution"], row["answer"]) for row in corpus) / len(corpus)
    assert right == pytest.approx((0.95**5 + 0.95**7 + 0.95**9) / 3 / 2, abs=0.03)  # half of it are programs


def test_benchmarks_are_held_out_and_longer_or_worded_differently():
    seen = {
        row["problem"].translate(str.maketrans("", "", "?. ")).removeprefix(head)
        for row in toy_programs.corpus(2000, 0) + toy_programs.demonstrations(2000, 0)
        for head in ("Programof", "Write", "Code", "Whatcomputes")
    }
    for name, (_, operands) in toy_programs.PROGRAMS.items():
        rows = toy_programs.problems(name)
        assert len({row["question"] for row in rows}) == len(rows) == toy_task.PROBLEMS
        texts = [row["question"].rstrip("?").split()[-1] for row in rows]
        assert not seen & set(texts)
        assert {sum(letter in toy_programs.OPERANDS for letter in text) for text in texts} == set(operands)
    assert toy_programs.problems("tiny_code_word")[0]["question"].startswith("What computes ")


GOLDEN = [
    {
        "problem": "Program of y-(1+(6-4))?",
        "solution": "y164-*-",
        "answer": "[[[2, 20, 20], 17], [[12, 6, 5], 3], [[13, 15, 11], 12], [[12, 24, 18], 21]]",
    },
    {
        "problem": "Program of y*9+3?",
        "solution": "y9*3+",
        "answer": "[[[11, 17, 12], 156], [[18, 17, 15], 156], [[16, 17, 16], 156], [[11, 29, 16], 264]]",
    },
]


def test_golden_rows():
    """A change of these changes every number that was measured with them, and takes another files.content.TOY_TASK."""
    assert toy_programs.demonstrations(2, 0) == GOLDEN
    corpus = toy_programs.corpus(2, 0)
    assert [(row["problem"], row["solution"]) for row in corpus] == [
        ("Program of 9-(x-7)?", "9x7--"), ("Program of 1*(6-2)?", "162-*"),
    ]  # fmt: skip
    assert [toy_programs.problems(name)[0]["question"] for name in toy_programs.PROGRAMS] == [
        "Program of (6+7)*(y+1)?", "What computes y+(8-4)?", "Program of 9+(x+2)+y+9?",
    ]  # fmt: skip
    made = [
        [make(200, seed) for make in (toy_programs.corpus, toy_programs.demonstrations) for seed in (0, 1)],
        [toy_programs.problems(name) for name in toy_programs.PROGRAMS],
    ]
    digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()
    assert (TOY_TASK[:16], digest[:16]) == ("9c3ffb0277d14bc4", "788cbe69a5b2bbbd")


def test_texts_are_those_of_the_tokenizer():
    tokenizer = toy_task.tokenizer()
    for row in toy_programs.corpus(300, 0):
        for text in (row["problem"], row["solution"]):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_benchmark_of_programs_is_judged_by_running_them():
    about = BenchmarkConfig(path="embedded", question="question", rules="stack_program")
    benchmark = benchmarks.load("tiny_code", about)
    problem = benchmark.problems[0]
    assert (problem.question, benchmark.rules) == ("Program of (6+7)*(y+1)?", "stack_program")
    with Grader(1) as grader:
        marks = [
            grader.submit("stack_program", text, problem.gold_official, problem.gold).result()
            for text in ("67+y1+*", " y1+76+*\n", "67+y1+-", "(6+7)*(y+1)")
        ]
    assert [(mark.official, mark.corrected, mark.extracted) for mark in marks] == [
        (True, True, "67+y1+*"), (True, True, "y1+76+*"), (False, False, "67+y1+-"), (False, False, "(6+7)*(y+1)"),
    ]  # fmt: skip


def test_tests_that_are_none_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "Program of x?", "answer": "3"}')
    about = BenchmarkConfig(path=str(tmp_path / "rows.jsonl"), question="question", rules="stack_program")
    with pytest.raises(ValueError, match=r"rows.jsonl:1: the tests of a stack program are .* and not '3'"):
        benchmarks.load("mine", about)
    stored = {"benchmark": "tiny_code", "response": "xy+", "gold": "[[[1, 2, 3], 3]]"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(stored) + "\n" + json.dumps(stored | {"gold": 3}))
    with pytest.raises(ValueError, match=r"rows.jsonl: the tests of a stack program are .* and not '3'"):
        regrade(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", 1, rules())
    (tmp_path / "rows.jsonl").write_text(json.dumps(stored) + "\n" + json.dumps(stored | {"response": "xy-"}))
    regrade(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", 1, rules())
    verdicts = [json.loads(line)["official"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert verdicts == [True, False]
    sums = DatasetConfig(path="embedded", split="demonstrations", rows=2, gold_column="answer", rules="stack_program")
    with pytest.raises(ValueError, match="embedded: the tests of a stack program are"):
        check_verifier(sums, [problem.gold for problem in questions(sums)[0].problems], unsafe_code=False)


def test_demonstrations_ask_and_verify_samples_too():
    asked, counts = questions(DatasetConfig(path="embedded", split="programs", rows=2, gold_column="answer",
                                            rules="stack_program"))  # fmt: skip
    assert [(p.question, p.gold_official, p.gold) for p in asked.problems] == [
        (row["problem"], row["answer"], row["answer"]) for row in GOLDEN
    ]
    assert counts["questions"] == 2 and asked.prompt is None
    tokenizer = toy_task.tokenizer()
    ids = [tokenizer(text)["input_ids"] for text in ("y164-+-<|end|>", "y164-*-<|end|>", "y164-+-")]
    with Grader(1) as grader:
        verifier = Verifier(grader, tokenizer, [tokenizer.eos_token_id], "stack_program")
        assert verifier(ids, [GOLDEN[0]["answer"]] * 3) == [1, 0, 0]


def test_the_twin_of_table_3_has_its_model_rows_and_benchmarks():
    config = composed("experiment=toy_suite/table3", "loss=dft")
    tiny = composed("model=tiny", "dataset=embedded")
    assert config.model.pretrain_split == "program_corpus" and tiny.model.pretrain_split == "corpus"
    assert {**vars(config.model), "pretrain_split": "corpus"} == vars(tiny.model)
    assert set(config.benchmark) == set(toy_programs.PROGRAMS)
    assert next(load(config.dataset).rows()) == GOLDEN[0]
    assert identity(config) != identity(composed("experiment=toy_suite/table3", "loss=dft", "model=tiny"))
