"""Mathematical expressions, LaTeX or plain notation, as trees: read in full or not at all.

Where notation has two readings in use, reading fails (`Unreadable`), except: a slash takes one number (1/2x is x/2) or
all letters up to the next operator (a/bc is a/(bc)), an integer before a proper fraction of integers is a mixed number,
and f, g, h, F, G before a bracket are functions.
"""

from __future__ import annotations

import re
from fractions import Fraction

from losslab.grading.arithmetic import CLOSING, FUNCTIONS, Arithmetic
from losslab.grading.trees import CONSTANTS, Tree, Unreadable, names, quotient

BIG = frozenset(("\\sum", "\\prod", "\\int", "\\lim"))
DRESS = frozenset(
    "\\vec \\hat \\bar \\tilde \\overline \\underline \\overrightarrow \\widehat \\mathbb \\mathcal".split()
)
CALLED = frozenset("fghFG")
DERIVATIVE = re.compile(r"(?:d|\\partial)(?:\^\{?(\d)\}?)?((?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w+\}?)?)?")
VARIABLE = re.compile(r"(?:d|\\partial)([a-zA-Z]|\\[a-zA-Z]+)(?:\^\{?(\d)\}?)?")


def read(text: str) -> Tree:
    """The tree of an expression in one notation (`notation.clean`).

    Raises:
        Unreadable: it is none, is too long or too deep, or has two readings.
    """
    reader = Expression(text)
    tree = reader.sum()
    if reader.kind != "end":
        raise Unreadable(reader.token)
    return tree


class Expression(Arithmetic):
    """The arithmetic with names, functions, fractions, derivatives, sums and matrices."""

    def command(self, token: str) -> Tree:
        name = token[1:]
        if name in FUNCTIONS and not (name == "Gamma" and self.token != "("):
            return self.function(name)
        if token == "\\frac":
            return self.derivative() or quotient(self.group(), self.group())
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
        return "".join(token for _, token in self.tokens[start + 1 : self.at - 1])

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
        tokens = [token for _, token in self.tokens[self.at + 1 : self.at + 6]]
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
        """dx/dt written as a fraction is a separate name: x' where t or x is the variable of the derivative."""
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
