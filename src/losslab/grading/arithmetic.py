"""The arithmetic of expressions: sums, products, juxtaposition, powers, brackets."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction

from losslab.grading.trees import Tree, Unreadable, quotient

LARGEST_EXPONENT = 400  # of ten
LONGEST, DEEPEST = 2000, 40  # tokens, and levels of nesting
TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+(?![\w\\]))?)|(?P<letter>[a-zA-Z])|"
    r"(?P<text>\\text\{[^{}]*\})|(?P<command>\\[a-zA-Z]+|\\[{}|\\])|(?P<sign>[-+*/(){}\[\]|_^!,&':=]))"
)
FUNCTIONS = frozenset(
    "exp sin cos tan csc sec cot sinh cosh tanh coth sech csch arcsin arccos arctan arccsc arcsec arccot arcsinh "
    "arccosh arctanh arsinh arcosh artanh log ln lg Gamma erf".split()
)
CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "|": "|", "\\|": "\\|"}
CLOSING |= {"\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
RELATIONS = frozenset(
    "\\le \\ge \\ne \\to \\in \\cup \\cap \\mid \\pmod \\bmod \\equiv \\pm \\mp \\sim \\mapsto".split()
)
ENDS = frozenset("\\} \\\\ \\rfloor \\rceil \\cdot \\times \\div \\choose \\over \\end \\|".split())


class Arithmetic(ABC):
    """Recursive descent without backtracking, one pass over the tokens; commands and names are left to a subclass."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []  # (kind, text)
        end = 0
        while match := TOKEN.match(text, end):
            self.tokens.append((str(match.lastgroup), match[match.lastgroup or 0]))
            end = match.end()
            if len(self.tokens) > LONGEST:
                raise Unreadable("too long")
        if text[end:].strip():
            raise Unreadable(text[end:])
        self.tokens.append(("end", ""))
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
        text = "".join(token for _, token in self.tokens[self.at : self.at + 7])
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
            return self.token not in RELATIONS | ENDS
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
            return ("binomial", left, right) if choose else quotient(left, right)
        return left

    def group(self) -> Tree:
        """What a command takes: braces, or one digit or letter or command."""
        if self.token == "{":
            return self.bracket(self.take())
        return self.atom()

    @abstractmethod
    def command(self, token: str) -> Tree:
        """What a command stands for, with its arguments, which follow."""

    @abstractmethod
    def name(self, name: str) -> Tree:
        """What a letter or word stands for."""
