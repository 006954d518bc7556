"""One notation for what is written in many: characters, spaces, fonts, fractions, thousands, words between answers.

Every pattern is linear in the length of the text, except for nesting, which is not followed beyond one level.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

from losslab.grading.expression import FUNCTIONS

CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∗": "*", "⁄": "/",
    "÷": "\\div ", "±": "\\pm ", "∓": "\\mp ", "∠": "\\angle ", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}", "∘": "\\circ ",
    "π": "\\pi ", "∞": "\\infty ", "√": "\\sqrt", "°": "^\\circ ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ",
    "≈": "\\approx ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "θ": "\\theta ", "ω": "\\omega ", "λ": "\\lambda ",
    "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "ε": "\\epsilon ", "μ": "\\mu ", "µ": "\\mu ",
    "ρ": "\\rho ", "σ": "\\sigma ", "τ": "\\tau ", "φ": "\\phi ", "\u03a9": "\\Omega ", "\u2126": "\\Omega ",
    "Δ": "\\Delta ",
    "⁰": "^0", "¹": "^1", "²": "^2", "³": "^3", "⁴": "^4", "⁵": "^5", "⁶": "^6", "⁷": "^7", "⁸": "^8", "⁹": "^9",
    "∛": "\\sqrt[3]", "∜": "\\sqrt[4]", "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
    "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "′": "'", "’": "'", "，": ",", "。": ".",
    "（": "(", "）": ")", "：": ":", "；": ";", "、": ",", "\xa0": " ", "€": "", "£": "", "¥": "", "⟨": "(", "⟩": ")",
    "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": "", "\u2060": "",
})  # fmt: skip
BOLD = r"(?:mathbf|textbf|boldsymbol|bm|bold|mathit|textit|underline|emph|displaystyle|textstyle)"
FONT = r"(?:text(?:rm|sf|tt|normal|up|md)?|mbox|hbox|mathrm|mathsf|mathtt|mathnormal|operatorname\*?|rm|unit|si)"
INNER = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
SEPARATOR = r",\s?\\!\s*|\\!,\s*|\s?\{\s*,\s*\}\s*|,\\[,;: ]|\\[,;: ]\s*|\\thinspace\s*|~|,"
THOUSANDS = re.compile(rf"(?<![\d.,])(?!0)\d{{1,3}}(?:(?:{SEPARATOR})\d{{3}})+(?![\d,]*\d)")
SPACED_THOUSANDS = re.compile(r"\s*[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?\s*")
REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?")
GREEK = "alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi omega"
PLAIN_FUNCTIONS = "|".join(sorted({*FUNCTIONS, "sqrt", "asin", "acos", "atan"} - {"Gamma"}, key=len, reverse=True))
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def clean(text: str) -> str:
    """The text in one notation: `\\frac{a}{b}`, `\\le`, `^\\circ`, `\\text{...}` for upright text, `≈`, no currency,
    no percent sign, digits without separators, commas between several answers."""
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text.translate(CHARACTERS))
    if SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    text = re.sub(r"(?<!\\)\\\s*$", "", text).strip(" ,;:\n")
    while text.endswith((".", "\\\\", ",", ";", ":", "/")):
        text = text.removesuffix("\\\\")[: -1 if text[-1] in ".,;:/" else None].rstrip()
    return text


def _joined(match: re.Match[str]) -> str:
    """The digits without separators; plain commas in brackets separate the components of a tuple."""
    before = match.string[: match.start()]
    in_brackets = before.count("(") + before.count("[") > before.count(")") + before.count("]")
    if in_brackets and re.fullmatch(r"[\d,]+", match[0]) and ", " not in match.string:
        return match[0]
    return "".join(re.findall(r"\d+", match[0]))


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, period = match[1] or "0", match[2], match[3]
    if len(fixed + period) > 60:
        return match[0]
    value = Fraction(int(whole + fixed + period) - int(whole + fixed), (10 ** len(period) - 1) * 10 ** len(fixed))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _upright(match: re.Match[str]) -> str:
    """Upright text: numbers and functions lose their font, all else becomes text without braces."""
    inner = re.sub(r"\\[,;:! ]|~", " ", match[1])
    bare = inner.strip()
    if bare in FUNCTIONS:
        return f"\\{bare} "
    if (
        re.fullmatch(r"[-+\d.,/^()\s*]*|[eid]", bare)
        or "=" in bare
        or "\\" in bare.replace("\\circ", "").replace("\\cdot", "")
    ):
        return bare
    return "\\text{" + inner.replace("{", "").replace("}", "") + "}"


def _scaled(match: re.Match[str]) -> str:
    return f"{match[1]} \\times 10^{{{SCALES[match[2].lower()]}}}"


def _scaled_text(match: re.Match[str]) -> str:
    return f"{match[1]} \\times 10^{{{SCALES[match[3].lower()]}}} \\text{{"


def _rules(
    *rules: tuple[str, str | Callable[[re.Match[str]], str]],
) -> list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


REWRITES = _rules(
    # what is only seen
    (r"\\f?boxed?\s*(?=\{)|\\(?:display|text|script)style(?![a-zA-Z])", ""),
    (r"\\(?:color|textcolor)\s*\{[^{}]*\}|\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])", ""),
    (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", ""),
    (THOUSANDS.pattern, _joined),
    (r"(?<=\d)\{,\}(?=\d)", "."),
    (r"\\?[\"“”]", ""),
    (r"\\!", ""),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|(?<!\\)~|\\hspace\{[^{}]*\}|\\(?:thin|med|thick)space(?![a-zA-Z])", " "),
    (r"(?<!\\)\\[()\[\]]|\\?\$|(?<!\\)`+|\*\*(?=\S)(?=[^*]*\*\*)|(?<=\S)\*\*$", ""),
    # fonts
    (rf"\\{BOLD}\s*{INNER}", r"\1"),
    (rf"_\s*\{{?\s*\\{FONT}\s*\{{([^{{}}]*)\}}\s*\}}?", r"_{\1}"),
    (r"\^\s*\{\s*\\(?:text|mathrm|textrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}", ""),
    (rf"\\{FONT}\s*{INNER}", _upright),
    (r"\{\s*\\rm\s+([^{}]*)\}", r"\\text{\1}"),
    (rf"\\(?:{BOLD}|{FONT})\s+(\w)", r"\1"),
    (r"\\frac\s*\{\s*(\\text\{[^{}]*\})\s*\}\s*\{\s*(\\text\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?)\s*\}", r"\1/\2"),
    (r"(?<=\d)\s*\^?\s*\{?(?:\\text\{)?(?:st|nd|rd|th)(?![a-zA-Z])\}*", ""),
    # operators and relations
    (r"\*\*", "^"),
    (r"\\ast(?![a-zA-Z])", "*"),
    (r"\\(?:leqslant|leqq|leq)(?![a-zA-Z])|<=", r"\\le "),
    (r"\\(?:geqslant|geqq|geq)(?![a-zA-Z])|>=", r"\\ge "),
    (r"\\neq(?![a-zA-Z])|\\not\s*=|!=", r"\\ne "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\(?:approx|simeq|doteq)(?![a-zA-Z])", "≈"),
    (r"\\langle(?![a-zA-Z])", "("),
    (r"\\rangle(?![a-zA-Z])", ")"),
    (r"\\[lr]?vert(?![a-zA-Z])|\\mid(?![a-zA-Z])", "|"),
    (r"\\colon(?![a-zA-Z])", ":"),
    (r"(?<=\d)\s*[xX]\s*(?=\d)", r"\\times "),
    (r"(?<![\\a-zA-Z])np\.|&(?==)|(?<==)&", ""),
    # degrees, percent, and words
    (r"\\text\{\s*(?:\^\\circ|degrees?)\s*\}|(?<!\\)\bdegrees?\b", r"^\\circ "),
    (r"\^?\s*\{?\s*\^?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?", r"^\\circ "),
    (r"\\?%|\\text\{\s*(?:percent|pct\.?)\s*\}|\b(?:percent|pct)\b", ""),
    (r"(\d)\s*\b(hundred|thousand|million|billion|trillion)\b", _scaled),
    (r"(\d)\s*(\\text\{)\s*(hundred|thousand|million|billion|trillion)\b", _scaled_text),
    (r"\\text\{\s*\}", ""),
    (r"[,;]?\s*\\text\{[\s,]*(?:where|for|with|such that)\b.*", ""),
    (r"\\text\{\s*(?:,\s*)?(?:and|or)\s*\}|(?<![\\a-zA-Z{(])\b(?:and|or)\b(?![a-zA-Z])", ","),
    (r",\s*,", ","),
    # functions and names in plain letters
    (rf"(?<![\\a-zA-Z])(?<!text\{{)({PLAIN_FUNCTIONS})(?=\s*[({{^_])", r"\\\1"),
    (r"\\a(sin|cos|tan)(?![a-zA-Z])", r"\\arc\1"),
    (rf"(?<![\\a-zA-Z])({GREEK.replace(' ', '|')}|pi)(?![a-zA-Z])", r"\\\1 "),
    (r"(?<![\\a-zA-Z])(?:infinity|infty|oo)(?![a-zA-Z])", r"\\infty "),
    (r"(?<!\d)(\d+)\s+choose\s+(\d+)", r"\\binom{\1}{\2}"),
    (r"^\s*(\S+)\s+over\s+(\S+)\s*$", r"\\frac{\1}{\2}"),
    # fractions, roots, matrices
    (r"\\(?:d|t|c)(frac|binom)(?![a-zA-Z])", r"\\\1"),
    (r"\\(frac|binom)\s*(\d)\s*(\d)", r"\\\1{\2}{\3}"),
    (r"\\(frac|binom)\s*(\d)\s*(?=[{a-zA-Z\\])", r"\\\1{\2}"),
    (r"(\\(?:frac|binom)\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    (r"\\(frac|binom)\s*\{([^{}]*)\}\s*\{", r"\\\1{\2}{"),
    (r"\\(frac)\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}", r"\\\1{\2}{\3}"),
    (r"(?<![\d.])2\.718281828\d*", "e "),
    (r"(?<![\d.])3\.141592653\d*", r"\\pi "),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (REPEATING.pattern, _repeating),
    (r"(?<![\d./^_}\\])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"\1\\frac{\2}{\3}"),
    (r"\\begin\{array\}\s*\{[^{}]*\}|\\begin\{[bB]?matrix\}|\\begin\{smallmatrix\}", r"\\begin{pmatrix}"),
    (r"\\end\{(?:array|[bB]?matrix|smallmatrix)\}", r"\\end{pmatrix}"),
    (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
    (r"\\(?:varnothing|emptyset)(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset"),
    (r"\(\s*-\s*\\infty\s*,\s*\+?\s*\\infty\s*\)", r"\\mathbb{R}"),
    (r"\\var(phi|epsilon|theta|rho|sigma)(?![a-zA-Z])", r"\\\1"),
    (r"\s+", " "),
)  # fmt: skip
