"""The answer that a model gave, and the true gold, in one notation.

Both are brought to one way of writing (`clean`); a plain number is read as an exact fraction (`number`).
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Any

from losslab.grading import official_text

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
    for stop in official_text.STOPS:
        response = response.split(stop, 1)[0]
    _, closed, rest = response.rpartition("</think>")
    text = (rest if closed and rest.strip() else response).replace("ки", "")  # a stray token of some tokenizers
    for box in reversed(list(re.finditer(r"\\f?boxed?\s*(?=\{)", text))):
        answer = official_text.inside_braces(text, box.end())
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
    official_text.gold(benchmark, row)  # the checks of the row are the same
    if benchmark == "math500" and isinstance(row.get("answer"), str):
        return row["answer"]
    if benchmark in official_text.GOLD_FROM_SOLUTION:
        return extract(row["solution"])
    if benchmark == "olympiadbench":
        return ", ".join(part.strip() for part in row["final_answer"])
    if benchmark == "gsm8k":
        return row["answer"].split("####")[1].strip()
    return official_text.gold(benchmark, row)


def repaired(benchmark: str, gold: str) -> str:
    """The true gold behind an official one, where the official clean-up is known to have damaged it."""
    return REPAIRED.get(("math500" if benchmark == "math_oai" else benchmark, gold), gold)


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
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}") and official_text.inside_braces(text) == text[1:-1]:
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
