"""How the official evaluation reads an answer: where it looks for it, and how it cleans it, its known faults included.

Written from the observed behaviour of Qwen2.5-Math's evaluation. Every operation is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

CHOICES = frozenset("ABCDE")
STOPS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")
KEEPS_UNITS = frozenset({"minerva_math", "carp_en"})
GOLD_FROM_SOLUTION = frozenset({"math500", "math_oai", "math", "minerva_math"})
# Stripped in this order, then once more with an "s" each; spaces are part of the pattern, and a dot matches any
# character. That short words such as "a", "m" or "pm" are in it is one of the faults.
UNITS = (
    "east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|gm|p . m|lb|"
    "tile|per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|soldier|pie|bc|excess|st|"
    "inches|noon|percent|by|gal|kmh|c|acre|rise|a . m|th|π r 2|sq|mark|l|toy|coin|sq . m|gallon|° f|profit|minw|"
    "yr|women|feet|am|pm|hr|cu cm|square|v â € ™|are|rupee|rounds|cubic|cc|mtr|s|ohm|number|kmph|day|hour|minute|"
    "min|second|man|woman|sec|cube|mt|sq inch|mp|∏ cm ³|hectare|more|sec|unit|cu . m|cm 2|rs .|rs|kg|g|month|km|m|"
    "cm|mm|apple|liter|loss|yard|pure|year|increase|decrease|d|less|Surface|litre|pi sq m|s .|metre|meter|inch"
).split("|")
BRACE = re.compile(r"[{}]")
UNIT_PATTERNS = [
    (re.findall(r"\w+", unit)[0], re.compile(rf"(^|\W){unit}($|\W)")) for unit in [*UNITS, *(u + "s" for u in UNITS)]
]
NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
NUMBER_WORDS |= {w: 20 + 10 * i for i, w in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())}
NUMBER_WORDS |= {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}


def extract(response: str, rules: str = "", gold: str | None = None) -> str:
    """The answer that the official evaluation reads from a response, normalised; "" where it finds none.

    `rules` decide whether units are stripped. A gold that is one of A-E, or made of these letters only (an empty one
    too), changes what is read, so pass it where it is known.
    """
    text = response.rstrip()
    for stop in STOPS:
        if stop in text:
            text = text.split(stop)[0].strip()
    if not text or text == "error":
        return ""
    answer = normalise(normalise(_last_answer(text), rules), rules)
    if gold is None or not set(gold) <= CHOICES:
        return answer
    if len(gold) == 1:
        return answer if answer in CHOICES else _choice_of_response(text)
    return "".join(letter for letter in answer if letter in CHOICES)


def gold(rules: str, row: dict[str, Any]) -> str:
    """The gold answer of a row in the format of the benchmark's own file, as the official evaluation scores it.

    Raises:
        ValueError: the row has none of the columns that the benchmark needs.
    """
    try:
        if rules in GOLD_FROM_SOLUTION:
            answer = _last_answer(row["solution"].strip())
            if rules != "minerva_math":
                return normalise(answer, rules)
            answer = normalise(answer, rules)
            return answer.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")
        if rules == "olympiadbench":
            answer = row["final_answer"][0].strip("$")
        elif rules == "gsm8k":
            answer = row["answer"].split("####")[1]
        else:
            answer = str(row["answer"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a row of {rules} has no gold answer where its format says ({error!r})") from None
    return normalise(normalise(answer, rules), rules)


def normalise(text: str, rules: str = "") -> str:
    """One pass of the official clean-up of an answer. Not idempotent: predictions go through it twice."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    text = _each(text, "\\begin{array}{", "}", lambda inner: "\\begin{pmatrix}")
    text = text.replace("\\end{array}", "\\end{pmatrix}").replace("bmatrix", "pmatrix")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    text = text.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")
    text = text.replace("\\left", "").replace("\\right", "").replace("\\{", "{").replace("\\}", "}")
    if text.endswith("}") and text.find("\\text{", 0, -1) > 0:
        # All from the first \text{ is taken for a unit, whatever else stands behind it, unless nothing is left.
        text = text[: text.find("\\text{")].strip() or text
    if rules not in KEEPS_UNITS:
        text = _strip_units(text)
    text = text.replace("^{\\circ}", "").replace("^\\circ", "")
    text = text.replace("\\$", "").replace("$", "").replace("\\(", "").replace("\\)", "")
    text = number_in_words(text) or text
    text = _each(text, "\\text{", "}", lambda inner: inner)
    for prefix in ("x=", "y=", "z=", "x\\in", "y\\in", "z\\in", "x\\to", "y\\to", "z\\to"):
        text = text.replace(prefix, "")
    text = text.replace("\\emptyset", "{}").replace("(-\\infty,\\infty)", "\\mathbb{R}")
    text = text.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = text.replace("infinity", "\\infty")
    if "\\infty" not in text:
        text = text.replace("inf", "\\infty")
    text = text.replace("and", "").replace("\\mathbf", "")
    text = _each(text, "\\mbox{", "}", lambda inner: "")
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    text = re.sub(r"(?<=\d)\.0*([^\d])", r"\1", text)
    text = re.sub(r"(?<=\d)\.0*$", "", text)
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    return _slash_to_frac(_brace_fracs(text))


