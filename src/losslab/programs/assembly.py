"""Builds a program from an answer to a code problem, and a verdict from its run, as in HumanEval and MultiPL-E.

A problem is a JSON object, stored in records as the gold answer:
    language                    one of `languages.LANGUAGES`; of a row without one, Python where the tests are
    prompt                      the beginning of the program, which the answer continues
    stop                        texts that end an answer; it is cut before the first
    test                        code that runs after the answer
    entry_point                 HumanEval: the function that `test` checks
    reference, inputs, atol     HumanEval+ in its authors' files: a right solution, and the arguments for both functions
"""

import ast
import json
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from losslab.programs.languages import LANGUAGES, NOT_COMPILED, Toolchains

OF_PLUS = ("entry_point", "base_input", "canonical_solution", "atol")  # besides plus_input
# What the evaluation of Qwen2.5-Coder prepends to every program of a language.
BEFORE = {
    "python": [
        "import math", "import re", "import sys", "import copy", "import datetime", "import itertools",
        "import collections", "import heapq", "import functools", "import hashlib", "import numpy",
        "import numpy as np", "import string", "from typing import *", "from collections import *",
    ],
    "cpp": [
        f"#include<{name}>"
        for name in (
            "stdlib.h", "algorithm", "math.h", "stdio.h", "vector", "string", "climits", "cstring", "iostream",
            "cassert",
        )
    ],
    "cs": [
        f"using System.{name};"
        for name in (
            "Numerics", "Diagnostics", "Collections.Generic", "Linq", "Text", "Security.Cryptography",
            "Collections.Generic",
        )
    ],
}  # fmt: skip
# HumanEval+'s comparison: equal, or close if floats are expected; a root of a polynomial is checked by evaluation.
COMPARISON = """
import copy, json, math

def floats(value):
    return isinstance(value, float) or (
        isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(part, float) for part in value))

def close(left, right, tolerance):
    if isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(close(a, b, tolerance) for a, b in zip(left, right))
    return left == right or math.isclose(0.0, abs(left - right), abs_tol=tolerance + 1e-7 * abs(right))

def same(result, expected, arguments, tolerance, polynomial):
    if polynomial is not None:
        return abs(polynomial(*arguments, result)) <= tolerance
    if tolerance == 0 and floats(expected):
        tolerance = 1e-6
    if result == expected:
        return True
    return tolerance != 0 and type(result) is type(expected) and close(result, expected, tolerance)

problem = json.load(open("problem.json"))
name, solution, reference = problem["entry_point"], {}, {}
exec(problem["reference"], reference)
exec(problem["solution"], solution)
polynomial = reference["poly"] if name == "find_zero" else None
for arguments in problem["inputs"]:
    expected = reference[name](*copy.deepcopy(arguments))
    result = solution[name](*copy.deepcopy(arguments))
    assert same(result, expected, arguments, problem["atol"], polynomial), arguments
"""


@dataclass(frozen=True)
class CodeVerdict:
    """The verdict on one answer. `official` is the published rule; `corrected` also requires a clean exit."""

    completion: str  # the answer as it was executed
    official: bool
    corrected: bool
    timed_out: bool  # or over another limit
    report: str  # the program's output on failure


def problem(row: Mapping[str, Any], stop: Sequence[str]) -> str:
    """The JSON text of a problem, from a row of openai/openai_humaneval, evalplus/humanevalplus, EvalPlus's own file,
    THUDM/humaneval-x (Python) or nuprl/MultiPL-E.

    Raises:
        ValueError: a column is missing or empty; the message names it.
    """
    row = {column: value for column, value in row.items() if value is not None}
    test = row.get("test", row.get("tests"))
    for column, value in (("prompt", row.get("prompt")), ("test (or tests)", test)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"no text in the column {column}")
    language = row.get("language") or _python(str(test))
    if language not in LANGUAGES:
        raise ValueError(f"language={language!r} cannot be run; there are {', '.join(LANGUAGES)}")
    about = {"language": language, "prompt": row["prompt"], "stop": list(stop), "test": test}
    if "entry_point" in row:
        about["entry_point"] = row["entry_point"]
    if "plus_input" in row:
        if missing := [column for column in OF_PLUS if column not in row]:
            raise ValueError(f"no column {missing[0]}, which a row with plus_input needs")
        about["inputs"] = [*row["base_input"], *row["plus_input"]]
        about |= {"reference": row["prompt"] + row["canonical_solution"], "atol": row["atol"]}
        del about["test"]
    return json.dumps(about)


