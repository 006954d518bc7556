"""The corrected verdict: is the answer right, whatever the official evaluation says of it?

Answers and golds are first brought to one notation (`clean`), then taken apart: lists in any order, plus-minus, tuples
and intervals with their kind of bracket, left-hand sides. Plain numbers are compared as exact fractions, formulas by
their values at several points, and what has no value by Math-Verify. There is no factor-100 rule.
"""

from __future__ import annotations

import cmath
import logging
import math
import re
import unicodedata
import zlib
from fractions import Fraction
from typing import Any

from losslab.evaluation import official

TOLERANCE = 2e-6  # relative, only where one side is a decimal and the gold no integer: 0.333333 is 1/3

LONGEST = 5000  # characters; no right answer is as long, the golds of all benchmarks stay below 400

# Golds that the official clean-up damages beyond what their text tells, as (benchmark, damaged) -> true.
REPAIRED = {
    ("math500", ""): "east",
    ("math500", "864^2"): "864",
    ("math500", "15^2"): "15",
    ("math500", "1\\\\sqrt{19}"): "1\\pm\\sqrt{19}",
    ("math500", "3\\2\\sqrt{2}"): "3\\pm2\\sqrt{2}",
    ("math500", "{1\\\\sqrt{5},-2}"): "\\{1\\pm\\sqrt{5},-2\\}",
    ("math500", "(+5)(b+2)"): "(a+5)(b+2)",
    ("olympiadbench", "n-\\lfloor/2\\rfloor"): "mn-\\lfloor m/2\\rfloor",
    ("olympiadbench", "f(n)=n,(n)=1"): "f(n)=n,g(n)=1",
    ("olympiadbench", "\\frac{3}{2}-1"): "\\frac{3m}{2}-1",
    ("olympiadbench", "=2,=-6-4\\sqrt{2}"): "a=2,a=-6-4\\sqrt{2}",
    ("olympiadbench", "(x)=x^2-2x+2"): "g(x)=x^2-2x+2",
    ("olympiadbench", "\\frac{}{2}"): "\\frac{ab}{2}",
    ("olympiadbench", "\\frac{}{2k(-k)!}"): "\\frac{d!}{2k(d-k)!}",
}
LAST_RESORT = re.compile(r"-?\\[dt]?frac\{-?\d+\}\{\d+\}|-?\d+/\d+|-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|-?\d*\.?\d+")
MARKERS = re.compile(r"final answer is|the answer is|answer:|####|答案是", re.IGNORECASE)


def extract(response: str) -> str:
    """The final answer as the model wrote it: last box, else what follows the last "answer is" and the like, else the
    last number; "" where there is nothing. What stands between think tags does not count where something follows."""
    for stop in official.STOPS:
        response = response.split(stop, 1)[0]
    _, closed, rest = response.rpartition("</think>")
    text = (rest if closed and rest.strip() else response).replace("ки", "")  # a stray token of some tokenizers
    for box in reversed(list(re.finditer(r"\\f?boxed?\s*(?=\{)", text))):
        answer = official.inside_braces(text, box.end())
        if answer.strip():
            return answer.strip()
    markers = list(MARKERS.finditer(text))
    if markers:
        tail = text[markers[-1].end() :].strip().lstrip(":").strip()
        if answer := re.split(r"\n|\. |\.$", tail, maxsplit=1)[0].strip("* "):
            return answer
    last = ""
    for value in LAST_RESORT.finditer(text):
        last = value[0]
    return last


def gold(benchmark: str, row: dict[str, Any]) -> str:
    """The true gold of a row as its authors wrote it, before any official clean-up.

    Raises:
        ValueError: the row has none of the columns that the benchmark needs.
    """
    official.gold(benchmark, row)  # the checks of the row are the same
    if benchmark == "math500" and isinstance(row.get("answer"), str):
        return row["answer"]
    if benchmark in official.GOLD_FROM_SOLUTION:
        return extract(row["solution"])
    if benchmark == "olympiadbench":
        return ", ".join(part.strip() for part in row["final_answer"])
    if benchmark == "gsm8k":
        return row["answer"].split("####")[1].strip()
    return official.gold(benchmark, row)


def repaired(benchmark: str, gold: str) -> str:
    """The true gold behind an official one, where the official clean-up is known to have damaged it."""
    return REPAIRED.get(("math500" if benchmark == "math_oai" else benchmark, gold), gold)


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


CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ",
    "÷": "\\div ", "±": "\\pm ",
    "π": "\\pi ", "∞": "\\infty ", "√": "\\sqrt", "°": "^\\circ ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ",
    "≈": "\\approx ",
    "∪": "\\cup ", "∈": "\\in ", "θ": "\\theta ", "ω": "\\omega ", "λ": "\\lambda ", "α": "\\alpha ", "φ": "\\phi ",
    "⁰": "^0", "¹": "^1", "²": "^2", "³": "^3", "⁴": "^4", "⁵": "^5", "⁶": "^6", "⁷": "^7", "⁸": "^8", "⁹": "^9",
    "½": "\\frac{1}{2}", "，": ",", "（": "(", "）": ")", "\u200b": "", "\u200c": "", "\u200d": "",
    "\ufeff": "", "\u2060": "",
})  # fmt: skip
FONTS = (
    r"text(?:bf|it|rm|sf|tt|normal)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|operatorname\*?|bold"
)
REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:color|textcolor)\s*\{[^{}]*\}|\\(?:display|text|script)style(?![a-zA-Z])", ""),
        (r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])", ""),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?", ""),
        (
            r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|(?<!\\)~|\\hspace\{[^{}]*\}|\\(?:thin|med|thick)space(?![a-zA-Z])",
            " ",
        ),
        (r"(?<!\\)\\[()\[\]]|\\?\$", ""),
        (r"\\(?:d|t|c)frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])", r"\\le"),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])", r"\\ge"),
        (r"\\(?:lt)(?![a-zA-Z])", "<"),
        (r"\\(?:gt)(?![a-zA-Z])", ">"),
        (r"\^\s*\{\s*\\circ\s*\}|\^?\s*\\(?:degree|circ)(?![a-zA-Z])|\bdegrees?\b", " "),
        (r"'+", r"^{\\prime}"),
        (r"\\?%|\bpercent\b", ""),
        (rf"_\s*\{{\s*\\(?:{FONTS})\s*\{{([^{{}}]*)\}}\s*\}}", r"_{\1}"),
        (rf"\\(?:{FONTS})\s*\{{([^{{}}]*)\}}", r"\\text{\1}"),
        (rf"\\(?:{FONTS})\s+(\w)", r"\1"),
        (r"\\text\{\s*([-+\d.,/^()]*)\s*\}", r"\1"),
        (r"\\text\{\s*(?:,\s*)?(?:and|or)\s*\}|(?<![\\a-zA-Z])(?:and|or)(?![a-zA-Z])", ","),
        (r"[,;]?\s*\\text\{[\s,]*(?:where|for|if|when|with|such that)\b.*", ""),
        (r"(?<![\\a-zA-Z])np\.", ""),
        (r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|arcsin|arccos|arctan|exp|log|ln)(?=\s*\()", r"\\\1"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"^\s*(\S+)\s+over\s+(\S+)\s*$", r"\\frac{\1}{\2}"),
        (r"\(\s*-\s*\\infty\s*,\s*\+?\s*\\infty\s*\)", r"\\mathbb{R}"),
        (r"\\(?:langle)(?![a-zA-Z])", "("),
        (r"\\(?:rangle)(?![a-zA-Z])", ")"),
        (r"\\cup(?![a-zA-Z])", ","),
        (r"\\(?:approx|simeq|doteq)(?![a-zA-Z])", "≈"),
        (r"\s+", " "),
    ]
]
UNIT = re.compile(
    r"(?<=[\d}\]).a-zA-Z])\s*(?:\\text\{[^{}]*\}|(?<=\d)\s*[a-zA-Z]{2,}(?: [a-zA-Z]+)*)(?:\s*\^\s*\{?-?\d\}?|/)*\s*$"
)
NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s+(?P<top>\d+)/(?P<bottom>\d+)|"
    r"\\frac\{(?P<minus>-?)(?P<up>\d+)\}\{(?P<down>\d+)\}|"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d*\.?\d+|\d+\.)(?:/(?P<over>\d+)|"
    r"\s*(?:(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*\{?\s*(?P<power>[-+]?\d+)\s*\}?|[eE](?P<exponent>[-+]?\d+)))?|"
    r"10\s*\^\s*\{?\s*(?P<ten>[-+]?\d+)\s*\}?)"
)
NAME = re.compile(r"(?:\\?[a-zA-Z]+'*|\\text\{[^{}]*\}|_|\^\{?\\?prime\}?|[(){},\s]|(?<=_)\d+|(?<=_\{)\d+)+")


