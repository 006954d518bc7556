"""Plain numbers as exact fractions, and the units behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from losslab.grading import official_text

TOLERANCE = Fraction(2, 10**6)  # relative, only where a decimal stands for another kind of number: 0.333333 is 1/3
FLOAT = Fraction(1, 10**12)  # relative, between two decimals of which one has this many digits:
FLOAT_DIGITS = 14
NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)?\s*\\frac\{\s*(?P<minus>-?)\s*(?P<top>\d+)\s*\}\{\s*(?P<below>-?)(?P<bottom>\d+)\s*\}|"
    r"(?P<digits>\d*\.?\d+|\d+\.)(?:\s*/\s*(?P<over>\d+)|"
    r"\s*(?:(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{?\s*(?P<power>[-+]?\d+)\s*\}?|[eE](?P<exponent>[-+]?\d+)))?|"
    r"10\s*\^\s*\{?\s*(?P<ten>[-+]?\d+)\s*\}?)"
)


@dataclass(frozen=True)
class Number:
    """An exact value, and where it is written as a decimal, the unit of its last digit."""

    value: Fraction
    last_digit: Fraction | None = None
    digits: int = 0


def number(text: str) -> Number | None:
    """The value of a text in one notation (`notation.clean`) without unit; None where it is not a plain number."""
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}") and official_text.inside_braces(text) == text[1:-1]:
        text = text[1:-1].strip()
    text = text.removesuffix("_{10}").removesuffix("_10")
    match = NUMBER.fullmatch(text) if len(text) <= 200 else None
    if match is None:
        return None
    part = match.groupdict()
    power = int(part["power"] or part["exponent"] or part["ten"] or 0)
    if abs(power) > 400:
        return None
    last = None
    try:
        if part["top"]:
            value = Fraction(int(part["minus"] + part["top"]), int(part["below"] + part["bottom"]))
            if part["whole"]:
                if not 0 < value < 1:
                    return None
                value += int(part["whole"])
        elif part["digits"]:
            value = Fraction(part["digits"]) / int(part["over"] or 1) * Fraction(10) ** power
            if "." in part["digits"] and value.denominator != 1 or part["power"] or part["exponent"]:
                last = Fraction(10) ** (power - len(part["digits"].partition(".")[2]))
        else:
            value = Fraction(10) ** power
    except ZeroDivisionError:
        return None
    significant = len((part["digits"] or "").replace(".", "").lstrip("0"))
    return Number(-value if part["sign"] == "-" else value, last, significant)


def same_number(answer: Number, gold: Number) -> bool:
    """Exact equality, except that a decimal may stand for a fraction that no decimal equals; floats may be rounded."""
    if answer.value == gold.value:
        return True
    if answer.last_digit is not None and gold.last_digit is not None:
        return max(answer.digits, gold.digits) >= FLOAT_DIGITS and _within(answer, gold, FLOAT)
    decimal, other = (answer, gold) if answer.last_digit is not None else (gold, answer)
    if decimal.last_digit is None or other.value.denominator == 1:
        return False
    return abs(answer.value - gold.value) <= decimal.last_digit and _within(answer, gold, TOLERANCE)


def _within(answer: Number, gold: Number, tolerance: Fraction) -> bool:
    return abs(answer.value - gold.value) <= tolerance * abs(gold.value)


SYMBOLS = (
    "km|cm|mm|nm|pm|dm|μm|kg|mg|ms|ns|min|hr|hrs|mph|kmh|mol|kmol|Hz|kHz|MHz|GHz|eV|keV|MeV|GeV|TeV|kJ|MJ|kcal|cal|kW|"
    "MW|kV|mV|mA|kPa|MPa|Pa|atm|bar|erg|ergs|dyn|ft|in|lb|lbs|oz|yd|mi|gal|rad|rpm|sr|pc|kpc|Mpc|AU|ly|yr|yrs|Gyr|Myr|sq|cu"
)
LETTERS = "msgJNVWAKTLhFC"  # alone, they are units only behind a decimal and a space, or in a fraction of units
WORD = rf"(?:{SYMBOLS}|[a-zA-Z]{{4,}}|per|day)"
BARE = rf"(?:{WORD}(?![a-zA-Z])|(?<=circ )[CFK]$|(?:(?<=/)|(?<=\d )|(?<=/ ))[{LETTERS}](?![a-zA-Z]))"
TEXT = r"\\text\{[^{}]*\}"
ATOM = rf"(?:{TEXT}|\\mu\s*(?:{TEXT}|[a-zA-Z]{{1,3}}(?![a-zA-Z]))|\\(?:Omega|AA)(?![a-zA-Z])|{BARE})"
EXPONENT = r"\s*(?:\^\s*\{?\s*-?\d+\s*\}?)?"
UNIT = re.compile(
    rf"(?<=[\d}}\])a-zA-Z.])(?:\s*\^\\circ)?\s*(?P<unit>{ATOM}{EXPONENT}(?:\s*(?:/|\\cdot|\*)?\s*(?:{ATOM}|[{LETTERS}](?![a-zA-Z])){EXPONENT})*)\s*$"
)
UNIT_TEXT = re.compile(r"[\s(]*(?:[^\W\d_]+\.?(?:\^?-?\d+)?[\s/·*^)-]*|\\(?:cdot|circ)\s*)+")
NO_UNITS = re.compile(
    r"\b(?:or|and|not|no|nor|but|if|when|unless|mod|less|more|than|least|most|about|approximately|dozen|half|times|either|is|"
    r"are|the|i|e|pi|even|odd|true|false|prime|squared|cubed|to|choose|over|plus|minus|up|down|thousand|million|billion)\b",
    re.IGNORECASE,
)
MODULUS = re.compile(r"\s*(?:\\pmod\s*\{[^{}]*\}|\(?\s*\\bmod\b.*)$")


def without_unit(text: str) -> tuple[str, str]:
    """A text in one notation in front of its unit, and the unit; all of it and "" where there is none."""
    text = MODULUS.sub("", text) or text
    tail = max(len(text) - 120, 0)
    match = UNIT.search(text, tail)
    if match is None or not _is_unit(match["unit"]):
        return text.removesuffix("^\\circ").strip() or text, ""
    value = text[: match.start("unit")].rstrip().removesuffix("^\\circ").rstrip(" .,;:\\")
    return (value, match["unit"].strip()) if value else (text, "")


def _is_unit(unit: str) -> bool:
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", unit)
    texts = re.findall(r"\\text\{([^{}]*)\}", unit)
    return not NO_UNITS.search(words) and all(UNIT_TEXT.fullmatch(inner) for inner in texts)
