"""Reads what a model wrote into sympy objects without ever executing it.

`read` takes, in this order, the longest readable beginning of a LaTeX formula (the grammar of sympy's own LaTeX parser,
which stops silently at the first token that cannot continue), an expression in Python's syntax, evaluated from its
syntax tree over a closed list of mathematical functions, and a list of LaTeX formulas.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from math import isclose
from typing import Any

import sympy
from sympy.parsing.sympy_parser import standard_transformations, stringify_expr

from losslab.grading.latex import Formula
from losslab.grading.latex_tokens import Unreadable
from losslab.grading.values import differ

MATHEMATICS = {
    name: value for name, value in vars(sympy).items() if isinstance(value, sympy.core.function.FunctionClass)
}
MATHEMATICS |= {name: getattr(sympy, name) for name in "sqrt cbrt root Rational Max Min pi E I oo zoo nan".split()}
MATRIX = re.compile(r"(.*?)\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
INEQUALITY = re.compile(r"(<|>)")
DECIMAL = re.compile(r"[0-9]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?")
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b, ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b, ast.Mod: lambda a, b: a % b, ast.FloorDiv: lambda a, b: a // b,
    ast.BitXor: lambda a, b: a ^ b, ast.BitAnd: lambda a, b: a & b, ast.BitOr: lambda a, b: a | b,
    ast.USub: lambda a: -a, ast.UAdd: lambda a: +a, ast.Invert: lambda a: ~a,
    ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Gt: lambda a, b: a > b, ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b, ast.NotEq: lambda a, b: a != b,
}  # fmt: skip


def read(text: str) -> Any:
    """The sympy object that a text stands for, or the text itself where nothing reads it."""
    single = text.replace("\\\\", "\\")
    readers: list[Callable[[str], Any]] = [lambda t: Formula(t).relation(), python_expression, formulas]
    for reader in readers:
        for variant in (single, text):
            try:
                return reader(variant)
            except MemoryError:
                raise
            except Exception:  # a reader fails in as many ways as there are bad formulas
                continue
    return text


def formulas(text: str) -> Any:
    """A list in square brackets or in none, a chain of inequalities, a multiple of a matrix, or a single formula.

    Dollar signs are ignored, and so is a line break at the end. A chain is its text as printed.
    """
    text = text.replace("$", "").removesuffix("\\\\")
    if matrix := MATRIX.fullmatch(text):
        rows = [[_formula(cell) for cell in row.split("&")] for row in matrix[2].split("\\\\") if row.strip()]
        return (_formula(matrix[1]) if matrix[1].strip() else 1) * sympy.Matrix(rows).doit()
    pieces = INEQUALITY.split(text)
    if len(pieces) > 3:
        values = [str(_formula(piece)) for piece in pieces[::2]]
        return f"{'(' * (len(values) - 2)}{values[0]}" + "".join(
            f" {sign} {value}{')' * (i < len(values) - 2)}"
            for i, (sign, value) in enumerate(zip(pieces[1::2], values[1:], strict=True))
        )
    if text[:1] == "[" and text[-1:] == "]":
        text = text[1:-1]
    values = [_formula(part) for part in re.split("[,;]", text)]
    return values if len(values) > 1 else values[0]


def _formula(text: str) -> Any:
    constants = {sympy.Symbol("e"): sympy.E, sympy.Symbol("pi"): sympy.pi}  # and i stays a symbol
    return Formula(text, strict=True).whole().xreplace(constants)


def python_expression(text: str) -> Any:
    """The value of an expression in Python's syntax with sympy's numbers, symbols and functions, and nothing else."""
    numbers = {name: getattr(sympy, name) for name in ("Symbol", "Float", "Integer", "Function")}
    names: dict[str, Any] = {**MATHEMATICS, **numbers}
    source = stringify_expr(text.strip(), {}, names, standard_transformations)
    return _value(ast.parse(source, mode="eval").body)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name) if name in MATHEMATICS:
            return MATHEMATICS[name]
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(str() as name)], keywords=[]):
            return sympy.Symbol(name)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(str() as digits)]) if DECIMAL.fullmatch(digits):
            return sympy.Float(digits)
        case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(int() as value)], keywords=[]):
            return sympy.Integer(value)
        case ast.Call(func=ast.Call(func=ast.Name(id="Function"), args=[ast.Constant(str() as name)]), args=args):
            return sympy.Function(name)(*map(_value, args))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in MATHEMATICS:
            return MATHEMATICS[name](*map(_value, args))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(operand))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
        case ast.Tuple(elts=elements):
            return tuple(map(_value, elements))
        case ast.List(elts=elements):
            return list(map(_value, elements))
        case ast.Set(elts=elements):
            return set(map(_value, elements))
    raise Unreadable(ast.dump(node)[:80])


def equal(a: Any, b: Any) -> bool:
    """Equal as printed, by sympy's proofs, as equations up to sign, in value within 1e-4, or as rounded matrices."""
    if isinstance(a, str) or isinstance(b, str):
        return str(a) == str(b)  # and never on to sympy, which executes the strings that it is given
    tests: list[Callable[[], bool]] = [
        lambda: str(a) == str(b) or a == b,
        lambda: a.equals(b) or sympy.simplify(a - b) == 0,
        lambda: abs(a.lhs - a.rhs).equals(abs(b.lhs - b.rhs)),
        lambda: isclose(float(sympy.N(b)), float(sympy.N(a)), rel_tol=1e-4),
        lambda: a.shape == b.shape and a.applyfunc(_round).equals(b.applyfunc(_round)),
    ]
    for i, test in enumerate(tests):
        if i == 1 and differ(a, b):  # proofs take long where there is nothing to prove
            return False
        try:
            if test():
                return True
        except MemoryError:
            raise
        except Exception:  # the test does not apply to objects of these types
            continue
    return False


def _round(value: Any) -> Any:
    return round(value, 3)
