"""LaTeX as tokens: read on demand, taken one by one, with a way back to where an attempt began."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

SPACING = re.compile(
    r"(?:[ \t\r\n]+|\\[,:;!*\-./\"(=]|\\(?:thinspace|medspace|thickspace|quad|qquad|negthinspace|negmedspace|"
    r"negthickspace|vrule|vcenter|vbox|vskip|vspace|hfil|left(?!\|)|right(?!\|))(?![a-zA-Z]))+"
)
TOKEN = re.compile(
    r"(?P<letter>[a-zA-Z])|(?P<digit>[0-9])|(?P<bar>\\left\||\\right\|)|"
    r"(?P<command>\\[a-zA-Z]+|\\[{}])|(?P<equal>&[ \t\r\n]*=|=[ \t\r\n]*&|=)|(?P<quotes>'+)|"
    r"(?P<sign>[-+*/(){}\[\]|_^:<>!,.])"
)
DIFFERENTIAL_OR_TOKEN = re.compile(rf"(?P<differential>d[ \t\r\n]*(?:[a-zA-Z]|\\[a-zA-Z]+))|{TOKEN.pattern}")


class Unreadable(ValueError):
    """The text is not a formula of the grammar."""


class Unknown(Unreadable):
    """The text has a character that no token begins with: what stands before it does not count either."""


class Tokens:
    """The tokens of a text. With `strict`, d is a letter like any other, and no differential."""

    def __init__(self, text: str, strict: bool = False) -> None:
        self.text = text
        self.strict = strict
        self.token = TOKEN if strict else DIFFERENTIAL_OR_TOKEN
        self.tokens: list[tuple[str, str]] = []  # (kind, text), read on demand: a bad token far behind is not an error
        self.at = 0
        self.end = 0
        self.failed: set[tuple[int, str]] = set()

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        while len(self.tokens) <= self.at + ahead:
            spacing = SPACING.match(self.text, self.end)
            start = spacing.end() if spacing else self.end
            token = self.token.match(self.text, start)
            if token is None and start < len(self.text):
                raise Unknown(self.text[start])
            self.tokens.append((str(token.lastgroup), token[0]) if token else ("end", ""))
            self.end = token.end() if token else start
        return self.tokens[self.at + ahead]

    def take(self) -> str:
        text = self.peek()[1]
        self.at += 1
        self.peek()  # an unknown character counts as soon as it is next
        return text

    def expect(self, text: str) -> None:
        if self.sign() != text:
            raise Unreadable(f"expected {text}")
        self.take()

    def attempt(self, part: Callable[[], Any]) -> Any:
        """What `part` reads, or None and back to the place where it began, where it cannot be read to its end."""
        start, key = self.at, (self.at, part.__name__)
        if key in self.failed:  # nested attempts would take exponential time
            return None
        try:
            return part()
        except Unknown:
            raise
        except Unreadable:
            self.failed.add(key)
            self.at = start
            return None

    def sign(self) -> str:
        kind, text = self.peek()
        return "=" if kind == "equal" else text

    def number(self) -> str:
        digits = self.digits()
        while self.peek()[1] == "," and all(self.peek(i)[0] == "digit" for i in (1, 2, 3)):
            self.take()
            digits += self.take() + self.take() + self.take()
        if self.peek()[1] == ".":
            digits += self.take()
            if self.peek()[0] != "digit":
                raise Unreadable("a number ends in a dot")
            digits += self.digits()
        return digits

    def digits(self) -> str:
        digits = []
        while self.peek()[0] == "digit":
            digits.append(self.take())
        return "".join(digits)
