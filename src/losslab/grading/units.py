"""Units that differ: whether two quantities are the same all the same."""

from __future__ import annotations


def equal(value: str, unit: str, gold: str, gold_unit: str) -> bool:
    return False
