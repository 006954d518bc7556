"""The keys of a sweep: its name, its question and its claims."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from losslab.config.choices import (
    End,
)
from losslab.keys import key


@dataclass
class DirectionConfig:
    """What a sweep is expected to show of two of its rows, each named by keys that its cells have (results.claims).

    A key is one of the configuration, such as `optimizer.lr`, or `loss`, `dataset`, `method`.
    """

    claim: str = key(MISSING, "what is expected, in words")
    higher: dict[str, Any] = key(dict, "keys of the row that is expected to be higher")
    lower: dict[str, Any] = key(dict, "keys of the row that is expected to be lower")
    step: int | None = key(None, "after so many steps, of which there are exports, in place of at the end", low=1)
    grows: End | None = key(None, "in place of `lower`: the end of the histogram of target probabilities that grows")


@dataclass
class SweepConfig:
    name: str = key("ablation", "tables of this sweep go to results/tables/<name>")
    question: str = key("", "above its table")
    next: str = key("", "a command to try after this sweep")
    difference: float | None = key(
        None,
        "points of the average: plan and conclusion say how many seeds it takes to show such a difference",
        low=0.01,
        high=100,
    )
    tune: str | None = key(
        None,
        "a key such as optimizer.lr: each objective is compared at its own best value of it (docs/evaluation.md)",
    )
    paper: str | None = key(
        None,
        "the table of experiments/paper.csv that its figures are compared with",
        heading="Of a sweep that a file of experiments/ declares (docs/experiments.md):",
    )
    against: list[str] = key(list, "keys with a panel each: the score against the key's values")
    needs: str | None = key(None, "what losslab lacks for it: it is declared, and cannot be run")
    directions: list[DirectionConfig] = key(list, "differences that are expected, each judged by the records")
