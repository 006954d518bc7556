"""The corrected verdict: is the answer right, whatever the official evaluation says of it?

Answers and golds in one notation (`corrected_text`) are taken apart: lists in any order, plus-minus, tuples and
intervals with their kind of bracket, left-hand sides. Plain numbers are compared as exact fractions, formulas by their
values at several points, and what has no value by Math-Verify. There is no factor-100 rule.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

from losslab.grading.corrected_text import clean, number

TOLERANCE = 2e-6  # relative, only where one side is a decimal and the gold no integer: 0.333333 is 1/3
LONGEST = 5000  # characters; no right answer is as long, the golds of all benchmarks stay below 400


def equal(answer: str, gold: str) -> bool:
    """Whether an answer is right. May run for very long on hostile answers: see `Grader`."""
    verdict = equal_as_text(answer, gold)
    return _equal(clean(answer), clean(gold)) if verdict is None else verdict


def equal_as_text(answer: str, gold: str) -> bool | None:
    """The part of `equal` that needs no symbolic mathematics; None where it cannot decide."""
    if not answer.strip() or not gold.strip():
        return False
    if answer.strip() == gold.strip():
        return True
    if len(answer) > LONGEST >= len(gold):
        return False
    if len(answer) > 200 or len(gold) > 200:
        return None  # cleaning long texts is for a worker
    value, target = number(clean(answer)), number(clean(gold))
    return None if value is None or target is None else _same_number(value, target)


NAME = re.compile(r"(?:\\?[a-zA-Z]+'*|\\text\{[^{}]*\}|_|\^\{?\\?prime\}?|[(){},\s]|(?<=_)\d+|(?<=_\{)\d+)+")


def _same_number(value: tuple[Fraction, bool], target: tuple[Fraction, bool]) -> bool:
    if value[0] == target[0]:
        return True
    if not (value[1] or target[1]) or target[0].denominator == 1 and not target[1]:
        return False
    return abs(value[0] - target[0]) <= TOLERANCE * abs(target[0])


def _equal(answer: str, gold: str) -> bool:
    """The comparison of cleaned texts, from the outside to the inside."""
    if _same_text(answer, gold):
        return True
    if letter := re.fullmatch(r"\(([A-Z])\)", gold):
        return re.match(rf"(?:[a-zA-Z ]+=\s*)?\(?{letter[1]}(?![a-zA-Z])", answer) is not None
    value, target = number(answer), number(gold)
    if value is not None and target is not None:
        return _same_number(value, target)
    answers, golds = _parts(answer), _parts(gold)
    if len(answers) != len(golds):
        return False
    if len(golds) > 1:
        for one in golds:
            match = next((other for other in answers if _equal(other, one)), None)
            if match is None:
                return False
            answers.remove(match)
        return True
    return _equal_single(answers[0], golds[0])


def _same_text(answer: str, gold: str) -> bool:
    removed = str.maketrans("", "", " {}")
    return answer.translate(removed).casefold() == gold.translate(removed).casefold()


def _parts(text: str) -> list[str]:
    """The answers of a list, a set or a plus-minus."""
    text = text.strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2]
    parts = [part.strip() for part in _split(text, ",;") if part.strip()]
    parts = [variant for part in parts for variant in _signs(part)]
    return parts or [text]


def _split(text: str, separators: str) -> list[str]:
    """Splits outside of brackets; commas between thousands stay."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in separators and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _signs(text: str) -> list[str]:
    if "\\pm" not in text and "\\mp" not in text:
        return [text]
    upper = re.sub(r"\\pm(?![a-zA-Z])", "+", re.sub(r"\\mp(?![a-zA-Z])", "-", text))
    lower = re.sub(r"\\pm(?![a-zA-Z])", "-", re.sub(r"\\mp(?![a-zA-Z])", "+", text))
    return [upper, lower]


