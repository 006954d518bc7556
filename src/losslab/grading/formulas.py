"""Equality of formulas as texts in one notation: what is read by `expression` and compared by `agreement`."""

from __future__ import annotations

from fractions import Fraction

from losslab.grading import agreement
from losslab.grading.expression import read
from losslab.grading.numbers import FLOAT_DIGITS, TOLERANCE, number
from losslab.grading.trees import CONSTANTS, Tree, Unreadable, names, nodes

FLOAT = 1e-9  # relative, where a number in a formula has the digits of a float


def equal(answer: str, gold: str) -> bool:
    """Whether two formulas have the same value wherever one of them has one; what cannot be read has none."""
    try:
        trees = read(answer), read(gold)
    except Unreadable:
        return False
    return agreement.equal(*trees, renamed(*trees), _tolerance(answer, gold, trees))


def proportional(answer: tuple[str, str], gold: tuple[str, str], sign: int | None) -> bool:
    """Whether the differences of the sides of two equations or inequalities differ by a constant factor alone."""
    try:
        left, right, gold_left, gold_right = (read(side) for side in (*answer, *gold))
    except Unreadable:
        return False
    rename = renamed(("sum", left, right), ("sum", gold_left, gold_right))
    return agreement.proportional((left, right), (gold_left, gold_right), rename, sign)


def rounds_to(exact: str, decimal: Fraction, last_digit: Fraction) -> bool:
    """Whether a decimal is the value of a formula, rounded or cut at its last digit."""
    try:
        tree = read(exact)
    except Unreadable:
        return False
    return agreement.equal(tree, ("number", decimal), {}, float(last_digit / abs(decimal)) if decimal else 0.0)


def renamed(answer: Tree, gold: Tree) -> dict[str, str]:
    """The letters of an answer that are letters of the gold in the other case, where case tells none apart."""
    of_answer, of_gold = names(answer), names(gold)
    if any(name.swapcase() in names_of for names_of in (of_answer, of_gold) for name in names_of if len(name) == 1):
        return {}
    return {
        name: name.swapcase()
        for name in of_answer - of_gold
        if len(name) == 1 and name.swapcase() in of_gold - of_answer and name.swapcase() not in CONSTANTS
    }


def _tolerance(answer: str, gold: str, trees: tuple[Tree, Tree]) -> float:
    """For a decimal in the place of a constant that no decimal is, and for formulas with floats in them."""
    free = (names(trees[0]) | names(trees[1])) - CONSTANTS
    numbers = number(answer), number(gold)
    decimal = next((value for value in numbers if value is not None and value.last_digit), None)
    if not free and decimal is not None and None in numbers and decimal.last_digit and decimal.value:
        return float(min(TOLERANCE, decimal.last_digit / abs(decimal.value)))
    floats = (node for tree in trees for node in nodes(tree) if node[0] == "number" and len(node) > 2)
    return FLOAT if any(node[2] >= FLOAT_DIGITS for node in floats) else 0.0
