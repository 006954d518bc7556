"""Whether expressions agree: the same values at several points, in a precision that grows until balls decide.

A difference at any point decides. Balls that meet at a radius below 1e-30 are taken for equal.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from fractions import Fraction
from typing import Any

import flint
from flint import acb, arb, fmpq

from losslab.grading.balls import CLOSE, product, sign_of, value
from losslab.grading.matrices import Matrix, Undefined
from losslab.grading.points import SIGNED, SOMETIMES_SIGNED, Point
from losslab.grading.trees import CONSTANTS, Tree, names, nodes

Sides = tuple[Callable[[], Any], Callable[[], Any]]

PRECISIONS = (192, 768, 3072, 9216)  # bits
HUGE = arb(2) ** 2000
SEEDS, ENOUGH = 8, 2  # points, and at how many of them both have to be defined


def equal(answer: Tree, gold: Tree, rename: dict[str, str], tolerance: float = 0.0) -> bool:
    """Whether two expressions have the same values, and are defined at the same points.

    Args:
        answer: the tree of the answer.
        gold: the tree of the gold.
        rename: names of the answer that stand for names of the gold.
        tolerance: relative, for decimals in the place of other numbers.
    """
    if ("degrees" in _kinds(answer)) != ("degrees" in _kinds(gold)) and "\\pi" in names(answer) | names(gold):
        in_degrees = [_with_degrees(tree) for tree in (answer, gold)]
        if _equal_everywhere(in_degrees[0], in_degrees[1], rename, tolerance):
            return True
    return _equal_everywhere(answer, gold, rename, tolerance)


def _kinds(tree: Tree) -> set[str]:
    return {node[0] for node in nodes(tree)}


def _with_degrees(tree: Tree) -> Tree:
    """As if in the argument of an angle's function, where a degree is a number of radians."""
    return ("radians", tree)


def _equal_everywhere(answer: Tree, gold: Tree, rename: dict[str, str], tolerance: float) -> bool:
    points = _points(answer, gold, rename)
    return _at_all(points, lambda at: (lambda: value(answer, at), lambda: value(gold, at)), tolerance)


def proportional(
    answer: tuple[Tree, Tree], gold: tuple[Tree, Tree], rename: dict[str, str], sign: int | None = None
) -> bool:
    """Whether left minus right side of both differ by a constant factor, of the given sign where one is given."""
    differences = [("sum", left, ("product", ("number", Fraction(-1)), right)) for left, right in (answer, gold)]
    points = _points(differences[0], differences[1], rename)
    if len(points) == 1:
        return False
    first = [value(difference, points[0]) for difference in differences]
    if any(isinstance(number, Matrix) for number in first) or _contains_zero(first[0]) or _contains_zero(first[1]):
        return False
    if sign is not None and sign_of(first[0] * first[1]) != sign:
        return False

    def crosswise(at: Point) -> Sides:
        return (
            lambda: product([value(differences[0], at), value(differences[1], points[0])]),
            lambda: product([value(differences[1], at), value(differences[0], points[0])]),
        )

    return _at_all(points, crosswise, 0.0)


def _contains_zero(number: Any) -> bool:
    return bool(number == 0 if isinstance(number, fmpq) else number.contains(0))


def _points(answer: Tree, gold: Tree, rename: dict[str, str]) -> list[Point]:
    free = {rename.get(name, name) for name in names(answer)} | names(gold)
    order = sorted(free - CONSTANTS, key=lambda name: (name not in SIGNED, name))
    return [Point(seed, order, rename, (answer, gold)) for seed in (range(SEEDS) if order else range(1))]


class Agreement(Enum):
    """What the values of two expressions at one point say."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNDEFINED = "undefined on both sides, or too large to see their units"
    UNDECIDED = "undefined on one side, or not told apart in the last precision"


def _at_all(points: list[Point], sides: Callable[[Point], Sides], tolerance: float) -> bool:
    agreed = 0
    for at in points:
        agreement = _at_one(sides(at), tolerance)
        beyond_domain = at.seed >= 4 and (at.magnitudes or not SOMETIMES_SIGNED.isdisjoint(at.order))
        if agreement is Agreement.DIFFERENT or agreement is Agreement.UNDECIDED and not beyond_domain:
            return False
        agreed += agreement is Agreement.EQUAL
    return agreed >= min(len(points), ENOUGH)


def _at_one(sides: Sides, tolerance: float) -> Agreement:
    values: list[Any] = []
    for bits in PRECISIONS:
        flint.ctx.prec = bits
        values = [_value_or_none(side) for side in sides]
        if values[0] is None and values[1] is None:
            return Agreement.UNDEFINED
        equal = None if None in values else _equal_values(values[0], values[1], tolerance)
        if equal is not None:
            return Agreement.EQUAL if equal else Agreement.DIFFERENT
    return Agreement.UNDEFINED if all(map(_is_huge, values)) else Agreement.UNDECIDED


def _value_or_none(side: Callable[[], Any]) -> Any:
    try:
        return side()
    except (Undefined, ValueError, ZeroDivisionError, OverflowError):
        return None


def _is_huge(number: Any) -> bool:
    """Whether no precision here shows the units of a number: other points have to decide then."""
    return number is not None and not isinstance(number, Matrix) and not abs(acb(number)) < HUGE


def _equal_values(left: Any, right: Any, tolerance: float) -> bool | None:
    if isinstance(left, Matrix) or isinstance(right, Matrix):
        if not (isinstance(left, Matrix) and isinstance(right, Matrix) and left.shape == right.shape):
            return False
        cells = zip(sum(left.rows, []), sum(right.rows, []), strict=True)
        verdicts = [_equal_values(cell, other, tolerance) for cell, other in cells]
        return False if False in verdicts else None if None in verdicts else True
    if isinstance(left, fmpq) and isinstance(right, fmpq) and not tolerance:
        return bool(left == right)
    difference, scale = abs(acb(left) - acb(right)), abs(acb(right))
    if not (difference.is_finite() and scale.is_finite()):
        return None
    if difference > scale * arb(tolerance) and difference > 0:
        return False
    if tolerance and difference < scale * arb(tolerance):
        return True
    return True if difference < CLOSE and (difference < scale * CLOSE or scale > 1 or scale.contains(0)) else None