def _python(test: str) -> str:
    """The language of a row that names none. Raises ValueError unless the tests are Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in texts, which are no fault
            ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("no column language, and the tests are not Python: name it") from None
    return "python"


def is_problem(gold: Any) -> bool:
    """Whether a gold answer is the JSON text of a code problem."""
    try:
        about = json.loads(gold)
        texts = all(isinstance(about[name], str) for name in ("language", "prompt"))
        return (
            texts
            and about["language"] in LANGUAGES
            and isinstance(about["stop"], list)
            and bool(isinstance(about.get("test"), str) or about["inputs"])
        )
    except (KeyError, TypeError, ValueError):
        return False


def language(gold: str) -> str:
    """The language of a problem."""
    return str(json.loads(gold)["language"])


def verdict(toolchains: Toolchains, response: str, gold: str) -> CodeVerdict:
    """Run the answer to a problem."""
    about = json.loads(gold)
    completion = cut(response, about["stop"])
    token = uuid.uuid4().hex  # printed after the last test: a program that exits earlier has not passed
    program, files = _program(about, completion, token)
    run = toolchains.run(about["language"], program, files)
    ended = run.status == 0 and not run.stopped
    if about["language"] == "python":
        official = token in run.output and not run.stopped
        ended = ended and official
    elif about["language"] == "js":
        official = ended and not run.output and not run.errors  # any output counts as a failure
    elif about["language"] == "cs":
        # A debug assertion writes "Fail" without ending the program; the official rule ignores other exceptions.
        compiled = run.status != NOT_COMPILED and not run.stopped
        official = compiled and "Fail" not in run.errors
        ended = ended and official
    else:
        official = ended
    report = run.stopped or (run.errors or run.output).strip()[-500:] or f"exit status {run.status}"
    return CodeVerdict(completion, official, ended, bool(run.stopped), "" if official else report)


def cut(response: str, stop: Sequence[str]) -> str:
    """The text before the first stop."""
    return response[: min((at for text in stop if (at := response.find(text)) >= 0), default=len(response))]


def _program(about: Mapping[str, Any], completion: str, token: str) -> tuple[str, dict[str, str]]:
    """The program, and other files that it reads."""
    kind, last = about["language"], f'\nprint("{token}")\n'
    if "entry_point" in about:
        solution = f"{about['prompt'].rstrip()}\n" + completion.replace("\t", "    ")
        if "inputs" in about:
            names = ("entry_point", "reference", "inputs", "atol")
            files = {"problem.json": json.dumps({"solution": solution} | {name: about[name] for name in names})}
            return COMPARISON + last, files
        return f"{solution}\n{about['test']}\ncheck({about['entry_point']}){last}", {}
    code = f"{about['prompt']}\n{completion}"
    before = BEFORE.get(kind, [])
    if kind == "cpp":
        before = [line for line in before if line not in about["prompt"]]
    if kind == "python" and "np" not in code and "numpy" not in code:
        before = [line for line in before if "numpy" not in line]  # which takes longer than most programs
    text = (
        "".join(f"{line}\n" for line in before) + ("\n" if kind in ("cpp", "cs") else "") + f"{code}\n{about['test']}"
    )
    if kind == "php":
        text = ("" if text.startswith("<?php") else "<?php\n") + text + "?>"
    return text + (f"\n{last}" if kind == "python" else ""), {}