def _equal_single(answer: str, gold: str) -> bool:
    if "=" in gold and "=" in answer and _equal_formula(answer, gold):
        return True
    names = [text.partition("=")[0].strip() for text in (answer, gold) if "=" in text]
    if len(set(names)) == 2 and set(names) <= set("xyz"):
        return False  # x = 5 and y = 5 are two lines
    answer, gold = _right_side(answer, "=" not in gold), _right_side(gold, False)
    if "≈" in answer and "≈" not in gold:
        exact, _, approximate = answer.partition("≈")
        answer = approximate if not exact.strip() or NAME.fullmatch(exact) else exact
    value, target = number(answer.strip()), number(gold.strip())
    if value is not None and target is not None:
        return _same_number(value, target)
    if not re.search("[<>]|\\\\[lg]e", gold):
        answer = _as_interval(answer)
    elif not re.search("[<>]|\\\\[lg]e", answer):
        gold = _as_interval(gold)
    answer, gold = answer.strip(), gold.strip()
    inner, gold_inner = _inside(answer), _inside(gold)
    if inner and gold_inner:
        if len(inner) != len(gold_inner) or len(inner) == 2 and (answer[0] + answer[-1] != gold[0] + gold[-1]):
            return False
        return all(_equal(one, other) for one, other in zip(inner, gold_inner, strict=True))
    if (inner or gold_inner) and not re.search(r"[<>]|\\(?:[lg]e|begin)", answer + gold):
        return False  # a tuple or an interval is no formula
    based = [re.fullmatch(r"(\w+)_\{?(\d+)\}?", text) for text in (answer, gold)]
    if based[0] and based[1]:
        return based[0].groups() == based[1].groups()
    return _equal_formula(answer, gold)


def _right_side(text: str, always: bool) -> str:
    """Without the left-hand side where that is a mere name, or whatever it is where the gold is no equation."""
    left, equals, right = text.rpartition("=") if always else text.partition("=")
    if equals and left[-1:] not in ("<", ">", "!", "\\ne") and (always or NAME.fullmatch(left)):
        return right
    return re.sub(r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])", "", text)


def _inside(text: str) -> list[str]:
    """The components of a tuple, an interval or a vector; [] where the text is none."""
    if len(text) < 3 or text[0] not in "([" or text[-1] not in ")]":
        return []
    parts = _split(text[1:-1], ",")
    depth = 0
    for character in text[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return []
    return parts if len(parts) > 1 else []


def _as_interval(text: str) -> str:
    """1 < x <= 2 as (1, 2] and x > 1 as (1, infinity)."""
    order = r"\s*(<|\\le|>|\\ge)(?![a-zA-Z])\s*"
    if two := re.fullmatch(rf"(.+?){order}\\?[a-zA-Z]+{order}(.+)", text):
        low, first, second, high = two.groups()
        if first in (">", "\\ge"):
            low, first, second, high = high, second, first, low
        return f"{'[' if 'e' in first else '('}{low},{high}{']' if 'e' in second else ')'}"
    if one := re.fullmatch(rf"\s*[a-zA-Z]{order}(.+)", text):
        sign, bound = one.groups()
        if sign in (">", "\\ge"):
            return f"{'[' if 'e' in sign else '('}{bound},\\infty)"
        return f"(-\\infty,{bound}{']' if 'e' in sign else ')'}"
    return text


def _equal_formula(answer: str, gold: str) -> bool:
    if _same_text(answer, gold):
        return True
    from losslab.grading import values  # sympy takes half a second to import, and most pairs never need it

    verdict = values.equal_in_value(answer, gold, TOLERANCE)
    return _equal_by_math_verify(answer, gold) if verdict is None else verdict


def _equal_by_math_verify(answer: str, gold: str) -> bool:
    from latex2sympy2_extended import latex2sympy
    from math_verify import verify
    from sympy import Expr, Float

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    try:
        value, target = latex2sympy(answer), latex2sympy(gold)
    except MemoryError:
        raise
    except Exception:  # no formula
        return False
    if isinstance(value, Expr) and isinstance(target, Expr) and value.is_number and target.is_number:
        # Math-Verify rounds to six decimals, so that all small numbers are equal to it.
        difference, scale = abs((value - target).evalf(30)), abs(target.evalf(30))
        if not (difference.is_finite and scale.is_finite):
            return False
        decimal = (value.has(Float) or target.has(Float)) and not target.is_Integer
        # Large integers may differ by one only, so that more than 1 is not divided by.
        return bool(difference <= (scale * TOLERANCE if decimal else min(scale, 1) * 1e-20))
    return verify(target, value, timeout_seconds=None)
