"""Texts with the columns of a row filled in: "{instruction}\\n{input}"."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from losslab.data.messages import Unusable

# {{ and }} are braces, as in str.format; {} stays, as in \boxed{}; {name} is a column, with [0] or [key] behind it for
# what lies inside; any other brace is refused, as nobody can say whether it is part of a field.
PIECE = re.compile(
    r"(?P<brace>\{\{|\}\})|(?P<empty>\{\})|\{(?P<name>[^{}\[\]]+)(?P<path>(?:\[[^{}\[\]]+\])*)\}|(?P<single>[{}])"
)
COMMAND = re.compile(r"\\([A-Za-z]{2,})$")  # of LaTeX, before a field, which takes its braces away
# A typed \n is a line break, unless it begins a command of LaTeX.
BREAK = re.compile(r"\\n(?!(?:abla|atural|e|earrow|eg|eq|ewline|exists|i|ot|otin|u|warrow)(?![A-Za-z]))")


def with_breaks(template: str) -> str:
    """A template with line breaks in place of `\\n` typed in a shell; LaTeX commands such as \\neq are kept."""
    return BREAK.sub("\n", template)


def names_in(template: str) -> list[str]:
    """The columns that a template fills in."""
    return [match["name"] for match in PIECE.finditer(with_breaks(template)) if match["name"]]


def check(template: str, columns: Iterable[str], place: str) -> None:
    """Refuse a template whose fields are not all columns of `place`, or whose braces are not what they seem.

    Raises ValueError, which says how a brace is written: `\\boxed{answer}` would lose its own.
    """
    text, columns = with_breaks(template), list(columns)
    for match in PIECE.finditer(text):
        if match["single"]:
            raise ValueError(
                f"the template {template!r} has a single {match['single']} that is part of no column's name: write "
                f"{2 * match['single']} for the brace itself"
            )
        if (name := match["name"]) is None:
            continue
        if name not in columns:
            raise ValueError(
                f"{place} has no column {name!r} but {columns}: mend the template {template!r}, in which {{{{ and }}}} "
                "are braces"
            )
        if command := COMMAND.search(text[: match.start()]):
            raise ValueError(
                f"the template {template!r} would write \\{command[1]} without its braces: write \\{command[1]}"
                f"{{{{{match[0]}}}}} in it"
            )


def fill(template: str, row: Mapping[str, Any]) -> str:
    """The text of a row, stripped of surrounding white space. Some columns may be empty, but not all.

    `template` is one that `check` accepts. Raises Unusable if a column holds something other than text or numbers, or
    has no such part.
    """
    filled = []

    def value(match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0][: 2 if match["empty"] else 1]
        text = _text(row.get(match["name"]), match["name"], re.findall(r"\[([^\[\]]+)\]", match["path"]))
        filled.append(text.strip())
        return text

    text = PIECE.sub(value, with_breaks(template)).strip()
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