def clean(text: str) -> str:
    """One notation for what is written in many: spaces, fonts, degrees, percent, fractions, words between answers."""
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text.translate(CHARACTERS))
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    text = text.rstrip(" .,;:/").lstrip(" ,;:")
    without_unit = UNIT.sub("", text).rstrip(" .,;:")
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", without_unit or text).strip()


def number(text: str) -> tuple[Fraction, bool] | None:
    """The exact value of a cleaned text, and whether it is written as a decimal; None where it is no plain number."""
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}") and official.inside_braces(text) == text[1:-1]:
        text = text[1:-1].strip()
    text = text.removesuffix("_{10}").removesuffix("_10")
    match = NUMBER.fullmatch(text) if len(text) <= 200 else None
    if match is None:
        return None
    part = match.groupdict()
    decimal, power = False, int(part["power"] or part["exponent"] or part["ten"] or 0)
    if abs(power) > 400:
        return None
    try:
        if part["top"]:
            value = int(part["whole"]) + Fraction(int(part["top"]), int(part["bottom"]))
        elif part["up"]:
            value = Fraction(int(part["minus"] + part["up"]), int(part["down"]))
        elif part["digits"]:
            digits = part["digits"].replace(",", "")
            value = Fraction(digits) / int(part["over"] or 1) * Fraction(10) ** power
            decimal = "." in digits and value.denominator != 1 or bool(part["power"] or part["exponent"])
        else:
            value = Fraction(10) ** power
    except ZeroDivisionError:
        return None
    return (-value if part["sign"] == "-" else value), decimal


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
        return re.match(rf"\(?{letter[1]}(?![a-zA-Z])", answer) is not None
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
    verdict = _equal_in_value(answer, gold)
    return _equal_by_math_verify(answer, gold) if verdict is None else verdict


def _equal_in_value(answer: str, gold: str) -> bool | None:
    """Equality at several points, exact where all is rational, which is faster than a proof and never hangs on what is
    false; None where the texts cannot be read in full, or have no value.

    An equation is its difference, up to a constant factor.
    """
    from losslab.evaluation import latex, values  # sympy takes half a second to import, and most pairs never need it

    try:
        sides = [[latex.Formula(side, strict=True).whole() for side in text.split("=")] for text in (answer, gold)]
    except (ValueError, RecursionError):
        return None
    if len(sides[0]) != len(sides[1]):
        return False  # mere names on the left are gone by now
    if len(sides[1]) > 2:
        return None
    signed = not re.search(r"sqrt|log|ln|!|binom|\^\{?[^{}]*(?:/|\\frac)", answer + gold)
    one_case = not _has_both_cases(gold) and not _has_both_cases(answer)
    ratios: list[Any] = []
    try:
        for seed in range(6):
            at = _Point(-seed if signed and seed > 3 else seed, one_case)
            at_point = [[values.value_at(formula, at) for formula in side] for side in sides]
            left, right = (side[0] - side[1] if len(side) == 2 else side[0] for side in at_point)
            if len(sides[0]) == 2:
                ratios.append(left / right)
                left, right = ratios[-1], ratios[0]
            constant = not at.variables
            decimal = constant and "." in answer + gold and not re.fullmatch(r"-?\d+", gold)
            if not _same_value(left, right, decimal):
                return False
            if constant:
                exact = isinstance(left, Fraction) and isinstance(right, Fraction) or decimal or len(sides[0]) == 2
                return exact or values.agree(sides[0][0], sides[1][0])
    except (ArithmeticError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return True


class _Point:
    """An integer for each name, as most variables of an answer stand for integers: negative where the seed is."""

    def __init__(self, seed: int, one_case: bool) -> None:
        self.seed, self.one_case, self.variables = seed, one_case, set[str]()

    def __call__(self, name: str) -> Any:
        constants = {"e": complex(math.e), "pi": complex(math.pi), "i": 1j}
        if name in constants:
            return constants[name]
        self.variables.add(name)
        name = name.casefold() if self.one_case else name
        value = Fraction(2 + zlib.crc32(f"{name} {self.seed}".encode()) % 11)
        return -value if self.seed < 0 else value


def _has_both_cases(text: str) -> bool:
    letters = set(re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]", text))
    return any(letter.swapcase() in letters for letter in letters)


def _same_value(left: Any, right: Any, decimal: bool) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction) and not decimal:
        return left == right
    if cmath.isnan(left) or cmath.isnan(right) or cmath.isinf(left) and cmath.isinf(right):
        raise OverflowError("beyond floats")
    return cmath.isclose(complex(left), complex(right), rel_tol=TOLERANCE if decimal else 1e-9, abs_tol=1e-12)


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
