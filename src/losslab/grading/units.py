"""Quantities in different units: 2.5 m is 250 cm and not 2.5 cm; units that measure nothing (apples) do not count."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from losslab.grading.numbers import Number, number, same_number

Unit = tuple[Fraction, dict[str, int]]  # what it is of the basic units, and their exponents

# Exact by definition (SI brochure 2019; the international yard and pound, 1959), in metre, gram, second, …
MEASURES: dict[str, tuple[str, Fraction]] = {
    "m": ("m", Fraction(1)), "g": ("g", Fraction(1)), "s": ("s", Fraction(1)), "A": ("A", Fraction(1)),
    "K": ("K", Fraction(1)), "mol": ("mol", Fraction(1)), "rad": ("rad", Fraction(1)), "Hz": ("1/s", Fraction(1)),
    "min": ("s", Fraction(60)), "h": ("s", Fraction(3600)), "day": ("s", Fraction(86400)),
    "week": ("s", Fraction(604800)), "in": ("m", Fraction(254, 10000)), "ft": ("m", Fraction(3048, 10000)),
    "yd": ("m", Fraction(9144, 10000)), "mi": ("m", Fraction(1609344, 1000)), "L": ("m3", Fraction(1, 1000)),
    "lb": ("g", Fraction(45359237, 100000)), "N": ("g m/s2", Fraction(1000)), "J": ("g m2/s2", Fraction(1000)),
    "W": ("g m2/s3", Fraction(1000)), "Pa": ("g/m s2", Fraction(1000)), "C": ("A s", Fraction(1)),
    "V": ("g m2/s3 A", Fraction(1000)), "erg": ("g m2/s2", Fraction(1, 10000)), "dyn": ("g m/s2", Fraction(1, 100)),
    "eV": ("eV", Fraction(1)), "dollar": ("dollar", Fraction(1)), "cent": ("dollar", Fraction(1, 100)),
}  # fmt: skip
LONG = {
    "meter": "m", "metre": "m", "gram": "g", "second": "s", "sec": "s", "ampere": "A", "kelvin": "K", "mole": "mol",
    "radian": "rad", "hertz": "Hz", "minute": "min", "hour": "h", "hr": "h", "inch": "in", "inche": "in", "foot": "ft",
    "feet": "ft", "yard": "yd", "mile": "mi", "liter": "L", "litre": "L", "l": "L", "pound": "lb", "newton": "N",
    "joule": "J", "watt": "W", "pascal": "Pa", "coulomb": "C", "volt": "V", "dyne": "dyn", "electronvolt": "eV",
}  # fmt: skip
PREFIXES = {"k": 3, "M": 6, "G": 9, "c": -2, "m": -3, "μ": -6, "n": -9, "p": -12, "d": -1}
LONG_PREFIXES = {"kilo": 3, "mega": 6, "giga": 9, "centi": -2, "milli": -3, "micro": -6, "nano": -9, "deci": -1}
SHORT_PREFIXED = frozenset("m g s A mol Hz L N J W Pa V eV C".split())
ALIASES = {"mph": "mi/h", "kmh": "km/h", "kph": "km/h", "cc": "cm^3"}
FACTOR = re.compile(
    r"(?P<per>/|\bper\b)?[\s*·.]*(?P<power>square|sq\.?|cubic|cu\.?)?\s*(?P<name>[^\W\d_]+)\.?\s*\^?(?P<exponent>-?\d+)?\s*"
)


def equal(value: str, unit: str, gold: str, gold_unit: str) -> bool:
    """Whether two quantities are the same, where both have a unit and the units are written differently."""
    quantity, target = number(value), number(gold)
    if quantity is None or target is None:
        return False
    of_answer, of_gold = measure(unit), measure(gold_unit)
    if of_answer is None or of_gold is None:
        return same_number(quantity, target)
    return of_answer[1] == of_gold[1] and same_number(_scaled(quantity, of_answer[0]), _scaled(target, of_gold[0]))


def _scaled(quantity: Number, by: Fraction) -> Number:
    last = quantity.last_digit
    return Number(quantity.value * by, None if last is None else last * by, quantity.digits)


def measure(text: str) -> Unit | None:
    """The measure that a unit in one notation stands for; None where it is none."""
    text = re.sub(r"\\text|\\cdot|[{}()]", " ", re.sub(r"\\mu\s*(?:\\text\{)?\s*", "μ", text)).strip()
    text = ALIASES.get(text, text)
    scale, exponents, at = Fraction(1), Counter[str](), 0
    while factor := FACTOR.match(text, at):
        at = factor.end()
        measured = _single(factor["name"])
        if measured is None:
            return None
        power = int(factor["exponent"] or {"s": 2, "c": 3}.get((factor["power"] or " ")[0], 1))
        if abs(power) > 9:
            return None
        power = -power if factor["per"] else power
        scale *= measured[0] ** power
        for name, exponent in measured[1].items():
            exponents[name] += exponent * power
    return (
        (scale, {name: exponent for name, exponent in exponents.items() if exponent}) if at == len(text) > 0 else None
    )


def _single(name: str) -> Unit | None:
    for word in (name, name.lower(), name.lower().removesuffix("s")):
        short = LONG.get(word, word)
        if short in MEASURES:
            basic, scale = MEASURES[short]
            return scale, _exponents(basic)
    lower = name.lower().removesuffix("s")
    for prefixes, prefixed, units in ((PREFIXES, name, SHORT_PREFIXED), (LONG_PREFIXES, lower, LONG.keys())):
        for prefix, power in prefixes.items():
            unit = prefixed.removeprefix(prefix)
            if unit != prefixed and unit in units:
                basic, scale = MEASURES[LONG.get(unit, unit)]
                return scale * Fraction(10) ** power, _exponents(basic)
    return None


def _exponents(basic: str) -> dict[str, int]:
    above, _, below = basic.partition("/")
    powers = Counter[str]()
    for sign, part in ((1, above), (-1, below)):
        for name, exponent in re.findall(r"([a-zA-Z]+)(\d*)", part):
            powers[name] += sign * int(exponent or 1)
    return dict(powers)
