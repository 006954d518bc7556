"""Texts with the columns of a row filled in: "{instruction}\\n{input}"."""

import re
from collections.abc import Mapping
from typing import Any

from losslab.data.messages import Unusable

# {name}, with [0] or [key] behind it for what lies inside; {{name}} stays {name}.
FIELD = re.compile(r"\{\{(?P<literal>[^{}]*)\}\}|\{(?P<name>[A-Za-z_]\w*)(?P<path>(?:\[\w+\])*)\}")
# A typed \n is a line break, unless it begins a command of LaTeX.
BREAK = re.compile(r"\\n(?!(?:abla|atural|e|earrow|eg|eq|ewline|exists|i|ot|otin|u|warrow)(?![A-Za-z]))")


def with_breaks(template: str) -> str:
    """A template with line breaks in place of `\\n` typed in a shell; LaTeX commands such as \\neq are kept."""
    return BREAK.sub("\n", template)


def names_in(template: str) -> list[str]:
    """The columns that a template fills in."""
    return [match["name"] for match in FIELD.finditer(template) if match["name"]]


def fill(template: str, row: Mapping[str, Any]) -> str:
    """The text of a row, stripped of surrounding white space. Some columns may be empty, but not all.

    Raises Unusable if a column is missing or holds something other than text or numbers.
    """
    filled = []

    def value(match: re.Match[str]) -> str:
        if match["name"] is None:
            return f"{{{match['literal']}}}"
        text = _text(row.get(match["name"]), match["name"], re.findall(r"\[(\w+)\]", match["path"]))
        filled.append(text.strip())
        return text

    text = FIELD.sub(value, with_breaks(template)).strip()
    if not any(filled):
        raise Unusable(f"has no text in {' or '.join(f'`{name}`' for name in names_in(template))}")
    return text


def _text(value: Any, name: str, path: list[str]) -> str:
    place = name + "".join(f"[{key}]" for key in path)
    for key in path:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise Unusable(f"has no `{place}`") from None
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise Unusable(f"has a {type(value).__name__} in `{place}`")
    return str(value)
