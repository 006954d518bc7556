"""Answers that are code: programs as the published evaluations put them together, and verdicts of real compilers."""

import json
import os
import sys

import pytest
import yaml
from conftest import ROOT

from losslab.commands.regrade import rules
from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Rules
from losslab.evaluation import benchmarks, runnable
from losslab.grading.graders import Grader
from losslab.grading.regrade import regrade
from losslab.programs import assembly, languages, sandbox
from losslab.programs.languages import LANGUAGES, Toolchains

isolated = pytest.mark.skipif(
    bool(sandbox.refusal()) and not os.environ.get("LOSSLAB_CODE"), reason=f"no isolation: {sandbox.refusal()}"
)
# A row of each data set in its own columns (the sums are ours), a right answer and a wrong one.
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": '\n\ndef add(a: int, b: int) -> int:\n    """The sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
PLUS = HUMANEVAL | {"base_input": [[1, 2]], "plus_input": [[-1, 1], [0.1, 0.2]], "atol": 0}
ROWS = {
    "python": (
        {"prompt": "def add(a, b):\n", "test": "def check(add):\n    assert add(1, 2) == 3\ncheck(add)"},
        "    return int(np.add(a, b))\n",
        "    return a\n",
    ),
    "js": (
        {
            "prompt": "function add(a, b){\n",
            "tests": "const assert = require('node:assert');\nassert.deepEqual(add(1, 2), 3);",
        },
        "  return a + b;\n}\n",
        "  return a;\n}\n",
    ),
    "ts": (
        {
            "prompt": "function add(a: number, b: number): number {\n",
            "tests": "declare var require: any;\nconst assert = require('node:assert');\n"
            "assert.deepEqual(add(1, 2), 3);",
        },
        "  return a + b;\n}\n",
        "  return a;\n}\n",
    ),
    "php": (
        {
            "prompt": "<?php\nfunction add($a, $b) {\n",
            "tests": 'if (add(1, 2) !== 3) { throw new Exception("Test failed!"); }\n',
        },
        "    return $a + $b;\n}\n",
        "    return $a;\n}\n",
    ),
    "sh": (
        {"prompt": "#!/bin/bash\nadd() {\n", "tests": '}\nset -e\n[[ $(add "1" "2") = "3" ]]\n'},
        "    echo $(($1 + $2))\n",
        "    echo $1\n",
    ),
    "cpp": (
        {
            "prompt": "#include<assert.h>\nlong add(long a, long b) {\n",
            "tests": "}\nint main() {\n    assert(add(1, 2) == 3);\n}\n",
        },
        "    return a + b;\n",
        "    return a;\n",
    ),
    "cs": (
        {
            "prompt": "using System;\nusing System.Diagnostics;\nclass Problem {\n"
            "    public static long Add(long a, long b) {\n",
            "tests": "    }\n    public static void Main(string[] args) {\n"
            "    Debug.Assert(Add(1L, 2L) == (3L));\n    }\n}\n",
        },
        "        return a + b;\n",
        "        return a;\n",
    ),
    "java": (
        {
            "prompt": "import org.javatuples.*;\nclass Problem {\n    public static long add(long a, long b) {\n",
            "tests": "    }\n    public static void main(String[] args) {\n    assert(add(1, 2) == (3l));\n    }\n}\n",
        },
        "        return Pair.with(a + b, b).getValue0();\n",
        "        return a;\n",
    ),
}


@pytest.fixture(scope="module")
def toolchains() -> Toolchains:
    return Toolchains()


def gold(row: dict, language: str = "python", stop: tuple[str, ...] = ()) -> str:
    return assembly.problem(row | ({} if language == "python" else {"language": language}), stop)


@isolated
@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_a_right_and_a_wrong_program_of_each_language(toolchains, language):
    if sentence := languages.without(language):
        assert language not in os.environ.get("LOSSLAB_CODE", "").split(","), sentence
        pytest.skip(sentence)
    row, right, wrong = ROWS[language]
    verdict = assembly.verdict(toolchains, right, gold(row, language))
    assert (verdict.official, verdict.corrected, verdict.timed_out) == (True, True, False), verdict.report
    for answer in (wrong, "syntax error ((\n"):
        verdict = assembly.verdict(toolchains, answer, gold(row, language))
        assert (verdict.official, verdict.corrected, verdict.timed_out) == (False, False, False)
        assert verdict.report


