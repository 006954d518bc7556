"""What an answer consists of: the parts of a list, the components of a tuple, the sides of an equation."""

from __future__ import annotations

import re
from itertools import product

MOST = 64  # variants of a plus-minus
NAME = re.compile(
    r"(?:\\(?!frac|sqrt|angle|log|ln|exp|sin|cos|tan)[a-zA-Z]+|[a-zA-Z]+'*|\\text\{[^{}]*\}|_|\^\{?\\?prime\}?|[(){},\s]|(?<=_)\d+|(?<=_\{)\d+)+"
)
QUANTITY = re.compile(r"(?:\\text\{[^{}]*\}|\\(?!sqrt|log|ln|exp|lg)[a-zA-Z]+|[a-zA-Z]'*|[(){},|:\s])+")
SCRIPTS = re.compile(r"_\s*(?:\{[^{}]*\}|\\?\w+)|\^\s*\{?(?:\\prime\s*)+\}?|(?<=[A-Z])\s*\^\s*\{?2\}?")
MULTIPLE = re.compile(r"\s*-?(?:\d+(?:\.\d+)?\s*\*?\s*\\?[a-zA-Z]+(?:\^\{?\w+\}?)?|\\?[a-zA-Z]+\s*\^\s*\{?\w+\}?)\s*")


def parts_of(text: str) -> list[str]:
    """The answers of a list, a set or a union; [text] where it is none."""
    text = without_membership(text).strip()
    if text.startswith("\\{") and text.endswith("\\}") and "\\}" not in text[:-2]:
        text = text[2:-2]
    elif text.startswith("{") and _closing(text) == len(text) - 1 and len(split(text[1:-1], ",;")) > 1:
        text = text[1:-1]
    if complement := re.fullmatch(r"\\mathbb\{R\}\s*(?:\\setminus|\\backslash|-)\s*(.+)", text):
        return _complement(complement[1].strip()) or [text]
    text = text.replace("\\cup", ";")
    groups = [split(group, ",") for group in split(text, ";")]
    if len(groups) > 1 and all(len(group) > 1 and all("=" in part for part in group) for group in groups):
        return [f"({','.join(part.partition('=')[2].strip() for part in group)})" for group in groups]
    parts = [part.strip() for group in groups for part in group]
    return [part for part in parts if part] or [text]


def _complement(text: str) -> list[str]:
    """The intervals of the real numbers that are left without an interval or one number; [] where it is neither."""
    if number := re.fullmatch(r"\\\{([^,;]+)\\\}", text):
        return [f"(-\\infty,{number[1]})", f"({number[1]},\\infty)"]
    ends = inside(text)
    if len(ends) != 2:
        return []
    brackets = ")" if text[0] == "[" else "]", "(" if text[-1] == "]" else "["
    return [f"(-\\infty,{ends[0]}{brackets[0]}", f"{brackets[1]}{ends[1]},\\infty)"]


def without_membership(text: str) -> str:
    """The set of which something is said to be an element; the text itself where nothing is."""
    return re.sub(r"^\s*\(?\\?[a-zA-Z](?:_\{?\w+\}?)?\)?\s*\\in(?![a-zA-Z])", "", text)


def _closing(text: str) -> int:
    """Where the bracket that the text begins with is closed; -1 where it never is."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return at
    return -1


def split(text: str, separators: str) -> list[str]:
    """The text split at separators outside of all brackets."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in separators and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def inside(text: str) -> list[str]:
    """The components of a tuple or an interval; [] where the text is none."""
    text = text.strip()
    if len(text) < 3 or text[0] not in "([" or text[-1] not in ")]" or _closing(text) != len(text) - 1:
        return []
    parts = [part.strip() for part in split(text[1:-1], ",;")]
    return parts if len(parts) > 1 and all(parts) else []


def variants(text: str) -> list[str]:
    """What a text with plus-minus stands for: both signs, of each sign on its own unless there is a minus-plus too."""
    text = text.strip()
    if components := inside(text):
        choices = [variants(component) for component in components]
        tuples = product(*choices) if _count(choices) <= MOST else ()
        return [f"{text[0]}{','.join(components)}{text[-1]}" for components in tuples] or [text]
    pieces = re.split(r"(\\pm|\\mp)(?![a-zA-Z])", text)
    signs = pieces[1::2]
    if not signs or 2 ** len(signs) > MOST:
        return [text]
    if "\\mp" in signs:
        patterns = [["+" if sign == upper else "-" for sign in signs] for upper in ("\\pm", "\\mp")]
    else:
        patterns = [list(pattern) for pattern in product("+-", repeat=len(signs))]
    return ["".join(map("".join, zip(pieces[::2], [*pattern, ""], strict=True))) for pattern in patterns]


def _count(choices: list[list[str]]) -> int:
    count = 1
    for choice in choices:
        count *= len(choice)
    return count


def sides(text: str) -> list[str]:
    """The sides of an equation or a chain of them."""
    return [side.strip() for side in split(text, "=")]


def is_quantity(left: str) -> bool:
    """Whether a left-hand side only names what is asked for: x, f(x), |AB|, AB/CD, A:B; 2x + z and x^2 do not."""
    return QUANTITY.fullmatch(SCRIPTS.sub("", left)) is not None


def is_multiple(left: str) -> bool:
    """Whether a left-hand side is a multiple or a power of one name: for 2x = 10, 10 is not an answer."""
    return MULTIPLE.fullmatch(left) is not None and not is_quantity(left)
