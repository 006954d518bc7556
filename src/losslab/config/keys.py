"""Fields of the configuration schema, with default, meaning and bounds in one place.

The checks and docs/configuration.md read them.
"""

from collections.abc import Callable, Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any

LARGEST = 10**9  # default upper bound of a whole number
LARGEST_SEED = 2**32 - 1  # that numpy, torch and vLLM all take


def key(default: Any, meaning: str, *, low: float | None = None, high: float | None = None, heading: str = "") -> Any:
    """A field of the schema.

    Args:
        default: the value, or a class that makes it, such as `list`.
        meaning: one sentence for docs/configuration.md.
        low, high: inclusive bounds of a number; without `high`, a whole number may be as large as `LARGEST`.
        heading: the heading above this key and those after it in the documentation.
    """
    about = {"meaning": meaning, "heading": heading}
    if low is not None:
        about |= {"low": low, "high": LARGEST if high is None else high}  # type: ignore[dict-item]
    if isinstance(default, type):
        made: Callable[[], Any] = default
        return field(default_factory=made, metadata=about)
    return field(default=default, metadata=about)


def seed_key(default: int | None, meaning: str) -> Any:
    return key(default, meaning, low=0, high=LARGEST_SEED)


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
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = item.metadata["low"], item.metadata["high"]
            if not low <= value <= high:  # which a NaN is not
                allowed = f"to {low:g} or more" if high == LARGEST and value < low else f"between {low:g} and {high:,}"
                raise ValueError(f"{name} is {value}: set it {allowed}")


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of a dictionary or list, at any depth, by dotted name."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for part, content in items:
        if isinstance(content, dict | list):
            yield from _parts(f"{name}.{part}", content)
        else:
            yield f"{name}.{part}", content
