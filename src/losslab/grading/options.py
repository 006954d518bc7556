"""Multiple choice: the options of a question, the letter of an answer, and the published rules of three benchmarks.

A gold is a line for each right answer: the letter and, where it is known, the text of its option. Published rules:
    wemath      the letter A to H that follows the last "Answer" (We-Math, arXiv 2407.01284)
    mathvision  clean-up of the answer, then equality as text or, to two decimals, as numbers (MATH-V, arXiv 2402.14804)
    mathverse   a model extracts and a model compares (MathVerse, arXiv 2403.14624); the one rule is the quick match:
                the extracted answer and the gold are the same text
Written from the behaviour of these evaluations. The corrected verdict of all three goes by the letter or, where an
answer has none, by the text of the option.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from string import ascii_uppercase
from typing import Any

from losslab.config.choices import Rules
from losslab.grading import corrected, corrected_text

LONGEST = 200  # characters of a formula that is read: without a box, all of a response may be taken for the answer
LETTERS = "ABCDEFGH"  # that the published rules of We-Math know
OPTION = re.compile(r"(?:^|[;\n])\s*\(?([A-H])\s*[).:．]\s*")
# An answer that begins with a letter: alone, in brackets, or before a stop and the option's text.
CHOSEN = re.compile(r"(?:(?i:option|choice)\s*)?(?:\(([A-H])\)|([A-H])(?=\s*[.:)]|$))")
UPRIGHT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
PHRASES = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
# What MATH-V takes out of an answer or puts in the place of something, in this order.
REMOVED = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""), ("\\text", ""),
    ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""),
    ("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""), ("{km}", ""), ("km", ""), ("\\!", ""), ("\\\\", "\\"),
    ("tfrac", "frac"), ("dfrac", "frac"), ("\\$", ""), ("$", ""), ("\\%", ""), ("{.", "{0."),
)  # fmt: skip


def parsed(value: Any) -> dict[str, str]:
    """The options of a question by their letters, from a list of texts or a text; that may begin with the question.

    Raises ValueError for anything else, and for more options than there are letters.
    """
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        check_number(value)
        return dict(zip(ascii_uppercase, value, strict=False))
    if not isinstance(value, str):
        raise ValueError("no list or text of options")
    text = value.rpartition("Choices:")[2]
    _, *pieces = OPTION.split(text)  # letters and texts in turn
    return {letter: piece.strip(" ;\n") for letter, piece in zip(pieces[::2], pieces[1::2], strict=True)}


def check_number(texts: list[Any]) -> None:
    """Raise ValueError for more options than there are letters to name them by."""
    if len(texts) > len(ascii_uppercase):
        raise ValueError(f"more options ({len(texts)}) than letters")


def lines(texts: list[Any]) -> list[str]:
    """A line for each option; none where the options are their letters, as of those that stand in an image.

    Raises ValueError for more options than there are letters.
    """
    check_number(texts)
    if texts == list(ascii_uppercase[: len(texts)]):
        return []
    return [f"({letter}) {text}" for letter, text in zip(ascii_uppercase, texts, strict=False)]


def letter_of(answer: str, choices: dict[str, str]) -> str:
    """The letter of the right option, from that letter in either case, or from the text of this option alone.

    Raises ValueError for anything else, such as the number of an option, which no answer would match.
    """
    same = [letter for letter, text in choices.items() if text.split() == answer.split()]
    if answer in choices:
        return answer
    if len(same) == 1:
        return same[0]
    if answer.upper() in choices:
        return answer.upper()
    letters = ", ".join(choices)
    raise ValueError(f"the answer {answer} is neither a letter of its options ({letters}) nor the text of one")


def gold(answer: str, choices: dict[str, str]) -> str:
    """A line for each right answer: the answer, and behind a letter the text of its option, unless that is a letter."""
    text = " ".join(choices.get(answer, "").split())
    return " ".join(answer.split()) + ("" if not text or text in ascii_uppercase else f"\n{text}")


def extract(rules: str, response: str) -> str:
    """The answer as the published evaluation reads it, or, where that asks a model, as `answer_of` does."""
    if rules == Rules.wemath:
        tail = re.sub("[<>:.]", "", response.split("Answer")[-1]).strip()
        return tail[:1] if tail[:1] in LETTERS else ""
    return _cleaned(_located(response.strip())) if rules == Rules.mathvision else answer_of(rules, response)


def answer_of(rules: str, response: str) -> str:
    """The final answer as the model wrote it; We-Math asks for it between angle brackets."""
    return corrected_text.extract(re.sub("[<>]", " ", response) if rules == Rules.wemath else response)


def equal(answer: str, gold: str) -> bool:
    """Whether an answer names the right letter or, where it names none, is one of the right answers."""
    golds = gold.splitlines()
    if re.fullmatch("[A-H]", golds[0]) and (letter := _letter(answer)):
        return letter == golds[0]
    return any(corrected.equal(answer, line) for line in golds)


def _letter(answer: str) -> str | None:
    chosen = CHOSEN.match(UPRIGHT.sub(r"\1", answer).strip(" $*"))
    return (chosen[1] or chosen[2]) if chosen else None


def _same_text(extracted: str, gold: str) -> bool:
    return extracted.strip() == gold.split("\n", 1)[0]


def _as_mathvision(extracted: str, gold: str) -> bool:
    """The rule of MATH-V, with our reader of formulas in the place of latex2sympy's."""
    return any(_equal_to_two_decimals(line.lower(), extracted.lower()) for line in gold.splitlines())


