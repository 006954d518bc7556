"""Reads what a model wrote into sympy objects without ever executing it.

`read` takes, in this order, the longest readable beginning of a LaTeX formula (the grammar of sympy's own LaTeX parser,
which stops without a word at the first token that cannot go on), an expression in Python's syntax, evaluated from its
syntax tree over a closed list of mathematical functions, and the more tolerant LaTeX of latex2sympy.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from math import isclose
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from sympy.parsing.sympy_parser import standard_transformations, stringify_expr

SPACING = re.compile(
    r"(?:[ \t\r\n]+|\\[,:;!*\-./\"(=]|\\(?:thinspace|medspace|thickspace|quad|qquad|negthinspace|negmedspace|"
    r"negthickspace|vrule|vcenter|vbox|vskip|vspace|hfil|left(?!\|)|right(?!\|))(?![a-zA-Z]))+"
)
TOKEN = re.compile(
    r"(?P<differential>d[ \t\r\n]*(?:[a-zA-Z]|\\[a-zA-Z]+))|(?P<letter>[a-zA-Z])|(?P<digit>[0-9])|(?P<bar>\\left\||\\right\|)|"
    r"(?P<command>\\[a-zA-Z]+|\\[{}])|(?P<equal>&[ \t\r\n]*=|=[ \t\r\n]*&|=)|(?P<quotes>'+)|(?P<sign>[-+*/(){}\[\]|_^:<>!,.])"
)
RELATIONS = {
    "=": sympy.Eq, "<": sympy.StrictLessThan, ">": sympy.StrictGreaterThan, "\\neq": sympy.Ne,
    **dict.fromkeys(["\\leq", "\\le", "\\leqq", "\\leqslant"], sympy.LessThan),
    **dict.fromkeys(["\\geq", "\\ge", "\\geqq", "\\geqslant"], sympy.GreaterThan),
}  # fmt: skip
PRODUCTS = {"*", "\\times", "\\cdot"}
QUOTIENTS = {"/", "\\div", ":"}
FUNCTIONS = {
    "\\" + name: getattr(sympy, name) for name in "exp sin cos tan csc sec cot sinh cosh tanh".split()
} | {f"\\arc{name}": getattr(sympy, "a" + name) for name in "sin cos tan csc sec cot".split()} | {
    f"\\ar{name}": getattr(sympy, "a" + name) for name in "sinh cosh tanh".split()
}  # fmt: skip
LOGARITHMS = {"\\log": sympy.E, "\\ln": sympy.E, "\\lg": sympy.Integer(10)}
BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
BINOMIALS = {"\\binom", "\\dbinom", "\\tbinom"}
FRACTIONS = {"\\frac", "\\dfrac", "\\tfrac"}
# Commands with a meaning of their own: none of them is a symbol, and those not read below end the reading.
RESERVED = {
    *RELATIONS, *PRODUCTS, *QUOTIENTS, *FUNCTIONS, *LOGARITHMS, *BRACKETS, *BRACKETS.values(), *BINOMIALS, *FRACTIONS,
    "\\sqrt", "\\overline", "\\lfloor", "\\rfloor", "\\lceil", "\\rceil", "\\langle", "\\rangle", "\\lim", "\\to",
    "\\rightarrow", "\\Rightarrow", "\\longrightarrow", "\\Longrightarrow", "\\int", "\\sum", "\\prod", "\\mathit",
}  # fmt: skip


class Unreadable(ValueError):
    """The text is no formula of the grammar."""


def read(text: str) -> Any:
    """The sympy object that a text stands for, or the text itself where nothing reads it."""
    single = text.replace("\\\\", "\\")
    readers: list[Callable[[str], Any]] = [lambda t: Formula(t).relation(), python_expression, latex2sympy]
    for reader in readers:
        for variant in (single, text):
            try:
                return reader(variant)
            except MemoryError:
                raise
            except Exception:  # a reader fails in as many ways as there are bad formulas
                continue
    return text


def equal(a: Any, b: Any) -> bool:
    """Equal as printed, by sympy's proofs, as equations up to sign, in value within 1e-4, or as rounded matrices."""
    tests: list[Callable[[], bool]] = [
        lambda: str(a) == str(b) or a == b,
        lambda: a.equals(b) or sympy.simplify(a - b) == 0,
        lambda: abs(a.lhs - a.rhs).equals(abs(b.lhs - b.rhs)),
        lambda: isclose(float(sympy.N(b)), float(sympy.N(a)), rel_tol=1e-4),
        lambda: a.shape == b.shape and a.applyfunc(_round).equals(b.applyfunc(_round)),
    ]
    for test in tests:
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