@isolated
def test_a_program_that_leaves_before_the_tests_has_not_passed(toolchains):
    for row in (HUMANEVAL, PLUS, ROWS["python"][0]):
        for answer in ("    return 3\nimport sys\nsys.exit(0)\n", "    return 3\nimport os\nos._exit(0)\n"):
            assert not assembly.verdict(toolchains, answer, gold(row)).official


@isolated
def test_more_tests_tell_what_the_first_ones_do_not(toolchains):
    lucky, right = "    return 3\n", "    return a + b\n"
    marks = {
        name: [assembly.verdict(toolchains, answer, gold(row)).official for answer in (lucky, right)]
        for name, row in (("humaneval", HUMANEVAL), ("humaneval_plus", PLUS))
    }
    assert marks == {"humaneval": [True, True], "humaneval_plus": [False, True]}
    close = "    return (a * 10 + b * 10) / 10 if isinstance(a, float) else a + b\n"  # 0.3, and not 0.30000000000000004
    assert assembly.verdict(toolchains, close, gold(PLUS)).official
    numbers = PLUS | {"base_input": [[1, 2]], "plus_input": [[10**6, 1]]}  # whole numbers are compared exactly
    assert not assembly.verdict(toolchains, "    return a + b + (a > 9) * 1e-9\n", gold(numbers)).official


@isolated
def test_what_the_published_rules_let_pass_or_fail_differs_in_the_corrected_verdict(toolchains):
    row, right, _ = ROWS["js"]
    if not languages.missing("js"):
        verdict = assembly.verdict(toolchains, "  console.log(a);\n" + right, gold(row, "js"))
        assert (verdict.official, verdict.corrected) == (False, True)  # whatever JavaScript prints is a failure
    row, _, _ = ROWS["cs"]
    if not languages.missing("cs"):
        verdict = assembly.verdict(toolchains, '        throw new Exception("no");\n', gold(row, "cs"))
        assert (verdict.official, verdict.corrected) == (True, False)  # an exception other than Debug.Assert's


@isolated
def test_what_a_program_finds_does_not_depend_on_the_machine(toolchains):
    program = (
        "import os, site, sys, numpy\nplaces = [place for place in site.getsitepackages() if os.path.isdir(place)]\n"
        "print(sys.version, [os.listdir(place) for place in places])\nopen(places[0] + '/x', 'w')"
    )
    seen = toolchains.run("python", program)
    assert seen.output == f"{sys.version} [[]]\n", seen  # of this interpreter, and not of another that the system has
    assert "Read-only file system" in seen.errors
    assert "No module named 'pytest'" in toolchains.run("python", "import pytest").errors
    if not languages.missing("sh"):
        assert toolchains.run("sh", "bc <<< 1+1").status in (126, 127)  # whether this machine has one or not


@isolated
def test_a_program_without_end_is_timed_out(toolchains, monkeypatch):
    monkeypatch.setattr(languages, "RUN_SECONDS", 1.0)
    verdict = assembly.verdict(toolchains, "    while True: pass\n", gold(HUMANEVAL))
    assert (verdict.official, verdict.timed_out, verdict.report) == (False, True, "time")
    row = ROWS["cpp"][0]
    if not languages.missing("cpp"):
        assert assembly.verdict(toolchains, "    while (true) {}\n", gold(row, "cpp")).timed_out


def test_answers_are_cut_at_the_first_stop():
    assert assembly.cut("a\n}\nb\ndef c", ["\ndef", "\n}"]) == "a"
    assert assembly.cut("a\n}", []) == "a\n}"


