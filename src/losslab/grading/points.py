"""Points at which expressions are valued: what each name stands for."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from flint import acb, arb, fmpq

from losslab.grading.trees import Tree, names, nodes

INTEGERS = frozenset("nmkNMKjlr")  # where there is a floor, a factorial or a sign that alternates
SIGNED = frozenset("xyztuvw")  # of both signs, and
SOMETIMES_SIGNED = frozenset("abcpqs")  # of both signs where that is in the domain; all others are positive
VALUES: dict[str, Callable[[], acb]] = {
    "e": lambda: acb(1).exp(), "\\pi": lambda: acb(arb.pi()), "i": lambda: acb(0, 1),
}  # fmt: skip
STEPS = frozenset(("floor", "ceil", "factorial"))


class Point:
    """What each name stands for: a fraction from 0.14 to 130 that depends on the name and a seed.

    The names in `order` are negative at four of the seeds from 1 to 7 each, where their letter allows, and each in its
    own pattern. Beside floors and factorials, letters that stand for numbers of things take integers; beside absolute
    values, every letter may be negative.
    """

    def __init__(self, seed: int, order: list[str], rename: dict[str, str], trees: tuple[Tree, Tree]) -> None:
        self.seed, self.order, self.rename = seed, order, rename
        self.integers = any(map(_has_steps, trees))
        self.magnitudes = any(node[:2] == ("function", "abs") for tree in trees for node in nodes(tree))
        self.real = not any("i" in names(tree) for tree in trees)
        self.radians = False
        self.steps = 0  # taken so far
        self.bound: dict[str, fmpq] = {}

    def __call__(self, name: str) -> fmpq | acb:
        if name in VALUES:
            return VALUES[name]()
        if name in self.bound:
            return self.bound[name]
        name = self.rename.get(name, name)
        random = crc32(f"{name} {self.seed}".encode())
        letter = name.rstrip("'")
        if self.integers and letter in INTEGERS:
            return fmpq(2 + random % 11)
        value = fmpq(100 + random % 997, (60, 700, 90, 8)[self.seed % 4])
        pattern = (self.order.index(name) if name in self.order else 0) % 7 + 1
        may_be_negative = letter in SIGNED or self.seed >= 4 and (letter in SOMETIMES_SIGNED or self.magnitudes)
        return -value if may_be_negative and (pattern & self.seed).bit_count() % 2 else value


def _has_steps(tree: Tree) -> bool:
    """Whether there is a part that is meant for integers: a floor, a factorial, a power of a negative number."""
    for node in nodes(tree):
        if node[0] == "binomial" or node[0] == "function" and node[1] in STEPS:
            return True
        if node[0] == "power" and names(node[2]) and not names(node[1]) and node[1][0] == "bracket":
            return True
    return False
