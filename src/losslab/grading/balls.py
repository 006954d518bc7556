"""Values of expressions at points: exact fractions where all is rational, else complex balls of FLINT.

A ball holds the true value, so that two balls that do not meet prove a difference, however close the values or large
the terms; two that meet at a radius below 1e-30 at every point are taken for equal.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any
from zlib import crc32

import flint
from flint import acb, arb, fmpq, fmpz

from losslab.grading.expression import Tree, names, nodes

PRECISIONS = (192, 768, 3072, 9216)  # bits, until the balls decide
CLOSE = arb(2) ** -100
HUGE = arb(2) ** 2000
MOST_STEPS = 20_000  # parts of trees that are valued at one point
LARGEST_GAMMA = 10_000
LARGEST_EXACT = 20_000  # bits of a power that is computed exactly
INTEGERS = frozenset("nmkNMKjlr")  # where there is a floor, a factorial or a sign that alternates
SIGNED = frozenset("xyztuvw")  # of both signs, and
SOMETIMES_SIGNED = frozenset("abcpqs")  # of both signs where that is in the domain; all others are positive
CONSTANTS: dict[str, Callable[[], acb]] = {
    "e": lambda: acb(1).exp(), "\\pi": lambda: acb(arb.pi()), "i": lambda: acb(0, 1),
}  # fmt: skip
STEPS = frozenset(("floor", "ceil", "factorial"))


class Undefined(ArithmeticError):
    """No value at this point: a division by zero, or outside of the real domain."""


class Point:
    """What each name stands for: a fraction from 0.14 to 130 that depends on the name and a seed.

    The names in `order` are negative at four of the seeds from 1 to 7 each, where their letter allows, and each in its
    own pattern. Beside floors and factorials, letters that stand for numbers of things take integers; beside absolute
    values, every letter may be negative.
    """

    def __init__(self, seed: int, order: list[str], rename: dict[str, str], trees: tuple[Tree, Tree]) -> None:
        self.seed, self.order, self.rename = seed, order, rename
        self.integers = any(map(_has_steps, trees))
        self.magnitudes = any(node[:2] == ("function", "abs") for tree in trees for node in nodes(tree))
        self.real = not any("i" in names(tree) for tree in trees)
        self.radians = False
        self.steps = 0  # taken so far
        self.bound: dict[str, fmpq] = {}

    def __call__(self, name: str) -> fmpq | acb:
        if name in CONSTANTS:
            return CONSTANTS[name]()
        if name in self.bound:
            return self.bound[name]
        name = self.rename.get(name, name)
        random = crc32(f"{name} {self.seed}".encode())
        letter = name.rstrip("'")
        if self.integers and letter in INTEGERS:
            return fmpq(2 + random % 11)
        value = fmpq(100 + random % 997, (60, 700, 90, 8)[self.seed % 4])
        pattern = (self.order.index(name) if name in self.order else 0) % 7 + 1
        may_be_negative = letter in SIGNED or self.seed >= 4 and (letter in SOMETIMES_SIGNED or self.magnitudes)
        return -value if may_be_negative and (pattern & self.seed).bit_count() % 2 else value


class Matrix:
    """A matrix of values, with as much algebra as answers need."""

    def __init__(self, rows: list[list[Any]]) -> None:
        self.rows = rows

    def __add__(self, other: Matrix) -> Matrix:
        if self.shape != other.shape:
            raise Undefined("matrices of different shapes")
        pairs = zip(self.rows, other.rows, strict=True)
        return Matrix([[a + b for a, b in zip(*rows, strict=True)] for rows in pairs])

    def __mul__(self, other: Any) -> Matrix:
        if not isinstance(other, Matrix):
            return Matrix([[cell * other for cell in row] for row in self.rows])
        if self.shape[1] != other.shape[0]:
            raise Undefined("matrices of different shapes")
        columns = list(zip(*other.rows, strict=True))
        products = [[[a * b for a, b in zip(row, column, strict=True)] for column in columns] for row in self.rows]
        return Matrix([[sum(cell[1:], cell[0]) for cell in row] for row in products])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.rows[0])

    def determinant(self) -> Any:
        if self.shape[0] != self.shape[1] or self.shape[0] > 4:
            raise Undefined("no determinant")
        first, *rest = self.rows
        if not rest:
            return first[0]
        minors = [Matrix([row[:i] + row[i + 1 :] for row in rest]).determinant() for i in range(len(first))]
        return sum(((-1) ** i * cell * minor for i, (cell, minor) in enumerate(zip(first, minors, strict=True))), fmpq(0))


def value(tree: Tree, at: Point) -> Any:
    """The value of a tree at a point: a fraction, a ball, or a matrix of them.

    Raises:
        Undefined: there is none.
    """
    kind, parts = tree[0], tree[1:]
    at.steps += 1
    if at.steps > MOST_STEPS:
        raise Undefined("too much work")
    match kind:
        case "number":
            return fmpq(parts[0].numerator, parts[0].denominator)
        case "name":
            return at(parts[0])
        case "bracket":
            return value(parts[0], at)
        case "sum":
            return _total([value(part, at) for part in parts])
        case "product":
            return _product([value(part, at) for part in parts])
        case "power":
            return _power(value(parts[0], at), value(parts[1], at), at)
        case "root":
            return _root(value(parts[0], at), value(parts[1], at), at)
        case "radians":
            return _in_radians(parts[0], at)
        case "degrees":
            inner = value(parts[0], at)
            return inner * acb(arb.pi()) / 180 if at.radians else inner
        case "log":
            logs = [_log(value(part, at), at) for part in parts]
            return logs[0] if len(logs) == 1 else _divide(logs[0], logs[1])
        case "function":
            return _function(parts[0], _in_radians(parts[1], at) if parts[0] in ANGLES else value(parts[1], at), at)
        case "binomial":
            return _binomial(*(value(part, at) for part in parts), at)
        case "call":
            phase = fmpq(crc32(parts[0].encode()) % 9973, 991)
            arguments = [acb(value(part, at)) * fmpq(i + 3, 2) for i, part in enumerate(parts[1:])]
            return (sum(arguments, acb(phase))).cos() + fmpq(1, 7)
        case "symmetric":
            return _symmetric(parts[0], [value(part, at) for part in parts[1:]])
        case "big":
            return _big(*parts, at)
        case "matrix":
            return Matrix([[_scalar(value(cell, at)) for cell in row[1:]] for row in parts])
        case "determinant":
            return Matrix([[_scalar(value(cell, at)) for cell in row[1:]] for row in parts]).determinant()
    raise Undefined(kind)


def _in_radians(tree: Tree, at: Point) -> Any:
    before, at.radians = at.radians, True
    try:
        return value(tree, at)
    finally:
        at.radians = before


def _scalar(number: Any) -> Any:
    if isinstance(number, Matrix):
        raise Undefined("a matrix in a matrix")
    return number


def _total(terms: list[Any]) -> Any:
    if len({isinstance(term, Matrix) for term in terms}) > 1:
        raise Undefined("a number and a matrix")
    return sum(terms[1:], terms[0])


def _product(factors: list[Any]) -> Any:
    result: Any = fmpq(1)
    for factor in factors:
        result = factor * result if isinstance(factor, Matrix) and not isinstance(result, Matrix) else result * factor
        if isinstance(result, fmpq) and _bits(result) > LARGEST_EXACT:
            result = acb(result)
    return result


def _bits(number: fmpq) -> int:
    return max(int(number.p).bit_length(), int(number.q).bit_length())


def _divide(top: Any, bottom: Any) -> Any:
    return _product([top, _power(bottom, fmpq(-1), None)])


def _power(base: Any, exponent: Any, at: Point | None) -> Any:
    if isinstance(base, Matrix) or isinstance(exponent, Matrix):
        if isinstance(base, Matrix) and exponent == 2:
            return base * base
        raise Undefined("a power of a matrix")
    if isinstance(exponent, fmpq) and exponent.q == 1:
        if base == 0 and exponent < 0 or isinstance(base, acb) and exponent < 0 and base.contains(0):
            raise Undefined("a division by zero")
        if isinstance(base, acb):
            return base ** int(exponent) if abs(exponent) < 10**6 else base ** acb(exponent)
        if _bits(base) * abs(exponent) < LARGEST_EXACT:
            return base ** int(exponent)
        return acb(base) ** acb(exponent)
    if isinstance(exponent, fmpq) and exponent.q % 2 and _sign(base) < 0 and at is not None and at.real:
        magnitude = (-acb(base)) ** acb(exponent)  # the real root of an odd degree
        return -magnitude if exponent.p % 2 else magnitude
    _check_domain(base, at)
    if _sign(base) == 0 and base == 0:
        if isinstance(exponent, fmpq) and exponent > 0:
            return fmpq(0)
        raise Undefined("a power of zero")
    return acb(base) ** acb(exponent)


def _sign(number: Any) -> int:
    """The sign of a real number; 0 where it is none, or may be zero."""
    if isinstance(number, fmpq):
        return (number > 0) - (number < 0)
    real = number.real
    return 0 if not number.imag.contains(0) or number.imag.rad() > CLOSE else (real > 0) - (real < 0)


def _check_domain(number: Any, at: Point | None) -> None:
    if at is not None and at.real and _sign(number) < 0:
        raise Undefined("outside of the real domain")


def _root(number: Any, degree: Any, at: Point) -> Any:
    if not isinstance(degree, fmpq) or degree == 0:
        return _power(number, _divide(fmpq(1), degree), at)
    if isinstance(number, fmpq) and degree == 2 and number >= 0:
        roots = fmpz(number.p).isqrt(), fmpz(number.q).isqrt()
        if roots[0] ** 2 == number.p and roots[1] ** 2 == number.q:
            return fmpq(*roots)
    return _power(number, 1 / degree, at)


def _log(number: Any, at: Point) -> Any:
    if isinstance(number, Matrix) or number == 0:
        raise Undefined("a logarithm of zero")
    _check_domain(number, at)
    return acb(number).log()


def _function(name: str, argument: Any, at: Point) -> Any:
    if isinstance(argument, Matrix):
        raise Undefined("a function of a matrix")
    if name in ("floor", "ceil"):
        return _step(argument, name == "floor")
    if name == "abs":
        return abs(argument) if isinstance(argument, fmpq) else acb(abs(argument))
    if name in ("factorial", "Gamma"):
        argument = argument + 1 if name == "factorial" else argument
        if isinstance(argument, fmpq) and argument.q == 1:
            if argument <= 0:
                raise Undefined("a pole")
            if argument <= 1000:
                return fmpq(fmpz.fac_ui(int(argument.p) - 1))
        return _gamma(acb(argument))
    if name in ("arcsin", "arccos") and at.real and isinstance(argument, fmpq) and abs(argument) > 1:
        raise Undefined("outside of the real domain")
    result = BALLS[name](acb(argument))
    if not result.is_finite():
        raise Undefined(name)
    return result


def _step(number: Any, down: bool) -> fmpq:
    if isinstance(number, fmpq):
        return fmpq(number.p // number.q if down else -(-number.p // number.q))
    real = number.real.floor() if down else number.real.ceil()
    integer = real.unique_fmpz()
    if integer is None or not number.imag.contains(0):
        raise Undefined("a step within the ball")
    return fmpq(integer)


def _binomial(above: Any, below: Any, at: Point) -> Any:
    whole = all(isinstance(number, fmpq) and number.q == 1 for number in (above, below))
    if whole and 0 <= above <= 1000:
        return fmpq(fmpz.bin_uiui(int(above), int(below))) if 0 <= below else fmpq(0)
    above, below = acb(above), acb(below)
    return _gamma(above + 1) / (_gamma(below + 1) * _gamma(above - below + 1))


def _gamma(number: acb) -> acb:
    if not abs(number) < LARGEST_GAMMA:
        raise Undefined("the gamma function of a large number")
    return number.gamma()


def _symmetric(name: str, arguments: list[Any]) -> Any:
    """The largest or smallest of fractions; of other numbers, and for divisors, a value that no order changes."""
    if name != "gcd" and all(isinstance(argument, fmpq) for argument in arguments):
        return max(arguments) if name == "max" else min(arguments)
    phase = fmpq(crc32(name.encode()) % 9973, 991)
    return sum(((acb(argument) + phase).cos() for argument in arguments), acb(0))


def _big(command: str, bound: str, lower: Tree, upper: Tree, body: Tree, at: Point) -> Any:
    """A sum or product over few integers is computed; else a value that depends on all parts, linear in the body."""
    limits = value(lower, at), value(upper, at)
    whole = all(isinstance(limit, fmpq) and limit.q == 1 for limit in limits)
    if bound and command in ("\\sum", "\\prod") and whole and 0 <= limits[1] - limits[0] <= 100:
        values = []
        for index in range(int(limits[0]), int(limits[1]) + 1):
            at.bound[bound] = fmpq(index)
            values.append(value(body, at))
        del at.bound[bound]
        return _total(values) if command == "\\sum" else _product(values)
    at.bound[bound] = fmpq(37, 10)
    inner = acb(value(body, at))
    del at.bound[bound]
    mixed = (acb(limits[0]) * fmpq(7, 5) + acb(limits[1]) * fmpq(9, 5) + crc32(command.encode()) % 997).cos() + 2
    return inner**mixed if command == "\\prod" else inner * mixed


ANGLES = frozenset("sin cos tan csc sec cot".split())
BALLS: dict[str, Callable[[acb], acb]] = {
    name: getattr(acb, name) for name in "exp sin cos tan csc sec cot sinh cosh tanh coth sech csch erf".split()
} | {
    prefix + name: getattr(acb, "a" + name)
    for name in "sin cos tan sinh cosh tanh".split()
    for prefix in ("arc",)
} | {
    "arccsc": lambda z: (1 / z).asin(), "arcsec": lambda z: (1 / z).acos(), "arccot": lambda z: (1 / z).atan(),
}  # fmt: skip


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
    points = _points(*differences, rename)
    if len(points) == 1:
        return False
    first = [value(difference, points[0]) for difference in differences]
    if any(isinstance(number, Matrix) for number in first) or _contains_zero(first[0]) or _contains_zero(first[1]):
        return False
    if sign is not None and _sign(first[0] * first[1]) != sign:
        return False

    def crosswise(at: Point) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return (
            lambda: _product([value(differences[0], at), value(differences[1], points[0])]),
            lambda: _product([value(differences[1], at), value(differences[0], points[0])]),
        )

    return _at_all(points, crosswise, 0.0)


def _contains_zero(number: Any) -> bool:
    return bool(number == 0 if isinstance(number, fmpq) else number.contains(0))


def _points(answer: Tree, gold: Tree, rename: dict[str, str]) -> list[Point]:
    free = {rename.get(name, name) for name in names(answer)} | names(gold)
    order = sorted(free - set(CONSTANTS), key=lambda name: (name not in SIGNED, name))
    return [Point(seed, order, rename, (answer, gold)) for seed in (range(8) if order else range(1))]


def _has_steps(tree: Tree) -> bool:
    """Whether there is a part that is meant for integers: a floor, a factorial, a power of a negative number."""
    for node in nodes(tree):
        if node[0] == "binomial" or node[0] == "function" and node[1] in STEPS:
            return True
        if node[0] == "power" and names(node[2]) and not names(node[1]) and node[1][0] == "bracket":
            return True
    return False


def _at_all(points: list[Point], sides: Callable[[Point], tuple[Callable[[], Any], Callable[[], Any]]], tolerance: float) -> bool:
    agreed = 0
    for at in points:
        verdict = _same(*sides(at), tolerance)
        if verdict is None and at.seed >= 4 and (at.magnitudes or not SOMETIMES_SIGNED.isdisjoint(at.order)):
            continue
        if verdict is False or verdict is None:
            return False
        agreed += verdict == "equal"
    return agreed >= min(len(points), 2)


def _same(left: Callable[[], Any], right: Callable[[], Any], tolerance: float) -> str | bool | None:
    """"equal", "undefined" on both sides, False, or None: undefined on one side, or undecided at the last precision."""
    for bits in PRECISIONS:
        flint.ctx.prec = bits
        values = []
        for side in (left, right):
            try:
                values.append(side())
            except (Undefined, ValueError, ZeroDivisionError, OverflowError):
                values.append(None)
        if values[0] is None and values[1] is None:
            return "undefined"
        if values[0] is None or values[1] is None:
            continue
        verdict = _equal_values(values[0], values[1], tolerance)
        if verdict is not None:
            return "equal" if verdict else False
    return "undefined" if all(map(_is_huge, values)) else None


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