def test_programs_are_put_together_as_published():
    def program(language: str, answer: str) -> str:
        return assembly._program(json.loads(gold(ROWS[language][0], language)), answer, "T")[0]

    assert program("js", "X") == f"function add(a, b){{\n\nX\n{ROWS['js'][0]['tests']}"
    assert program("php", "X") == f"<?php\nfunction add($a, $b) {{\n\nX\n{ROWS['php'][0]['tests']}?>"
    assert program("cpp", "X").startswith("#include<stdlib.h>\n#include<algorithm>\n")
    assert "#include<cassert>\n\n#include<assert.h>\nlong add(long a, long b) {\n\nX\n}\nint main" in program(
        "cpp", "X"
    )
    assert program("python", "X").startswith("import math\nimport re\n") and "numpy" not in program("python", "X")
    assert "import numpy as np\n" in program("python", "np.X")
    humaneval = assembly._program(json.loads(gold(HUMANEVAL)), "\treturn 3", "T")[0]
    assert humaneval == (
        f'{HUMANEVAL["prompt"]}    return 3\n{HUMANEVAL["test"]}\ncheck(add)\nprint("T")\n'
    )  # tabs are four spaces


def test_rows_that_cannot_be_judged_are_refused(tmp_path):
    about = BenchmarkConfig(path=str(tmp_path / "code.jsonl"), question="prompt", rules=Rules.code)
    for row, message in (
        ({"prompt": "def f():"}, r"no text in the column test \(or tests\)"),
        ({"prompt": "fn f() {", "tests": "}", "language": "rs"}, "language='rs' cannot be run; there are python, js"),
        (ROWS["php"][0], "code.jsonl:1: no column language, and the tests are not Python: name it"),
        (ROWS["php"][0] | {"language": None}, "no column language, and the tests are not Python: name it"),
        *(
            ({key: value for key, value in PLUS.items() if key != name}, f"no column {name}, which a row with plus_inp")
            for name in ("entry_point", "base_input", "canonical_solution", "atol")
        ),
        (PLUS | {"atol": None}, "no column atol, which a row with plus_input needs"),
    ):
        (tmp_path / "code.jsonl").write_text(json.dumps(row))
        with pytest.raises(ValueError, match=message):
            benchmarks.load("code", about)


def test_an_empty_column_of_a_code_row_is_as_one_that_is_not_there():
    row, *_ = ROWS["python"]
    empty = dict.fromkeys(("language", "entry_point", "plus_input", "base_input", "atol"))
    assert gold(row | empty) == gold(row)
    assert gold(HUMANEVAL | {"plus_input": None}) == gold(HUMANEVAL)
    assert json.loads(gold(row))["language"] == "python"


def test_a_benchmark_whose_compiler_is_missing_is_skipped_and_not_scored_zero(tmp_path, monkeypatch, caplog):
    chosen = []
    for language in ("sh", "cs"):
        path = tmp_path / f"{language}.jsonl"
        path.write_text(json.dumps(ROWS[language][0] | {"language": language}))
        about = BenchmarkConfig(path=str(path), question="prompt", rules=Rules.code)
        chosen.append(benchmarks.load(language, about))
    monkeypatch.setattr(sandbox, "refusal", lambda *_: "")
    monkeypatch.setattr(languages, "missing", lambda language: ["mono", "mcs"] if language == "cs" else [])
    assert [benchmark.name for benchmark in runnable.runnable(chosen, unsafe_code=False)] == ["sh"]
    with pytest.raises(ValueError, match="benchmark cs is skipped: C# needs mono and mcs .apt-get install mono-mcs"):
        runnable.runnable(chosen[1:], unsafe_code=False)
    monkeypatch.setattr(sandbox, "refusal", lambda *_: "the program bwrap is missing")
    with pytest.raises(ValueError, match="cannot be isolated here .the program bwrap is missing"):
        runnable.runnable(chosen, unsafe_code=False)
    assert len(runnable.runnable(chosen, unsafe_code=True)) == 1


def test_programs_that_cannot_be_limited_are_refused_before_the_first_answer(tmp_path, monkeypatch):
    (tmp_path / "code.jsonl").write_text(json.dumps(HUMANEVAL))
    about = BenchmarkConfig(path=str(tmp_path / "code.jsonl"), question="prompt", rules=Rules.code)
    chosen = [benchmarks.load("code", about)]
    line = {"benchmark": "humaneval", "gold": gold(HUMANEVAL), "response": "    return 3\n"}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    assert runnable.runnable(chosen, unsafe_code=True) == chosen
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    message = "cannot be limited here, since the program prlimit is missing: install util-linux"
    with pytest.raises(ValueError, match=message):
        runnable.runnable(chosen, unsafe_code=True)
    with pytest.raises(ValueError, match=message):
        regrade(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 1, rules(), unsafe_code=True)
    with pytest.raises(ValueError, match=message):
        sandbox.Sandbox(isolated=False)


