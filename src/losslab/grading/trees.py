"""Trees of expressions: tuples of a kind and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

Tree = tuple[Any, ...]

CONSTANTS = frozenset(("e", "i", "\\pi"))


class Unreadable(ValueError):
    """The text is not an expression of the grammar, or has more than one reading."""


def quotient(top: Tree, bottom: Tree) -> Tree:
    """The tree of a fraction."""
    return ("product", top, ("power", bottom, ("number", Fraction(-1))))


def nodes(tree: Tree) -> Iterator[Tree]:
    """The tree and all that is in it."""
    yield tree
    for part in tree[1:]:
        if isinstance(part, tuple):
            yield from nodes(part)


def names(tree: Tree) -> set[str]:
    """The names of the symbols in a tree."""
    return {node[1] for node in nodes(tree) if node[0] == "name"}
