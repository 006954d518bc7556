"""LaTeX formulas as sympy expressions, token by token; nothing of the text is ever executed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sympy

from losslab.grading.latex_tokens import Tokens, Unreadable

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


class Formula(Tokens):
    """Recursive descent over LaTeX as sympy's own parser reads it: a sum, product or juxtaposition ends silently
    before the first part that cannot be read, and what stands behind is not looked at.

    With `strict`, a letter before a bracket is a factor, and no function, unless what is in the bracket is a constant,
    and d is a letter like any other; `whole` then asks for the whole text to be read.
    """

    def relation(self) -> Any:
        left = self.sum()
        while (sign := self.sign()) in RELATIONS:
            self.take()
            left = RELATIONS[sign](left, self.sum())
        return left

    def whole(self) -> Any:
        value = self.sum()
        if self.peek()[0] != "end":
            raise Unreadable(self.peek()[1])
        return value

    def sum(self) -> Any:
        left = self.product()
        while (sign := self.sign()) in ("+", "-") and (right := self.attempt(self.behind_sign)) is not None:
            if sign == "-":
                right = -1 * right if getattr(right, "is_Atom", False) else sympy.Mul(-1, right, evaluate=False)
            left = sympy.Add(left, right, evaluate=False)
        return left

    def behind_sign(self) -> Any:
        self.take()
        return self.product()

    def product(self) -> Any:
        return self.chain(self.signed, self.behind_operator)

    def argument(self) -> Any:
        """The argument of a function without brackets: a product in which no further function is a factor."""
        return self.chain(self.signed_argument, self.behind_operator_argument)

    def chain(self, first: Callable[[], Any], next_one: Callable[[], Any]) -> Any:
        left = first()
        while (sign := self.sign()) in PRODUCTS | QUOTIENTS and (right := self.attempt(next_one)) is not None:
            right = sympy.Pow(right, -1, evaluate=False) if sign in QUOTIENTS else right
            left = sympy.Mul(left, right, evaluate=False)
        return left

    def behind_operator(self) -> Any:
        self.take()
        return self.signed()

    def behind_operator_argument(self) -> Any:
        self.take()
        return self.signed_argument()

    def signed(self) -> Any:
        return self.with_sign(self.power)

    def signed_argument(self) -> Any:
        return self.with_sign(self.plain_power)

    def with_sign(self, factor: Callable[[], Any]) -> Any:
        negative = False
        while self.sign() in ("+", "-"):
            negative ^= self.take() == "-"
        value = self.factors(factor)
        return -value if negative else value

    def factors(self, factor: Callable[[], Any]) -> Any:
        """Juxtaposition: a product, nested to the right; an x between two constants is a multiplication sign."""
        factors = [self.power()]
        while (value := self.attempt(factor)) is not None:
            factors.append(value)
        for i in range(len(factors) - 2, 0, -1):
            around = factors[i - 1], factors[i + 1]
            if str(factors[i]) == "x" and not any(isinstance(f, list) or f.atoms(sympy.Symbol) for f in around):
                del factors[i]
        value = factors.pop()
        if isinstance(value, list):
            raise Unreadable("a derivative of nothing")
        for left in reversed(factors):
            is_derivative = isinstance(left, list)
            value = sympy.Derivative(value, left[0]) if is_derivative else sympy.Mul(left, value, evaluate=False)
        return value

    def power(self) -> Any:
        return self.raised(self.function_or_atom())

    def plain_power(self) -> Any:
        return self.raised(self.atom())

    def raised(self, base: Any) -> Any:
        while self.sign() == "^" and (exponent := self.attempt(self.exponent)) is not None:
            if isinstance(base, list):
                raise Unreadable("a power of a derivative")
            base = sympy.Pow(base, exponent, evaluate=False)
            if self.sign() == "_":
                self.subscript()
        while self.sign() == "!":
            self.take()
            base = sympy.factorial(base, evaluate=False)
        return base

    def exponent(self) -> Any:
        self.expect("^")
        return self.script()

    def subscript(self) -> Any:
        self.expect("_")
        return self.script()

    def script(self) -> Any:
        return self.braced() if self.sign() == "{" else self.symbol_or_number()

    def braced(self) -> Any:
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value

    def function_or_atom(self) -> Any:
        kind, text = self.peek()
        if text in FUNCTIONS or text in LOGARITHMS:
            return self.named_function()
        if text == "\\sqrt":
            self.take()
            root = None
            if self.sign() == "[":
                self.take()
                root = self.sum()
                self.expect("]")
            value = self.braced()
            return sympy.sqrt(value, evaluate=False) if root is None else sympy.root(value, root, evaluate=False)
        if text == "\\overline":
            self.take()
            return sympy.conjugate(self.braced(), evaluate=False)
        if kind == "letter" or kind == "command" and text not in RESERVED:
            called = self.attempt(self.call)
            return self.symbol() if called is None else called
        return self.atom()

    def atom(self) -> Any:
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
            self.expect(text.replace("l", "r", 1))
            return (sympy.floor if text == "\\lfloor" else sympy.ceiling)(value, evaluate=False)
        return self.symbol_or_number()

    def symbol_or_number(self) -> Any:
        kind, text = self.peek()
        if kind == "digit":
            return sympy.Number(self.number())
        if kind == "differential":
            return sympy.Symbol("d" + _differential_of(self.take()))
        if text in FRACTIONS:
            return self.fraction()
        if text in BINOMIALS:
            self.take()
            return sympy.binomial(self.braced(), self.braced(), evaluate=False)
        if kind == "letter" or kind == "command" and text not in RESERVED:
            return self.symbol()
        raise Unreadable(text)

    def name(self) -> tuple[str, str]:
        """The name of a symbol with its subscript, and its primes, which stand in any order."""
        name = self.take().removeprefix("\\")
        quotes = self.take() if self.peek()[0] == "quotes" else ""
        if self.sign() == "_":
            name += "_{" + str(self.subscript()) + "}"
        if not quotes and self.peek()[0] == "quotes":
            quotes = self.take()
        return name, quotes

    def symbol(self) -> Any:
        is_command = self.peek()[0] == "command"
        name, quotes = self.name()
        if is_command:
            return sympy.oo if name.split("_")[0] == "infty" else sympy.Symbol(name)
        return sympy.Symbol(name + quotes)

    def call(self) -> Any:
        name, quotes = self.name()
        self.expect("(")
        arguments = self.arguments()
        if self.strict and any(argument.free_symbols for argument in arguments):
            raise Unreadable("a factor in brackets")
        return sympy.Function(name + quotes)(*arguments)

    def arguments(self) -> list[Any]:
        arguments = [self.sum()]
        while self.sign() == ",":
            self.take()
            arguments.append(self.sum())
        self.expect(")")
        return arguments

    def named_function(self) -> Any:
        name = self.take()
        power, base = None, LOGARITHMS.get(name)
        for _ in range(2):
            if self.sign() == "^" and power is None:
                power = self.exponent()
            elif self.sign() == "_":
                subscript = self.subscript()
                base = subscript if base is not None else None
        argument = self.attempt(self.bracketed_argument) if self.sign() == "(" else None
        if argument is None and base is not None:
            argument = self.attempt(self.argument)
            if argument is None and self.tokens[self.at - 1][0] == self.tokens[self.at - 2][0] == "digit":
                self.at -= 1  # of the digits in \\log_23 the last one is the argument
                base = sympy.Number("".join(re.findall(r"\d+", str(base)))[:-1])
        if argument is None:
            argument = self.argument()
        if base is not None:
            value = sympy.log(argument, base, evaluate=False)
        elif power == -1 and "\\ar" not in name and name != "\\exp":
            return FUNCTIONS["\\ar" + ("" if name.endswith("h") else "c") + name[1:]](argument, evaluate=False)
        else:
            value = FUNCTIONS[name](argument, evaluate=False)
        return value if power is None else sympy.Pow(value, power, evaluate=False)

    def bracketed_argument(self) -> Any:
        self.expect("(")
        return self.arguments()[0]

    def fraction(self) -> Any:
        """A fraction, or a derivative where it stands as d/dx, df/dx or with partial signs."""
        self.take()
        (top, top_tokens), (bottom, bottom_tokens) = self.part_of_fraction(), self.part_of_fraction()
        kinds, texts = [kind for kind, _ in bottom_tokens], [text for _, text in bottom_tokens]
        sign = "d" if kinds == ["differential"] else "\\partial"
        if kinds == ["differential"] or texts[:1] == ["\\partial"] and kinds[1:] in (["letter"], ["command"]):
            variable = sympy.Symbol(_differential_of(texts[0]) if sign == "d" else texts[1].removeprefix("\\"))
            text = " ".join(text for _, text in top_tokens)
            if text == sign:
                return [variable]
            if text.startswith(sign) and not self.strict:
                return sympy.Derivative(Formula(text.removeprefix(sign)).relation(), variable)
        inverse = sympy.Pow(bottom, -1, evaluate=False)
        return inverse if top == 1 else sympy.Mul(top, inverse, evaluate=False)

    def part_of_fraction(self) -> tuple[Any, list[tuple[str, str]]]:
        if self.peek()[0] == "digit":
            return sympy.Number(self.take()), []
        start = self.at
        value = self.braced()
        return value, self.tokens[start + 1 : self.at - 1]


def _differential_of(text: str) -> str:
    return text[1:].strip().removeprefix("\\")
