"""The corrected verdict: is the answer right, whatever the official evaluation says of it?

Answers and golds in one notation (`notation`) are taken apart here: lists in any order, plus-minus, tuples and
intervals with their kind of bracket, left-hand sides, chains of equations, words. Plain numbers are compared as exact
fractions (`numbers`), expressions by their values at several points (`balls`). Unparsable text equals only identical
text. There is no factor-100 rule, and no tolerance, except where a decimal stands for a number of another kind.
"""

from __future__ import annotations

import re
from itertools import product

from losslab.grading import words
from losslab.grading.intervals import FLIPPED, Interval, as_interval, relations
from losslab.grading.notation import clean
from losslab.grading.numbers import number, same_number, without_unit
from losslab.grading.parts import (
    NAME,
    inside,
    is_multiple,
    is_quantity,
    parts_of,
    sides,
    variants,
    without_membership,
)  # fmt: skip

LONGEST = 2000  # characters; no right answer is as long, the golds of all benchmarks stay below 400
SHORT = 200  # characters: longer texts are cleaned by a worker
DEEPEST = 8  # a set of tuples of equations of units …
MOST = 100  # answers in a list


def equal(answer: str, gold: str) -> bool:
    """Whether an answer is right. Bounded in what it does, but run it where it can be killed: see `Grader`."""
    verdict = equal_as_text(answer, gold)
    if verdict is not None:
        return verdict
    readings = [[clean(reading) for reading in _readings(text)] for text in (answer, gold)]
    return any(_equal(reading, target) for reading, target in product(*readings))


def _readings(text: str) -> list[str]:
    """The text, and where commas may separate numbers as well as thousands, the text as a list."""
    return [text, text.replace(",", ", ")] if re.search(r"\d,\d{3}(?!\d)", text) else [text]


def equal_as_text(answer: str, gold: str) -> bool | None:
    """The part of `equal` that needs no more than plain numbers; None where it cannot decide."""
    if not answer.strip() or not gold.strip():
        return False
    if answer.strip() == gold.strip():
        return True
    if len(answer) > LONGEST >= len(gold) or words.hedges(answer) and not words.hedges(gold):
        return False
    if len(answer) > SHORT or len(gold) > SHORT:
        return None
    return _equal_as_numbers(clean(answer), clean(gold))


def _equal_as_numbers(answer: str, gold: str) -> bool | None:
    value, target = number(answer), number(gold)
    if value is None or target is None:
        (bare, unit), (bare_gold, gold_unit) = without_unit(answer), without_unit(gold)
        if unit and gold_unit and words.unwrapped(unit) != words.unwrapped(gold_unit):
            return None
        value, target = number(bare), number(bare_gold)
    return None if value is None or target is None else same_number(value, target)


def _equal(answer: str, gold: str, depth: int = 0) -> bool:
    """The comparison of texts in one notation, from the outside to the inside."""
    if depth > DEEPEST:
        return False
    if words.shown(answer) == words.shown(gold):
        return True
    verdict = words.equal(answer, gold)
    if verdict is None:
        verdict = _equal_as_numbers(answer, gold)
    if verdict is not None:
        return verdict
    if "\\pm" in answer + gold or "\\mp" in answer + gold:
        return _equal_lists(_all_variants(answer), _all_variants(gold), depth)
    return _equal_lists(parts_of(answer), parts_of(gold), depth) or _equal_with_comma(answer, gold)


def _all_variants(text: str) -> list[str]:
    return [variant for part in parts_of(text) for variant in variants(part)]


def _equal_with_comma(answer: str, gold: str) -> bool:
    """A decimal comma: 3,21 for 3.21; a gold with a comma is one decimal only where no list is likely: 0,125."""
    if re.fullmatch(r"-?0,\d{3,}", gold):
        answer, gold = gold, answer
    target = number(gold)
    if target is None or target.last_digit is None or not re.fullmatch(r"-?\d+,\d+", answer):
        return False
    return number(answer.replace(",", ".")) == target


def _equal_lists(answers: list[str], golds: list[str], depth: int) -> bool:
    """Lists in any order: each item must match an item of the other list.

    The answer may repeat items, but not have fewer than the gold.
    """
    if len(golds) == len(answers) == 1:
        return _equal_one(answers[0], golds[0], depth)
    if not len(golds) <= len(answers) <= MOST:
        return False
    named = len(golds) > 1 and all("=" in part for part in answers + golds)
    matches = [
        [(not named or _name(part) == _name(gold)) and _equal(part, gold, depth + 1) for gold in golds]
        for part in answers
    ]
    return all(map(any, matches)) and all(map(any, zip(*matches, strict=True)))


def _name(equation: str) -> str:
    return re.sub(r"\\text|[{}\s]", "", equation.partition("=")[0])


def _equal_one(answer: str, gold: str, depth: int) -> bool:
    """The comparison of two answers that are not lists."""
    if "≈" in answer + gold:
        return _equal_approximately(answer, gold, depth)
    answer, gold = without_membership(answer).strip(), without_membership(gold).strip()
    intervals = as_interval(answer), as_interval(gold)
    if intervals[0] is not None and intervals[1] is not None:
        return _equal_intervals(intervals[0], intervals[1], depth)
    if relations(answer)[1] or relations(gold)[1]:
        return _equal_relations(relations(answer), relations(gold), depth)
    equations = sides(answer), sides(gold)
    if len(equations[0]) > 1 or len(equations[1]) > 1:
        return _equal_equations(*equations, depth)
    components, gold_components = inside(answer), inside(gold)
    if components and gold_components:
        pairs = zip(components, gold_components, strict=False)
        return len(components) == len(gold_components) and all(_equal(*pair, depth + 1) for pair in pairs)
    if components or gold_components:
        return _equal_vectors(answer, gold) or _equal_without_units(answer, gold, depth)
    if answer.count(":") > 1 or gold.count(":") > 1:
        return _equal_ratios(answer.split(":"), gold.split(":"))
    return _equal_formulas(answer, gold) or _equal_without_units(answer, gold, depth)


