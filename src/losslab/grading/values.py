"""Values of sympy expressions at points, for the official verdict: a quick look before a proof that can run away."""

from __future__ import annotations

import cmath
import operator
from collections.abc import Callable
from fractions import Fraction
from functools import partial, reduce
from math import ceil, comb, factorial, floor
from typing import Any
from zlib import crc32

import sympy


def differ(a: Any, b: Any) -> bool:
    """Whether two expressions, or the differences of two equations, clearly have different values at some point.

    Quick; False proves nothing.
    """
    for seed in (1, 2):
        try:
            left, right = (_number_at(expression, partial(_fraction, seed)) for expression in (a, b))
        except (ArithmeticError, ValueError, TypeError, AttributeError, RecursionError):
            return False
        if (
            cmath.isfinite(right)
            and not cmath.isnan(left)
            and not cmath.isclose(left, right, rel_tol=1e-3, abs_tol=1e-9)
        ):
            return True
    return False


def _number_at(expression: Any, point: Callable[[str], Fraction]) -> complex:
    if isinstance(expression, sympy.Equality):
        return complex(abs(_number_at(expression.lhs, point) - _number_at(expression.rhs, point)))
    return complex(value_at(expression, point))


def _fraction(seed: int, name: str) -> Fraction:
    return Fraction(crc32(f"{name} {seed}".encode()) % 9973 + 5000, 5003)


def value_at(expression: Any, point: Callable[[str], Fraction]) -> Fraction | complex:
    """The value where each symbol has the value that `point` gives it: exact as long as all is rational, else a float.

    Unknown functions take some value that depends on their name and arguments; a power beyond floats is infinite.

    Raises:
        ArithmeticError or ValueError: undefined there, or too large.
        TypeError: there is a part that has no value.
    """
    match expression:
        case sympy.Rational():
            return Fraction(expression.p, expression.q)
        case sympy.Symbol():
            return point(expression.name)
        case sympy.Float() | sympy.NumberSymbol() | sympy.core.numbers.ImaginaryUnit():
            return complex(expression)
        case sympy.Expr():
            values = [value_at(operand, point) for operand in _operands(expression)]
        case _:
            raise TypeError(type(expression))
    first = values[0] if values else None
    match expression, first:
        case sympy.Add(), _:
            return sum(values[1:], values[0])  # type: ignore[arg-type]
        case sympy.Mul(), _:
            return reduce(operator.mul, values)
        case sympy.Pow(), _:
            return _power(values[0], values[1])
        case sympy.floor(), Fraction():
            return Fraction(floor(first))
        case sympy.ceiling(), Fraction():
            return Fraction(ceil(first))
        case sympy.floor() | sympy.ceiling(), complex() if first.imag == 0:
            nearest = round(first.real)
            near = abs(first.real - nearest) < 1e-9 * max(1, abs(first.real))
            return Fraction(nearest if near else (floor if isinstance(expression, sympy.floor) else ceil)(first.real))
        case sympy.Abs(), _:
            return abs(first) if isinstance(first, Fraction) else complex(abs(first))  # type: ignore[arg-type]
        case sympy.factorial(), Fraction() if first.denominator == 1 and 0 <= first <= 500:
            return Fraction(factorial(int(first)))
        case sympy.binomial(), Fraction() if first.denominator == 1 and 0 <= first <= 500:
            below = values[1]
            if not isinstance(below, Fraction) or below.denominator != 1:
                raise TypeError("a binomial coefficient of no integers")
            return Fraction(comb(int(first), int(below)) if below >= 0 else 0)
        case sympy.log(), _:
            return cmath.log(*values)
        case sympy.core.function.AppliedUndef(), _:
            phase = crc32(expression.func.__name__.encode()) % 9973
            return cmath.cos(phase + sum((i + 1) * value for i, value in enumerate(values)))  # type: ignore[misc]
    if type(expression) in FLOATS:
        return FLOATS[type(expression)](complex(first))  # type: ignore[arg-type]
    raise TypeError(type(expression))


def _operands(expression: Any) -> list[Any]:
    """The arguments, with sums of sums and products of products flattened, however deep."""
    if not isinstance(expression, sympy.Add | sympy.Mul):
        return list(expression.args)
    operands, stack = [], [expression]
    while stack:
        operand = stack.pop()
        if type(operand) is type(expression):
            stack.extend(operand.args)
        else:
            operands.append(operand)
    return operands


def _power(base: Fraction | complex, exponent: Fraction | complex) -> Fraction | complex:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent) < 100_000:
            return base ** int(exponent)
    try:
        return complex(base) ** complex(exponent)
    except OverflowError:
        return complex("inf")


FLOATS: dict[type, Callable[[complex], complex]] = {
    getattr(sympy, name): getattr(cmath, name)
    for name in "exp sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh".split()
} | {
    sympy.sec: lambda z: 1 / cmath.cos(z), sympy.csc: lambda z: 1 / cmath.sin(z), sympy.cot: lambda z: 1 / cmath.tan(z),
    sympy.asec: lambda z: cmath.acos(1 / z), sympy.acsc: lambda z: cmath.asin(1 / z),
    sympy.acot: lambda z: cmath.atan(1 / z), sympy.conjugate: lambda z: z.conjugate(),
}  # fmt: skip
