"""Values of expressions at points: exact fractions where all is rational, else complex balls of FLINT.

A ball holds the true value, so that two balls that do not meet prove a difference, however close the values or large
the terms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

from flint import acb, arb, fmpq, fmpz

from losslab.grading.matrices import Matrix, Undefined
from losslab.grading.points import Point
from losslab.grading.trees import Tree

CLOSE = arb(2) ** -100
MOST_STEPS = 20_000  # parts of trees that are valued at one point
LARGEST_GAMMA = 10_000
LARGEST_EXACT = 20_000  # bits of a power that is computed exactly
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
            return product([value(part, at) for part in parts])
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
            return _binomial(value(parts[0], at), value(parts[1], at))
        case "call":
            phase = fmpq(crc32(parts[0].encode()) % 9973, 991)
            arguments = [acb(value(part, at)) * fmpq(i + 3, 2) for i, part in enumerate(parts[1:])]
            return (sum(arguments, acb(phase))).cos() + fmpq(1, 7)
        case "symmetric":
            return _symmetric(parts[0], [value(part, at) for part in parts[1:]])
        case "big":
            return _big(tree, at)
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


def product(factors: list[Any]) -> Any:
    result: Any = fmpq(1)
    for factor in factors:
        result = factor * result if isinstance(factor, Matrix) and not isinstance(result, Matrix) else result * factor
        if isinstance(result, fmpq) and _bits(result) > LARGEST_EXACT:
            result = acb(result)
    return result


def _bits(number: fmpq) -> int:
    return max(int(number.p).bit_length(), int(number.q).bit_length())


def _divide(top: Any, bottom: Any) -> Any:
    return product([top, _power(bottom, fmpq(-1), None)])


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
    if isinstance(exponent, fmpq) and exponent.q % 2 and sign_of(base) < 0 and at is not None and at.real:
        magnitude = (-acb(base)) ** acb(exponent)  # the real root of an odd degree
        return -magnitude if exponent.p % 2 else magnitude
    _check_domain(base, at)
    if sign_of(base) == 0 and base == 0:
        if isinstance(exponent, fmpq) and exponent > 0:
            return fmpq(0)
        raise Undefined("a power of zero")
    return acb(base) ** acb(exponent)


def sign_of(number: Any) -> int:
    """The sign of a real number; 0 where it is none, or may be zero."""
    if isinstance(number, fmpq):
        return (number > 0) - (number < 0)
    real = number.real
    return 0 if not number.imag.contains(0) or number.imag.rad() > CLOSE else (real > 0) - (real < 0)


def _check_domain(number: Any, at: Point | None) -> None:
    if at is not None and at.real and sign_of(number) < 0:
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
                return fmpq(fmpz.fac_ui(argument.p - 1))
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


def _binomial(above: Any, below: Any) -> Any:
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


def _big(tree: Tree, at: Point) -> Any:
    """A sum or product over few integers is computed; else a value that depends on all parts, linear in the body."""
    _, command, bound, lower, upper, body = tree
    limits = value(lower, at), value(upper, at)
    whole = all(isinstance(limit, fmpq) and limit.q == 1 for limit in limits)
    if bound and command in ("\\sum", "\\prod") and whole and 0 <= limits[1] - limits[0] <= 100:
        values = []
        for index in range(int(limits[0]), int(limits[1]) + 1):
            at.bound[bound] = fmpq(index)
            values.append(value(body, at))
        del at.bound[bound]
        return _total(values) if command == "\\sum" else product(values)
    at.bound[bound] = fmpq(37, 10)
    inner = acb(value(body, at))
    del at.bound[bound]
    mixed = (acb(limits[0]) * fmpq(7, 5) + acb(limits[1]) * fmpq(9, 5) + crc32(command.encode()) % 997).cos() + 2
    return inner**mixed if command == "\\prod" else inner * mixed