def test_a_benchmark_of_several_languages_needs_the_compilers_of_all(tmp_path, monkeypatch):
    rows = [ROWS[language][0] | {"language": language} for language in ("python", "cs", "php")]
    (tmp_path / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    both = benchmarks.load(
        "both", BenchmarkConfig(path=str(tmp_path / "both.jsonl"), question="prompt", rules=Rules.code)
    )
    monkeypatch.setattr(sandbox, "refusal", lambda *_: "")
    monkeypatch.setattr(languages, "missing", lambda language: ["php"] if language == "php" else [])
    with pytest.raises(ValueError, match="benchmark both is skipped: PHP needs php .apt-get install php-cli.$"):
        runnable.runnable([both], unsafe_code=False)
    monkeypatch.setattr(languages, "missing", lambda language: [])
    assert runnable.runnable([both], unsafe_code=False) == [both]


@isolated
def test_stored_answers_are_graded_again(tmp_path):
    row, right, wrong = ROWS["sh"]
    lines = [
        {"benchmark": "multipl_e_sh", "gold": gold(row, "sh", ("\n}",)), "response": text}
        for text in (right + "}\necho more", wrong)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    regrade(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 2, rules())
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["official"], line["corrected"], line["extracted"]) for line in graded] == [
        (True, True, right.rstrip("\n")),
        (False, False, wrong),
    ]
    (tmp_path / "in.jsonl").write_text(json.dumps(lines[0] | {"gold": "3"}))
    with pytest.raises(ValueError, match="must be a JSON object in a text, with language, prompt, stop and test"):
        regrade(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 2, rules())


def test_stored_answers_whose_compiler_is_missing_are_left_without_a_verdict(tmp_path, monkeypatch, capsys, caplog):
    files = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    sums = {"benchmark": "gsm8k", "response": "#### 3", "gold": "3", "rules": "general"}
    lines = [
        {"benchmark": "multipl_e_cs", "gold": gold(ROWS["cs"][0], "cs"), "response": text, "official": True}
        for text in (ROWS["cs"][1], ROWS["cs"][2])
    ]
    lines = [lines[0], sums | {"response": "\\boxed{3}"}, lines[1], sums | {"response": "\\boxed{4}"}]
    files[0].write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(languages, "missing", lambda language: ["mono", "mcs"] if language == "cs" else [])
    regrade(*files, 1, rules(), unsafe_code=True)
    graded = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert [line["benchmark"] for line in graded] == ["multipl_e_cs", "gsm8k"] * 2
    assert [line.get("official") for line in graded] == [None, True, None, False]
    assert "2 responses are left without a verdict: C# needs mono and mcs (apt-get install mono-mcs" in caplog.text
    told = capsys.readouterr().out
    assert "multipl_e_cs" not in told and "| gsm8k | 2 | 50.0 |" in told
    assert "2 responses graded, 2 left without a verdict" in told
    files[0].write_text(json.dumps(lines[0]))
    with pytest.raises(ValueError, match="in.jsonl: C# needs mono and mcs"):
        regrade(*files, 1, rules(), unsafe_code=True)


@isolated
def test_equal_answers_run_once():
    with Grader(workers=2) as grader:
        first = grader.submit("code", "    return 3\n", gold(HUMANEVAL))
        assert grader.submit("code", "    return 3\n", gold(HUMANEVAL)) is first
        assert first.result().official


def test_the_benchmarks_of_table_3_have_their_languages_and_sizes():
    files = ("humaneval", "humaneval_plus", "multipl_e")
    about = {}
    for name in files:
        about |= yaml.safe_load((ROOT / f"conf/benchmark/{name}.yaml").read_text(encoding="utf-8"))
    assert {name.removeprefix("multipl_e_") for name in about} == {"humaneval", "humaneval_plus", *LANGUAGES}
    assert {keys["rules"] for keys in about.values()} == {"code"}
    assert sum(keys["rows"] for keys in about.values()) == 164 * 3 + 161 + 158 + 158 + 161 + 161 + 158 + 159