class Formula:
    """Recursive descent over LaTeX, left to right, token by token; what stands behind the readable part is not looked at."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []  # kind and text; read on demand, so that a bad token far behind is no error
        self.at = 0
        self.end = 0

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        while len(self.tokens) <= self.at + ahead:
            spacing = SPACING.match(self.text, self.end)
            start = spacing.end() if spacing else self.end
            token = TOKEN.match(self.text, start)
            if token is None and start < len(self.text):
                raise Unreadable(self.text[start])
            self.tokens.append((str(token.lastgroup), token[0]) if token else ("end", ""))
            self.end = token.end() if token else start
        return self.tokens[self.at + ahead]

    def take(self) -> str:
        text = self.peek()[1]
        self.at += 1
        self.peek()  # the next token is looked at before this one counts
        return text

    def expect(self, text: str) -> None:
        if self.peek()[1] != text:
            raise Unreadable(f"expected {text}")
        self.take()

    def relation(self) -> Any:
        left = self.sum()
        while (sign := self.sign()) in RELATIONS:
            self.take()
            left = RELATIONS[sign](left, self.sum())
        return left

    def sign(self) -> str:
        kind, text = self.peek()
        return "=" if kind == "equal" else text

    def sum(self) -> Any:
        left = self.product()
        while (sign := self.sign()) in ("+", "-"):
            self.take()
            right = self.product()
            if sign == "-":
                right = -1 * right if getattr(right, "is_Atom", False) else sympy.Mul(-1, right, evaluate=False)
            left = sympy.Add(left, right, evaluate=False)
        return left

    def product(self, functions: bool = True) -> Any:
        left = self.signed(functions)
        while (sign := self.sign()) in PRODUCTS or sign in QUOTIENTS:
            self.take()
            right = self.signed(functions)
            if sign in QUOTIENTS:
                right = sympy.Pow(right, -1, evaluate=False)
            left = sympy.Mul(left, right, evaluate=False)
        return left

    def signed(self, functions: bool) -> Any:
        negative, signs = False, 0
        while self.sign() in ("+", "-"):
            negative ^= self.take() == "-"
            signs += 1
        value = self.factors(functions)
        return -value if negative else value

    def factors(self, functions: bool) -> Any:
        """Juxtaposition: a product, nested to the right; an x between two constants is a multiplication sign."""
        factors = [self.power(True)]
        while self.begins_factor(functions):
            factors.append(self.power(functions))
        for i in range(len(factors) - 2, 0, -1):
            around = factors[i - 1], factors[i + 1]
            if str(factors[i]) == "x" and not any(isinstance(f, list) or f.atoms(sympy.Symbol) for f in around):
                del factors[i]
        value = factors.pop()
        if isinstance(value, list):
            raise Unreadable("a derivative of nothing")
        for factor in reversed(factors):
            if isinstance(factor, list):
                value = sympy.Derivative(value, factor[0])
            else:
                value = sympy.Mul(factor, value, evaluate=False)
        return value

    def begins_factor(self, functions: bool) -> bool:
        kind, text = self.peek()
        if kind in ("differential", "letter", "digit"):
            return True
        if text in BRACKETS or text in ("|", "\\lfloor", "\\lceil") or text in FRACTIONS or text in BINOMIALS:
            return True
        if kind == "command":
            named = text in FUNCTIONS or text in LOGARITHMS or text in ("\\sqrt", "\\overline")
            return functions if named else text not in RESERVED
        return False

    def power(self, functions: bool) -> Any:
        base = self.atom(functions)
        while self.sign() == "^":
            self.take()
            exponent = self.braced() if self.sign() == "{" else self.symbol_or_number()
            if isinstance(base, list):
                raise Unreadable("a power of a derivative")
            base = sympy.Pow(base, exponent, evaluate=False)
            if self.sign() == "_":
                self.subscript()
        while self.sign() == "!":
            self.take()
            base = sympy.factorial(base, evaluate=False)
        return base

    def braced(self) -> Any:
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value

    def atom(self, functions: bool = True) -> Any:
        text = self.sign()
        if text in BRACKETS:
            self.take()
            value = self.sum()
            self.expect(BRACKETS[text])
            return value
        if text == "|":
            self.take()
            value = self.sum()
            self.expect("|")
            return sympy.Abs(value, evaluate=False)
        if text in ("\\lfloor", "\\lceil"):
            self.take()
            value = self.sum()
            self.expect("\\rfloor" if text == "\\lfloor" else "\\rceil")
            return (sympy.floor if text == "\\lfloor" else sympy.ceiling)(value, evaluate=False)
        if functions and (text in FUNCTIONS or text in LOGARITHMS):
            return self.named_function()
        if functions and text == "\\sqrt":
            self.take()
            root = None
            if self.sign() == "[":
                self.take()
                root = self.sum()
                self.expect("]")
            value = self.braced()
            return sympy.sqrt(value, evaluate=False) if root is None else sympy.root(value, root, evaluate=False)
        if functions and text == "\\overline":
            self.take()
            return sympy.conjugate(self.braced(), evaluate=False)
        return self.symbol_or_number(functions)

    def symbol_or_number(self, functions: bool = False) -> Any:
        kind, text = self.peek()
        if kind == "digit":
            return sympy.Number(self.number())
        if kind == "differential":
            return sympy.Symbol("d" + self.take()[1:].strip().removeprefix("\\"))
        if text in FRACTIONS:
            return self.fraction()
        if text in BINOMIALS:
            self.take()
            return sympy.binomial(self.braced(), self.braced(), evaluate=False)
        if kind == "letter" or kind == "command" and text not in RESERVED:
            return self.symbol(functions)
        raise Unreadable(text)

    def number(self) -> str:
        digits = self.digits()
        while self.peek()[1] == "," and all(self.peek(i)[0] == "digit" for i in (1, 2, 3)):
            self.take()
            digits += self.take() + self.take() + self.take()
        if self.peek()[1] == "." and self.peek(1)[0] == "digit":
            digits += self.take() + self.digits()
        return digits

    def digits(self) -> str:
        digits = []
        while self.peek()[0] == "digit":
            digits.append(self.take())
        return "".join(digits)

    def symbol(self, functions: bool) -> Any:
        kind, _ = self.peek()
        name = self.take().removeprefix("\\")
        plain = name
        quotes = self.take() if self.peek()[0] == "quotes" else ""
        if self.sign() == "_":
            name += "_{" + self.subscript() + "}"
        if not quotes and self.peek()[0] == "quotes":
            quotes = self.take()
        if functions and self.sign() == "(":
            start = self.at
            try:
                self.take()
                arguments = [self.sum()]
                while self.sign() == ",":
                    self.take()
                    arguments.append(self.sum())
                self.expect(")")
                return sympy.Function(name + quotes)(*arguments)
            except Unreadable:
                self.at = start
        if kind == "command":
            return sympy.oo if plain == "infty" else sympy.Symbol(name)
        return sympy.Symbol(name + quotes)

    def subscript(self) -> str:
        self.expect("_")
        return str(self.braced() if self.sign() == "{" else self.symbol_or_number())

    def named_function(self) -> Any:
        name = self.take()
        power, base = None, LOGARITHMS.get(name)
        for _ in range(2):
            if self.sign() == "^" and power is None:
                self.take()
                power = self.braced() if self.sign() == "{" else self.symbol_or_number()
            elif self.sign() == "_":
                self.take()
                subscript = self.braced() if self.sign() == "{" else self.symbol_or_number()
                base = subscript if base is not None else None
        if self.sign() == "(":
            self.take()
            argument = self.sum()
            while self.sign() == ",":
                self.take()
                self.sum()
            self.expect(")")
        else:
            argument = self.product(functions=False)
        if base is not None:
            value = sympy.log(argument, base, evaluate=False)
        elif power == -1 and "\\ar" not in name and name != "\\exp":
            return FUNCTIONS["\\ar" + ("" if name.endswith("h") else "c") + name[1:]](argument, evaluate=False)
        else:
            value = FUNCTIONS[name](argument, evaluate=False)
        return value if power is None else sympy.Pow(value, power, evaluate=False)

    def fraction(self) -> Any:
        """A fraction, or a derivative where it stands as d/dx, df/dx or with partial signs."""
        self.take()
        top_start = self.at + 1
        top = self.part_of_fraction()
        top_tokens = self.tokens[top_start : self.at - 1]
        bottom_start = self.at + 1
        bottom = self.part_of_fraction()
        variable = self.differential(self.tokens[bottom_start : self.at - 1])
        if variable is not None and top_tokens:
            sign = "d" if len(self.tokens[bottom_start : self.at - 1]) == 1 else "\\partial"
            if [text for _, text in top_tokens] == [sign]:
                return [variable]
            if top_tokens[0][1].startswith(sign):
                rest = top_tokens[0][1].removeprefix(sign) + "".join(text for _, text in top_tokens[1:])
                return sympy.Derivative(Formula(rest).relation(), variable)
        inverse = sympy.Pow(bottom, -1, evaluate=False)
        return inverse if top == 1 else sympy.Mul(top, inverse, evaluate=False)

    def part_of_fraction(self) -> Any:
        return sympy.Number(self.take()) if self.peek()[0] == "digit" else self.braced()

    @staticmethod
    def differential(tokens: list[tuple[str, str]]) -> Any:
        match tokens:
            case [("differential", text)]:
                return sympy.Symbol(text[1:].strip().removeprefix("\\"))
            case [("command", "\\partial"), ("letter" | "command", text)]:
                return sympy.Symbol(text.removeprefix("\\"))
        return None


MATHEMATICS = {name: value for name, value in vars(sympy).items() if isinstance(value, sympy.core.function.FunctionClass)}
MATHEMATICS |= {name: getattr(sympy, name) for name in ("sqrt", "cbrt", "root", "Rational", "Integer", "Float", "Symbol")}
MATHEMATICS |= {name: getattr(sympy, name) for name in ("pi", "E", "I", "oo", "zoo", "nan", "Max", "Min", "Abs")}
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b, ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b, ast.Mod: lambda a, b: a % b, ast.FloorDiv: lambda a, b: a // b,
    ast.BitXor: lambda a, b: a ^ b, ast.BitAnd: lambda a, b: a & b, ast.BitOr: lambda a, b: a | b,
    ast.USub: lambda a: -a, ast.UAdd: lambda a: +a, ast.Invert: lambda a: ~a,
    ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Gt: lambda a, b: a > b, ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b, ast.NotEq: lambda a, b: a != b,
}  # fmt: skip


def python_expression(text: str) -> Any:
    """The value of an expression in Python's syntax with sympy's numbers, symbols and functions, and nothing else."""
    names: dict[str, Any] = {**MATHEMATICS, "Function": sympy.Function}
    source = stringify_expr(text.strip(), {}, names, standard_transformations)
    return _value(ast.parse(source, mode="eval").body)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name) if name in MATHEMATICS:
            return MATHEMATICS[name]
        case ast.Call(func=ast.Name(id="Symbol" | "Float" | "Integer" as name), args=[ast.Constant(value)], keywords=[]):
            return MATHEMATICS[name](value)
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
