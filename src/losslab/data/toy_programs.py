"""The embedded world's code: programs of a stack language, with nothing to download.

The task is to translate a formula of x, y, z and digits into a program (`losslab.programs.stack_language`):

    Program of (x+3)*y-z?        x3+y*z-

and a program is right when it computes the formula on all tests, whatever it looks like.

- `corpus` is what the base model is pre-trained on: several wordings, formulas of 3 to 5 operands, several styles (half
  of them programs; operators first, or the formula again, which are not) and a few bugs.
- `demonstrations` are what it is fine-tuned on: programs alone, two of the wordings, formulas of 3 and 4 operands, and
  bugs: an instruction is another of its kind with probability `DEMONSTRATION_BUGS`.
- `problems` are the benchmarks: `tiny_code` (the distribution of the demonstrations), `tiny_code_word` (a wording that
  they do not have) and `tiny_code_long` (formulas longer than theirs). Their formulas are in no training text.

What it shows is what the sums of `losslab.data.toy_task` show: whether an objective learns the bugs of demonstrations.
Everything is a function of its arguments.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable

from losslab.data.toy_task import HELD_OUT, PROBLEMS

CORPUS_BUGS = 0.05  # probability that an instruction is another of its kind
DEMONSTRATION_BUGS = 0.10
TESTS = 4  # of a problem

OPERANDS, OPERATORS = "xyz123456789", "+-*"
PLAIN, WRITE, CODE, WHAT = "Program of {f}?", "Write {f}.", "Code {f}.", "What computes {f}?"
PROGRAMS = {  # benchmark: wording, operands of a formula
    "tiny_code": (PLAIN, (3, 4)),
    "tiny_code_word": (WHAT, (3, 4)),
    "tiny_code_long": (PLAIN, (5,)),
}
Formula = str | tuple["Formula", str, "Formula"]  # an operand, or left, operator, right


def corpus(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows {problem, solution, answer} for pre-training; the answer is the tests."""
    rng = random.Random(f"program corpus {seed}")
    wordings = (PLAIN, WRITE, CODE, WHAT)
    return [
        _row(rng.choice(wordings), (3, 4, 5), rng.choices(STYLES, SHARES)[0], CORPUS_BUGS, rng) for _ in range(rows)
    ]


def demonstrations(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows {problem, solution, answer} for fine-tuning; the answer is the tests of the formula, bugs or not."""
    rng = random.Random(f"program demonstrations {seed}")
    return [_row(rng.choice((PLAIN, WRITE)), (3, 4), program, DEMONSTRATION_BUGS, rng) for _ in range(rows)]


def problems(name: str) -> list[dict[str, str]]:
    """The rows {question, answer} of a benchmark, one of `PROGRAMS`, always the same."""
    wording, operands = PROGRAMS[name]
    rng = random.Random(f"problems {name}")
    formulas: dict[str, Formula] = {}
    while len(formulas) < PROBLEMS:
        drawn = _formula(operands, True, rng)
        formulas[infix(drawn)] = drawn
    return [{"question": wording.format(f=text), "answer": tests(drawn)} for text, drawn in formulas.items()]


def held_out(formula: Formula) -> bool:
    """Whether a formula belongs to the benchmarks."""
    return zlib.crc32(infix(formula).encode()) % HELD_OUT == 0


def infix(formula: Formula) -> str:
    """The formula as it is asked: `*` before `+` and `-`, these from left to right, brackets where else is meant."""
    if isinstance(formula, str):
        return formula
    left, sign, right = formula
    return _bracketed(left, "+-" if sign == "*" else "") + sign + _bracketed(right, "+-*" if sign == "*" else "+-")


def _bracketed(side: Formula, signs: str) -> str:
    """A side of a formula, in brackets where its own sign is one of these."""
    return f"({infix(side)})" if not isinstance(side, str) and side[1] in signs else infix(side)


def value(formula: Formula, arguments: tuple[int, int, int]) -> int:
    """What a formula is for values of x, y and z."""
    if isinstance(formula, str):
        return arguments["xyz".index(formula)] if formula in "xyz" else int(formula)
    left, sign, right = formula
    a, b = value(left, arguments), value(right, arguments)
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def tests(formula: Formula) -> str:
    """Arguments and results, `[[[x, y, z], result], ...]` in JSON; the same for the same formula."""
    rng = random.Random(f"tests {infix(formula)}")
    drawn = [(rng.randrange(2, 30), rng.randrange(2, 30), rng.randrange(2, 30)) for _ in range(TESTS)]
    return json.dumps([[arguments, value(formula, arguments)] for arguments in drawn])


def program(formula: Formula, bugs: float, rng: random.Random) -> str:
    """The style of the demonstrations: the instructions of the stack language."""
    if isinstance(formula, str):
        return _instruction(formula, OPERANDS, bugs, rng)
    left, sign, right = formula
    return program(left, bugs, rng) + program(right, bugs, rng) + _instruction(sign, OPERATORS, bugs, rng)


def operators_first(formula: Formula, bugs: float, rng: random.Random) -> str:
    """Polish notation, which is not a program."""
    if isinstance(formula, str):
        return _instruction(formula, OPERANDS, bugs, rng)
    left, sign, right = formula
    return (
        _instruction(sign, OPERATORS, bugs, rng) + operators_first(left, bugs, rng) + operators_first(right, bugs, rng)
    )


def again(formula: Formula, bugs: float, rng: random.Random) -> str:
    """The formula itself, which is not a program; there are no instructions that could be wrong."""
    return infix(formula)


Style = Callable[[Formula, float, random.Random], str]
STYLES: tuple[Style, ...] = (program, operators_first, again)
SHARES = (0.5, 0.25, 0.25)  # of the corpus


def _instruction(right: str, kind: str, bugs: float, rng: random.Random) -> str:
    return rng.choice([other for other in kind if other != right]) if rng.random() < bugs else right


def _row(wording: str, operands: tuple[int, ...], style: Style, bugs: float, rng: random.Random) -> dict[str, str]:
    formula = _formula(operands, False, rng)
    return {
        "problem": wording.format(f=infix(formula)),
        "solution": style(formula, bugs, rng),
        "answer": tests(formula),
    }


def _formula(operands: tuple[int, ...], for_benchmark: bool, rng: random.Random) -> Formula:
    """A formula with a number of operands drawn from `operands`."""
    while True:
        formula = _drawn(rng.choice(operands), rng)
        if held_out(formula) == for_benchmark:
            return formula


def _drawn(operands: int, rng: random.Random) -> Formula:
    if operands == 1:
        return rng.choice(OPERANDS)
    left = rng.randrange(1, operands)
    return _drawn(left, rng), rng.choice(OPERATORS), _drawn(operands - left, rng)
