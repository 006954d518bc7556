"""A mean over seeds with its uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from losslab.evaluation.scores import student


@dataclass(frozen=True)
class Estimate:
    mean: float
    half: float | None = None  # of the 95% interval; None where one number says nothing of its uncertainty

    @classmethod
    def over_seeds(cls, values: Sequence[float]) -> "Estimate":
        """The mean of at least one value; several have Student's interval, which takes them as normal."""
        x = np.array(values, dtype=float)
        if len(x) == 1:
            return cls(float(x[0]))
        return cls(float(x.mean()), float(student(len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5))

    def holds(self, value: float) -> bool | None:
        """Whether a value lies inside the interval; None where there is none."""
        if self.half is None or not np.isfinite(self.half):
            return None
        return abs(value - self.mean) <= self.half

    def __str__(self) -> str:
        return f"{self}"

    def __format__(self, spec: str) -> str:
        """The mean and what is uncertain of it, each as a number in the given format, with one decimal if in none."""
        spec = spec or ".1f"
        uncertain = self.half is not None and np.isfinite(self.half)
        return f"{self.mean:{spec}} ± {self.half:{spec}}" if uncertain else f"{self.mean:{spec}}"