def _last_answer(text: str) -> str:
    """Where the answer is looked for, in this order; the last number is the fallback."""
    text = text.replace("ки", "")
    if "final answer is $" in text and "$. I hope" in text:
        answer = text.split("final answer is $", 1)[1].split("$. I hope", 1)[0].strip()
    elif "boxed" in text:
        tail = text.rsplit("boxed", 1)[1]
        answer = inside_braces(tail) if tail[:1] == "{" else tail.split("$")[0].strip()
    elif "he answer is" in text:
        answer = text.rsplit("he answer is", 1)[1].strip()
    elif "final answer is" in text:
        answer = text.rsplit("final answer is", 1)[1].strip()
    elif "答案是" in text:
        answer = text.split("答案是", 2)[1].strip().split("\n\n")[0].strip()
    else:
        answer = ""
        for number in re.finditer(r"-?\d*\.?\d+", text.replace(",", "")):
            answer = number[0]
    answer = re.sub(r"\n\s*", "", answer)
    return answer.removeprefix(":").removesuffix(".").removesuffix("/")


def inside_braces(text: str, start: int = 0) -> str:
    """What stands between the brace at `start` and its partner, or the end of the text."""
    depth = 0
    for brace in BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + 1 : brace.start()]
    return text[start + 1 :]


def _choice_of_response(text: str) -> str:
    """The choice letter of a whole response, read where the gold is one letter and the answer is not."""
    text = text.strip("\n")
    triggers = ("choice is", "answer is")
    if any(text.count(trigger) > 1 for trigger in triggers):
        text = text.split("\n\n")[0]
    parts = re.split("|".join(triggers), text)
    if len(parts) == 1:
        return last_choice(text)
    tail = parts[-1].strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    letter = re.search(r"\b[A-E]\b", tail.upper())
    return letter[0] if letter else tail.strip().strip(".").rstrip(".").rstrip("/")


def last_choice(text: str) -> str:
    text = text.rstrip(".").rstrip("/").strip(" ").lstrip(":")
    letters = re.findall(r"\b[A-E]\b", text.upper())
    return letters[-1] if letters else text.strip().strip(".").rstrip(".").rstrip("/")


def _each(text: str, opening: str, closing: str, replace: Callable[[str], str]) -> str:
    """Replaces every opening...closing from the left, up to the nearest closing, in linear time."""
    parts, end = [], 0
    while (start := text.find(opening, end)) >= 0 and (stop := text.find(closing, start + len(opening))) >= 0:
        parts += [text[end:start], replace(text[start + len(opening) : stop])]
        end = stop + len(closing)
    return "".join(parts) + text[end:]


def _strip_units(text: str) -> str:
    for _ in range(2):
        words = set(re.findall(r"\w+", text))  # removals never make a new word, so one look per round will do
        if all(word.isdecimal() for word in words):
            break
        for first_word, pattern in UNIT_PATTERNS:
            if first_word in words:
                text = pattern.sub(r"\1\2", text) or text
    return text


def number_in_words(text: str) -> str | None:
    """A string of digits as an integer, or the number words of a text as their number; None where there are none."""
    text = text.replace("-", " ").lower()
    if text.isdigit():
        try:
            return str(int(text))
        except ValueError:  # superscripts, and more digits than Python converts
            return None
    words = [word for word in text.split() if word in NUMBER_WORDS or word == "point"]
    scales = ("billion", "million", "thousand")
    if not words or any(words.count(word) > 1 for word in (*scales, "point")):
        return None
    point = words.index("point") if "point" in words else len(words)
    whole, decimals = words[:point], [NUMBER_WORDS.get(word, 10) for word in words[point + 1 :]]
    total: float = 0
    try:
        if len(whole) == 1:
            total = NUMBER_WORDS[whole[0]]
        elif whole:
            at = [whole.index(scale) for scale in scales if scale in whole]
            if at != sorted(at):
                return None
            for scale in scales:
                if scale in whole:
                    total += _below_thousand(whole[: whole.index(scale)]) * NUMBER_WORDS[scale]
                    whole = whole[whole.index(scale) + 1 :]
            total += _below_thousand(whole) if whole else 0
    except IndexError:
        return None
    if decimals and max(decimals) < 10:
        total += float("0." + "".join(map(str, decimals)))
    return str(total)


def _below_thousand(words: list[str]) -> int:
    values = [NUMBER_WORDS[word] for word in words]
    match values:
        case [hundreds, scale, tens, ones]:
            return hundreds * scale + tens + ones
        case [hundreds, scale, ones]:
            return hundreds * scale + ones
        case [first, second]:
            return first * second if 100 in values else first + second
    return values[0]


def _brace_fracs(text: str) -> str:
    """\\frac12 and \\frac1{2} as \\frac{1}{2}; no change where a \\frac has fewer than two characters behind it."""
    head, *tails = text.split("\\frac")
    for i, tail in enumerate(tails):
        if tail[:1] == "{":
            continue
        if len(tail) < 2:
            return text
        tails[i] = f"{{{tail[0]}}}{tail[1:]}" if tail[1] == "{" else f"{{{tail[0]}}}{{{tail[1]}}}{tail[2:]}"
    return "\\frac".join([head, *tails])


def _slash_to_frac(text: str) -> str:
    """a/b as \\frac{a}{b} where both are integers as Python prints them, or contain a square root."""
    parts = text.split("/")
    if len(parts) == 2 and all("sqrt" in part or re.fullmatch(r"0|-?[1-9][0-9]*", part) for part in parts):
        return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"
    return text
