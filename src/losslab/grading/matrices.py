"""Matrices of values, with as much algebra as answers need."""

from __future__ import annotations

from typing import Any

from flint import fmpq


class Undefined(ArithmeticError):
    """No value at this point: a division by zero, or outside of the real domain."""


class Matrix:
    """A matrix by its rows; sums and products of shapes that do not fit are undefined."""

    def __init__(self, rows: list[list[Any]]) -> None:
        self.rows = rows

    def __add__(self, other: Matrix) -> Matrix:
        if self.shape != other.shape:
            raise Undefined("matrices of different shapes")
        pairs = zip(self.rows, other.rows, strict=True)
        return Matrix([[a + b for a, b in zip(*rows, strict=True)] for rows in pairs])

    def __mul__(self, other: Any) -> Matrix:
        if not isinstance(other, Matrix):
            return Matrix([[cell * other for cell in row] for row in self.rows])
        if self.shape[1] != other.shape[0]:
            raise Undefined("matrices of different shapes")
        columns = list(zip(*other.rows, strict=True))
        products = [[[a * b for a, b in zip(row, column, strict=True)] for column in columns] for row in self.rows]
        return Matrix([[sum(cell[1:], cell[0]) for cell in row] for row in products])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.rows[0])

    def determinant(self) -> Any:
        if self.shape[0] != self.shape[1] or self.shape[0] > 4:
            raise Undefined("no determinant")
        first, *rest = self.rows
        if not rest:
            return first[0]
        minors = [Matrix([row[:i] + row[i + 1 :] for row in rest]).determinant() for i in range(len(first))]
        return sum(
            ((-1) ** i * cell * minor for i, (cell, minor) in enumerate(zip(first, minors, strict=True))), fmpq(0)
        )
