"""A stack language, whose programs can do nothing but compute a whole number: the code of the embedded world.

A program is a text of instructions of one character, which are run from left to right:
    0 to 9     put the digit on the stack
    x y z      put the argument of that name on the stack
    + - *      take the two topmost numbers, and put what they make, the lower one first
Its result is the number that is alone on the stack at the end. Any other text is not a program.
"""

import json
import operator
from collections.abc import Sequence

ARGUMENTS = "xyz"
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LONGEST = 256  # instructions, so that no product grows beyond reason


def run(program: str, arguments: Sequence[int]) -> int | None:
    """The result of a program for the values of x, y and z; None where the text is not a program."""
    stack: list[int] = []
    if len(program) > LONGEST:
        return None
    for instruction in program:
        if instruction in OPERATIONS:
            if len(stack) < 2:
                return None
            upper, lower = stack.pop(), stack.pop()
            stack.append(OPERATIONS[instruction](lower, upper))
        elif instruction in ARGUMENTS:
            stack.append(arguments[ARGUMENTS.index(instruction)])
        elif instruction in "0123456789":
            stack.append(int(instruction))
        else:
            return None
    return stack[0] if len(stack) == 1 else None


def tests(gold: str) -> list[tuple[list[int], int]]:
    """The tests of a problem, `[[[x, y, z], result], ...]` in JSON. Raises ValueError for another text."""
    try:
        cases = [(list(arguments), result) for arguments, result in json.loads(gold)]
    except (TypeError, ValueError):
        cases = []
    numbers = [[*arguments, result] for arguments, result in cases]
    if not cases or any(len(row) != len(ARGUMENTS) + 1 or {*map(type, row)} != {int} for row in numbers):
        raise ValueError(f"the tests of a stack program are [[[x, y, z], result], ...] in JSON, and not {gold!r}")
    return cases


def passes(program: str, gold: str) -> bool:
    """Whether a program gives the result of every test."""
    return all(run(program, arguments) == result for arguments, result in tests(gold))
