"""Mathematical expressions as trees: LaTeX or plain notation, read in full or not at all.

A tree is a tuple of a kind and its parts. Where notation has two readings in use, reading fails (`Unreadable`), except:
a slash takes one number (1/2x is x/2) or all letters up to the next operator (a/bc is a/(bc)), an integer before a
proper fraction of integers is a mixed number, and f, g, h, F, G before a bracket are functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

Tree = tuple[Any, ...]

LARGEST_EXPONENT = 400
LONGEST, DEEPEST = 2000, 40  # tokens, and levels of nesting
TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+(?![\w\\]))?)|(?P<letter>[a-zA-Z])|"
    r"(?P<text>\\text\{[^{}]*\})|(?P<command>\\[a-zA-Z]+|\\[{}|\\])|(?P<sign>[-+*/(){}\[\]|_^!,&':=]))"
)
FUNCTIONS = frozenset(
    "exp sin cos tan csc sec cot sinh cosh tanh coth sech csch arcsin arccos arctan arccsc arcsec arccot arcsinh arccosh "
    "arctanh arsinh arcosh artanh log ln lg Gamma erf".split()
)
CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "|": "|", "\\|": "\\|"}
CLOSING |= {"\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
BIG = frozenset(("\\sum", "\\prod", "\\int", "\\lim"))
RELATIONS = frozenset("\\le \\ge \\ne \\to \\in \\cup \\cap \\mid \\pmod \\bmod \\equiv \\pm \\mp \\sim \\mapsto".split())
DRESS = frozenset("\\vec \\hat \\bar \\tilde \\overline \\underline \\overrightarrow \\widehat \\mathbb \\mathcal".split())
CALLED = frozenset("fghFG")
CONSTANTS = frozenset(("e", "i", "\\pi"))
DERIVATIVE = re.compile(r"(?:d|\\partial)(?:\^\{?(\d)\}?)?((?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w+\}?)?)?")
VARIABLE = re.compile(r"(?:d|\\partial)([a-zA-Z]|\\[a-zA-Z]+)(?:\^\{?(\d)\}?)?")


class Unreadable(ValueError):
    """The text is no expression of the grammar, or has more than one reading."""


def read(text: str) -> Tree:
    """The tree of an expression in one notation (`notation.clean`).

    Raises:
        Unreadable: it is none, is too long or too deep, or has two readings.
    """
    reader = _Reader(text)
    tree = reader.sum()
    if reader.kind != "end":
        raise Unreadable(reader.token)
    return tree


class _Reader:
    """Recursive descent without backtracking: one pass over the tokens."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, bool]] = []  # (kind, text, whether a space stands before it)
        end = 0
        while match := TOKEN.match(text, end):
            token = match[match.lastgroup or 0]
            self.tokens.append((str(match.lastgroup), token, len(match[0]) > len(token)))
            end = match.end()
            if len(self.tokens) > LONGEST:
                raise Unreadable("too long")
        if text[end:].strip():
            raise Unreadable(text[end:])
        self.tokens.append(("end", "", False))
        self.at = self.depth = 0
        self.bars = False  # whether a bar closes
        self.factors_read: dict[int, tuple[Tree, int]] = {}  # brackets behind a name, by where they begin

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def token(self) -> str:
        return self.tokens[self.at][1]

    def take(self, expected: str | None = None) -> str:
        token = self.token
        if expected is not None and token != expected or self.kind == "end":
            raise Unreadable(f"{token} in place of {expected}")
        self.at += 1
        return token

    def nested(self, part: Callable[[], Tree], closing: str) -> Tree:
        self.deeper()
        bars, self.bars = self.bars, closing == "|"
        tree = part()
        self.take(closing)
        self.bars = bars
        self.depth -= 1
        return tree

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("too deep")

    def sum(self) -> Tree:
        terms = [self.term()]
        while self.token in ("+", "-"):
            terms.append(self.term())
        return terms[0] if len(terms) == 1 else ("sum", *terms)

    def term(self) -> Tree:
        negative = False
        while self.token in ("+", "-"):
            negative ^= self.take() == "-"
        factors = [*self.factors()]
        while self.token in ("*", "/", "\\cdot", "\\times", "\\div", ":"):
            divides = self.take() in ("/", "\\div", ":")
            minus = self.token == "-" and bool(self.take())
            right = [*self.factors()]
            if divides and len(right) > 1 and right[0][0] == "number":
                if len(right) > 2 or right[1][0] not in ("name", "power", "call", "function", "root", "bracket"):
                    raise Unreadable("what a slash divides by")
                factors += [("power", right[0], ("number", Fraction(-1))), *right[1:]]
            elif divides:
                factors.append(("power", ("product", *right), ("number", Fraction(-1))))
            else:
                factors += right
            negative ^= minus
        if negative:
            factors.insert(0, ("number", Fraction(-1)))
        return factors[0] if len(factors) == 1 else ("product", *factors)

    def factors(self, of_function: bool = False) -> list[Tree]:
        """A juxtaposition; as the argument of a function it ends before the next function."""
        first = self.power()
        if first[0] == "number" and self.token == "\\frac" and first[1].denominator == 1:
            mixed = self.mixed(first[1])
            first = mixed or first
        factors = [first]
        while self.starts_factor() and not (of_function and self.token[1:] in FUNCTIONS):
            if self.kind == "number" and self.tokens[self.at - 1][1] not in ")]":
                raise Unreadable("a number behind a factor")
            factors.append(self.power())
        return factors

    def mixed(self, whole: Fraction) -> Tree | None:
        text = "".join(token for _, token, _ in self.tokens[self.at : self.at + 7])
        proper = re.match(r"\\frac\{(\d+)\}\{(\d+)\}", text)
        if proper is None or int(proper[1]) >= int(proper[2]) or self.tokens[self.at - 1][0] != "number":
            return None
        self.at += 7
        return ("number", whole + Fraction(int(proper[1]), int(proper[2])))

    def starts_factor(self) -> bool:
        if self.kind in ("number", "letter", "text"):
            return True
        if self.token == "|":
            return not self.bars
        if self.kind == "command":
            return self.token not in RELATIONS and self.token not in (
                "\\}", "\\\\", "\\rfloor", "\\rceil", "\\cdot", "\\times", "\\div", "\\choose", "\\over", "\\end", "\\|",
            )  # fmt: skip
        return self.token in ("(", "[", "{")

    def power(self) -> Tree:
        base = self.atom()
        while True:
            if self.token == "^":
                self.take()
                base = self.raised(base)
            elif self.token == "!":
                self.take()
                if self.token == "!":
                    raise Unreadable("a double factorial")
                base = ("function", "factorial", base)
            else:
                return base

    def raised(self, base: Tree) -> Tree:
        if self.token == "\\circ":
            self.take()
            return ("degrees", base)
        if self.token in ("-", "+"):
            sign = self.take()
            exponent = self.atom()
            return ("power", base, ("product", ("number", Fraction(-1)), exponent) if sign == "-" else exponent)
        exponent = self.atom()
        return ("degrees", base) if exponent == ("name", "\\circ") else ("power", base, exponent)

    def atom(self) -> Tree:
        kind, token = self.kind, self.token
        if kind == "number":
            self.take()
            if abs(int(token.lower().partition("e")[2] or 0)) > LARGEST_EXPONENT:
                raise Unreadable("a number as large as that")
            return ("number", Fraction(token), *([len(token)] if "." in token or "e" in token.lower() else []))
        if self.at in self.factors_read:
            tree, self.at = self.factors_read[self.at]
            return tree
        if token in CLOSING:
            self.take()
            return self.bracket(token)
        if kind == "text":
            self.take()
            return ("name", token[6:-1].strip())
        if kind == "letter":
            return self.name(self.take())
        if kind == "command" and token not in RELATIONS:
            return self.command(self.take())
        raise Unreadable(token)

    def bracket(self, opening: str) -> Tree:
        closing = CLOSING[opening]
        if opening == "{":
            return self.nested(self.braced, closing)
        tree = self.nested(self.sum, closing)
        if opening in ("\\lfloor", "\\lceil"):
            return ("function", "floor" if opening == "\\lfloor" else "ceil", tree)
        return ("function", "abs", tree) if opening in ("|", "\\|") else ("bracket", tree)

    def braced(self) -> Tree:
        """The inside of braces, with TeX's infix commands."""
        if self.token == "\\circ" and self.tokens[self.at + 1][1] == "}":
            return ("name", self.take())
        left = self.sum()
        if self.token in ("\\choose", "\\over"):
            choose = self.take() == "\\choose"
            right = self.sum()
            return ("binomial", left, right) if choose else _quotient(left, right)
        return left

    def group(self) -> Tree:
        """What a command takes: braces, or one digit or letter or command."""
        if self.token == "{":
            return self.bracket(self.take())
        return self.atom()

    def command(self, token: str) -> Tree:
        name = token[1:]
        if name in FUNCTIONS and not (name == "Gamma" and self.token != "("):
            return self.function(name)
        if token == "\\frac":
            return self.derivative() or _quotient(self.group(), self.group())
        if token == "\\binom":
            return ("binomial", self.group(), self.group())
        if token == "\\sqrt":
            degree = self.nested(self.sum, "]") if self.token == "[" and self.take() else ("number", Fraction(2))
            return ("root", self.group(), degree)
        if token in BIG:
            return self.big(token)
        if token in ("\\dot", "\\ddot"):
            tree = self.name(self.plain_name())
            if tree[0] != "name":
                raise Unreadable("a function with a dot")
            return ("name", tree[1] + "'" * name.count("d"))
        if token in DRESS:
            return self.name(f"{token} {self.plain_text()}")
        if token == "\\begin":
            return self.matrix()
        if token in ("\\max", "\\min", "\\gcd") and self.token in ("(", "\\{"):
            return ("symmetric", name, *self.arguments(CLOSING[self.take()]))
        if token in ("\\choose", "\\over", "\\end", "\\\\", "\\left", "\\right", "\\rfloor", "\\rceil", "\\}"):
            raise Unreadable(token)
        return self.name(token)

    def plain_text(self) -> str:
        """The text of a group, as part of a name."""
        if self.token != "{":
            return self.take()
        start, depth = self.at, 0
        while depth or self.at == start:
            depth += {"{": 1, "}": -1}.get(self.take(), 0)
        return "".join(token for _, token, _ in self.tokens[start + 1 : self.at - 1])

    def plain_name(self) -> str:
        tree = self.group()
        if tree[0] != "name":
            raise Unreadable("a dot over no name")
        return str(tree[1])

    def name(self, name: str) -> Tree:
        """A symbol with its subscript and primes, or an unknown function of what is in brackets behind it."""
        while self.token in ("'", "_") or self.token == "^" and self.primes():
            if self.token == "'":
                name += self.take()
            elif self.token == "_":
                self.take()
                name += "_" + re.sub(r"\\text\{([^{}]*)\}|[{}]", r"\1", self.plain_text())
            else:
                name += "'" * self.primes()
                self.plain_exponent()
        return (self.call(name) if self.token == "(" else None) or ("name", name)

    def primes(self) -> int:
        tokens = [token for _, token, _ in self.tokens[self.at + 1 : self.at + 6]]
        inner = tokens[1 : tokens.index("}")] if tokens[0] == "{" and "}" in tokens else tokens[:1]
        return len(inner) if inner and set(inner) == {"\\prime"} else 0

    def plain_exponent(self) -> None:
        self.take("^")
        self.plain_text()

    def call(self, name: str) -> Tree | None:
        """An unknown function: f of anything, or any letter of constants; C(n, k) is a binomial coefficient."""
        start = self.at
        self.take()
        arguments = self.arguments(")")
        if name == "C" and len(arguments) == 2:
            return ("binomial", *arguments)
        if name[0] in CALLED or len(arguments) > 1 or name not in CONSTANTS and not names(arguments[0]):
            return ("call", name, *arguments)
        self.factors_read[start] = ("bracket", arguments[0]), self.at  # a factor: nothing is read twice
        self.at = start
        return None

    def arguments(self, closing: str) -> list[Tree]:
        self.deeper()
        arguments = [self.sum()]
        while self.token == ",":
            self.take()
            arguments.append(self.sum())
        self.take(closing)
        self.depth -= 1
        return arguments

    def function(self, name: str) -> Tree:
        power = base = None
        while self.token in ("^", "_"):
            if self.take() == "^":
                power = self.raised(("number", Fraction(1)))[-1]
            else:
                base = self.group()
        if self.token in ("(", "{", "[", "|"):
            argument = self.bracket(self.take())
            if argument[0] == "bracket" and self.token == "^" and power is None:
                raise Unreadable("what is raised")
        else:
            argument = ("product", *self.factors(of_function=True))
            if self.token in ("/", "\\div"):
                raise Unreadable("what is divided")
        if power == ("product", ("number", Fraction(-1)), ("number", Fraction(1))) and name[:2] != "ar":
            return ("function", "arc" + name, argument)
        if name in ("log", "ln", "lg"):
            base = base or (("number", Fraction(10)) if name == "lg" else None)
            tree: Tree = ("log", argument, *([base] if base else []))
        elif base is not None:
            raise Unreadable("a base")
        else:
            tree = ("function", re.sub("^ar(?=(?:sin|cos|tan)h)", "arc", name), argument)
        return tree if power is None else ("power", tree, power)

    def derivative(self) -> Tree | None:
        """dx/dt written as a fraction is a name of its own: x' where t or x is what is derived by."""
        start = self.at
        try:
            top, bottom = self.plain_text(), self.plain_text()
        except Unreadable:
            self.at = start
            return None
        above, below = DERIVATIVE.fullmatch(top), VARIABLE.fullmatch(bottom)
        if above is None or below is None or above[2] is None or above[1] != below[2]:
            self.at = start
            return None
        order = int(above[1] or 1)
        return ("name", above[2] + ("'" * order if below[1] in ("t", "x") else f" by {below[1]} {order}"))

    def big(self, token: str) -> Tree:
        """A sum, product, integral or limit: (big, command, name that is bound, lower, upper, body)."""
        bound, lower, upper = "", ("number", Fraction(0)), ("number", Fraction(0))
        for _ in range(2):
            if self.token == "_":
                self.take()
                self.take("{")
                if self.tokens[min(self.at + 1, len(self.tokens) - 1)][1] in ("\\to", "="):
                    bound = self.take()
                    self.take()
                lower = self.nested(self.sum, "}")
            elif self.token == "^":
                self.take()
                upper = self.group()
        return ("big", token, bound, lower, upper, ("product", *self.factors()))

    def matrix(self) -> Tree:
        kind = self.plain_text()
        rows, row = [], [self.sum()]
        while self.token != "\\end":
            if self.token == "&":
                self.take()
                row.append(self.sum())
            else:
                self.take("\\\\")
                rows.append(("row", *row))
                if self.token == "\\end":
                    row = []
                    break
                row = [self.sum()]
        self.take("\\end")
        if self.plain_text() != kind or kind not in ("pmatrix", "vmatrix"):
            raise Unreadable(kind)
        rows += [("row", *row)] if row else []
        if len({len(row) for row in rows}) != 1:
            raise Unreadable("rows of different lengths")
        return ("matrix" if kind == "pmatrix" else "determinant", *rows)


def _quotient(top: Tree, bottom: Tree) -> Tree:
    return ("product", top, ("power", bottom, ("number", Fraction(-1))))


def nodes(tree: Tree) -> Iterator[Tree]:
    """The tree and all that is in it."""
    yield tree
    for part in tree[1:]:
        if isinstance(part, tuple):
            yield from nodes(part)


def names(tree: Tree) -> set[str]:
    """The names of the symbols in a tree."""
    return {node[1] for node in nodes(tree) if node[0] == "name"}