# By rules, whether the published evaluation takes an extracted answer as right.
PUBLISHED: dict[str, Callable[[str, str], bool]] = {
    Rules.wemath: _same_text,
    Rules.mathvision: _as_mathvision,
    Rules.mathverse: _same_text,
}


def _located(text: str) -> str:
    """Where MATH-V looks for the answer of a response."""
    for letter in "ABCDE":
        ends, starts = (f" {letter}.", f" ({letter})."), (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        text = letter if text.endswith(ends) or text.startswith(starts) else text
    tail = text.split("is ")[-1].rstrip(".")
    text = tail if _is_number(tail) else text
    boxes = text.split("oxed{")
    if len(boxes) > 2:
        return "\\boxed{" + boxes[-1]
    for phrase in PHRASES if len(boxes) == 1 else ():
        for variant in (phrase, f"T{phrase[1:]}"):
            if variant in text:
                text = text.split(variant)[-1].strip().split("\n")[0].split(". ")[0]
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cleaned(text: str) -> str:
    """What MATH-V compares of an answer: the content of its box, in lower case, without units, spaces and names."""
    text = text.lower().replace("{}", "")
    box = re.search(r"oxed\{(.*)\}", text, re.DOTALL)
    text = box[1] if box else text
    if "}" in text and "{" not in text.split("}")[0]:
        text = text.split("}")[0]
    text = text.split("=")[-1].split("\\approx")[-1]
    for part, other in REMOVED:
        text = text.replace(part, other)
    text = "0" + text if text.startswith(".") else text
    if "sqrt" in text:
        text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)
        text = re.sub(r"\\frac([^{}])([^{}])", r"\\frac{\1}{\2}", text)
    text = "\\frac{1}{2}" if text == "0.5" else text
    text = re.sub(r"\A(0|-?[1-9]\d*)/(0|-?[1-9]\d*)\Z", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\(([a-e])\)|\{([a-e])\}", lambda letter: letter[1] or letter[2], text)
    return text.rstrip(".").lstrip(":").strip()


def _equal_to_two_decimals(gold: str, answer: str) -> bool:
    if not gold.strip() or not answer.strip():
        return False
    if gold.strip() == answer.strip() or _tuple(gold) is not None and _tuple(gold) == _tuple(answer):
        return True
    values = _value(gold), _value(answer)
    return values[0] is not None and values[0] == values[1]


def _tuple(text: str) -> list[Any] | None:
    """The components of a tuple or a list, with its brackets; None for another text, and where one is not a number."""
    if f"{text[0]}{text[-1]}" not in ("()", "[]") or "," not in text:
        return None
    parts = [part if part in ("a", "-a") or "infty" in part else _value(part) for part in text[1:-1].split(",")]
    return None if None in parts else [text[0], *parts]


def _value(text: str) -> float | None:
    """The number that a formula is, to two decimals; None where it is none, and for what is too long to be one."""
    if len(text) > LONGEST:
        return None
    from losslab.grading import symbols  # sympy takes half a second to import

    expression = symbols.read(text.replace("$", ""))
    try:
        return None if expression.free_symbols else round(float(expression), 2)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None
