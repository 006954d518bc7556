"""Inequalities and intervals: 1 < x <= 2 as (1, 2], and x > 1 as (1, infinity)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from losslab.grading.parts import inside

RELATION = re.compile(r"(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z]))")
VARIABLE = re.compile(r"\s*\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\(\w\))?\s*")
FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}


@dataclass(frozen=True)
class Interval:
    """The ends of an interval as texts, its brackets, and the variable that lies in it, where one is named."""

    low: str
    high: str
    brackets: str
    variable: str = ""


def relations(text: str) -> tuple[list[str], list[str]]:
    """The operands and the signs of a chain of inequalities; no signs where there is none."""
    pieces = RELATION.split(text)
    return [piece.strip() for piece in pieces[::2]], pieces[1::2]


def as_interval(text: str) -> Interval | None:
    """The interval that a text stands for; None where it is none."""
    if components := inside(text):
        text = text.strip()
        return Interval(components[0], components[1], text[0] + text[-1]) if len(components) == 2 else None
    operands, signs = relations(text)
    if len(signs) == 1 and signs[0] != "\\ne":
        if VARIABLE.fullmatch(operands[1]) and not VARIABLE.fullmatch(operands[0]):
            operands, signs = operands[::-1], [FLIPPED[signs[0]]]
        if not VARIABLE.fullmatch(operands[0]) or not operands[1]:
            return None
        closed = signs[0] in ("\\le", "\\ge")
        if signs[0] in (">", "\\ge"):
            return Interval(operands[1], "\\infty", "[)" if closed else "()", operands[0])
        return Interval("-\\infty", operands[1], "(]" if closed else "()", operands[0])
    if len(signs) == 2 and VARIABLE.fullmatch(operands[1]) and operands[0] and operands[2]:
        if signs[0] in (">", "\\ge"):
            operands, signs = operands[::-1], [FLIPPED[sign] for sign in reversed(signs)]
        if set(signs) <= {"<", "\\le"}:
            brackets = ("[" if signs[0] == "\\le" else "(") + ("]" if signs[1] == "\\le" else ")")
            return Interval(operands[0], operands[2], brackets, operands[1])
    return None
