"""Keys of a configuration, and parameters of an objective, with default, meaning and bounds in one place.

The checks and docs/configuration.md read them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any

LARGEST = 10**9  # default upper bound of a whole number
LARGEST_SEED = 2**32 - 1  # that numpy, torch and vLLM all take
LIMITS = {"low": "{:g} or more", "above": "above {:g}", "high": "at most {:g}", "below": "below {:g}"}


def key(
    default: Any,
    meaning: str,
    /,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    heading: str = "",
) -> Any:
    """A field of the schema, or of an objective.

    Args:
        default: the value, or a class that makes it, such as `list`.
        meaning: one sentence for docs/configuration.md.
        low, high: inclusive bounds of a number; without `high`, a whole number may be as large as `LARGEST`.
        above, below: exclusive bounds of a number.
        heading: the heading above this key and those after it in the documentation.
    """
    if low is not None and high is None and below is None and not isinstance(default, float):
        high = LARGEST
    bounds = {"low": low, "high": high, "above": above, "below": below}
    about: dict[str, Any] = {name: bound for name, bound in bounds.items() if bound is not None}
    about |= {"meaning": meaning, "heading": heading}
    if isinstance(default, type):
        made: Callable[[], Any] = default
        return field(default_factory=made, metadata=about)
    return field(default=default, metadata=about)


def seed_key(default: int | None, meaning: str) -> Any:
    return key(default, meaning, low=0, high=LARGEST_SEED)


def limits(about: Mapping[str, Any]) -> str:
    """The bounds of a key in words, as `0 or more and below 1`, from the metadata of its field; empty without any."""
    return " and ".join(
        words.format(about[name]) for name, words in LIMITS.items() if about.get(name, LARGEST) != LARGEST
    )


def check_value(name: str, value: Any, about: Mapping[str, Any]) -> None:
    """Raise ValueError for a number out of the bounds that the metadata of its field has."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, high = about.get("low", -math.inf), about.get("high", math.inf)
    if low <= value <= high and about.get("above", -math.inf) < value < about.get("below", math.inf):
        return  # which a NaN does not
    if {"low", "high"} <= set(about) and (high != LARGEST or not value < low):
        allowed = f"between {low:g} and {high:,}"
    else:
        allowed = f"{'' if 'above' in about else 'to '}{limits(about)}"
    raise ValueError(f"{name} is {value}: set it {allowed}")


def check_bounds(config: Any, prefix: str = "") -> None:
    """Raise ValueError with the key's name for a number that is out of bounds or not finite, at any depth."""
    for item in fields(config):
        name, value = f"{prefix}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            check_bounds(value, f"{name}.")
        elif isinstance(value, dict | list):
            for part, content in _parts(name, value):
                if is_dataclass(content):
                    check_bounds(content, f"{part}.")
                elif isinstance(content, float) and content - content != 0:
                    raise ValueError(f"{part} is {content}: set it to a finite number")
        else:
            check_value(name, value, item.metadata)


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of a dictionary or list, at any depth, by dotted name."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for part, content in items:
        if isinstance(content, dict | list):
            yield from _parts(f"{name}.{part}", content)
        else:
            yield f"{name}.{part}", content