def _equal_approximately(answer: str, gold: str, depth: int) -> bool:
    """The exact value counts where there is one; the approximate one only for a gold that is a decimal itself."""
    (exact, rounded), (target, _) = _around(answer), _around(gold)
    if _equal(exact or rounded, target or _around(gold)[1], depth + 1):
        return True
    value, decimal = number(without_unit(rounded)[0]), number(without_unit(gold)[0])
    if not exact or value is None or decimal is None or value.last_digit is None or value != decimal:
        return False
    from losslab.grading import formulas

    return formulas.rounds_to(exact, value.value, value.last_digit)


def _around(text: str) -> tuple[str, str]:
    """What stands before the last sign of approximation, unless that is a mere name, and what stands behind it."""
    before, sign, behind = text.rpartition("≈")
    if not sign:
        return text, ""
    return ("" if not before.strip() or NAME.fullmatch(before) else before.strip()), behind.strip()


def _equal_intervals(answer: Interval, gold: Interval, depth: int) -> bool:
    if answer.brackets != gold.brackets or _different_unknowns(answer.variable, gold.variable):
        return False
    return _equal(answer.low, gold.low, depth + 1) and _equal(answer.high, gold.high, depth + 1)


def _different_unknowns(name: str, gold_name: str) -> bool:
    return name.strip() != gold_name.strip() and {name.strip(), gold_name.strip()} <= set("xyz")


def _equal_relations(answer: tuple[list[str], list[str]], gold: tuple[list[str], list[str]], depth: int) -> bool:
    """Inequalities: a chain part by part in either direction, a single one up to a factor."""
    (operands, signs), (gold_operands, gold_signs) = answer, gold
    if not signs or len(signs) != len(gold_signs):
        return False
    backwards = [FLIPPED[sign] for sign in reversed(signs)]
    for parts, directions in ((operands, signs), (operands[::-1], backwards)):
        pairs = zip(parts, gold_operands, strict=True)
        if directions == gold_signs and all(_equal(*pair, depth + 1) for pair in pairs):
            return True
    if len(signs) > 1 or {signs[0], gold_signs[0]} not in (
        {"<"},
        {">"},
        {"<", ">"},
        {"\\le"},
        {"\\ge"},
        {"\\le", "\\ge"},
        {"\\ne"},
    ):
        return False
    sign = None if signs == ["\\ne"] else 1 if signs == gold_signs else -1
    return _proportional(operands, gold_operands, sign)


def _equal_equations(answer: list[str], gold: list[str], depth: int) -> bool:
    """Equations up to a factor; a left-hand side that only names what is asked for may be missing, or be another."""
    if len(answer) > 1 and len(gold) > 1:
        if NAME.fullmatch(answer[0]) and NAME.fullmatch(gold[0]):
            if _different_unknowns(answer[0], gold[0]):
                return False
            if _equal(answer[-1], gold[-1], depth + 1):
                return True
        return _proportional([answer[0], answer[-1]], [gold[0], gold[-1]], None)
    if len(gold) == 1:
        return not is_multiple(answer[0]) and _equal(answer[-1], gold[0], depth + 1)
    return is_quantity(gold[0]) and _equal(answer[0], gold[-1], depth + 1)


def _proportional(answer: list[str], gold: list[str], sign: int | None) -> bool:
    from losslab.grading import formulas

    return formulas.proportional((answer[0], answer[1]), (gold[0], gold[1]), sign)


def _equal_vectors(answer: str, gold: str) -> bool:
    """A tuple for a column or a row of a matrix."""
    if "pmatrix" not in answer + gold:
        return False
    vectors = []
    for between in ("\\\\", "&"):
        texts = [
            f"\\begin{{pmatrix}}{between.join(inside(t))}\\end{{pmatrix}}" if inside(t) else t for t in (answer, gold)
        ]
        vectors.append(_equal_formulas(*texts))
    return any(vectors)


def _equal_ratios(answer: list[str], gold: list[str]) -> bool:
    """Ratios of three or more: 2:4:6 for 1:2:3."""
    if len(answer) != len(gold):
        return False
    return all(
        _equal_formulas(f"({part})({gold[0]})", f"({target})({answer[0]})")
        for part, target in zip(answer[1:], gold[1:], strict=True)
    )


def _equal_without_units(answer: str, gold: str, depth: int) -> bool:
    (bare, unit), (bare_gold, gold_unit) = without_unit(answer), without_unit(gold)
    if not (unit or gold_unit) or (bare, bare_gold) == (answer, gold):
        return False
    if unit and gold_unit and words.shown(words.unwrapped(unit)) != words.shown(words.unwrapped(gold_unit)):
        from losslab.grading import units

        return units.equal(bare, unit, bare_gold, gold_unit)
    return _equal(bare, bare_gold, depth + 1)


def _equal_formulas(answer: str, gold: str) -> bool:
    if words.shown(answer) == words.shown(gold):
        return True
    from losslab.grading import formulas  # most pairs need no more than numbers

    return formulas.equal(answer, gold)
