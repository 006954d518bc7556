"""The interface of trackers: entries of a run, and what a tracker does with them. Each tracker is a module here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from losslab.config.choices import TrackerName

Scores = dict[str, dict[str, float]]  # by step of training, as a text, and name
Histogram = tuple[list[int], list[float]]  # n counts and n + 1 edges


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[list[Any]]  # texts, numbers or None


@dataclass(frozen=True)
class Entry:
    """The values that are logged together."""

    number: int  # grows from entry to entry of a run, so that a continued run sends no entry twice
    step: int  # of training
    values: dict[str, Any] = field(default_factory=dict)  # numbers, by name as in train/loss
    histograms: dict[str, Histogram] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """A run of a tracker: one for a cell under a protocol, one for the table of a sweep."""

    folder: str  # the tracker's files go to a subfolder of it
    part: str  # distinguishes runs of one folder
    id: str
    name: str
    group: str
    job_type: str
    tags: list[str]
    config: dict[str, Any]
    scores: list[str]  # names of the final scores
    project: str
    entity: str | None
    mode: str  # online or offline


class Tracker(Protocol):
    """An open run. Opening it replaces offline files of a run with the same id."""

    after: int  # the number of the last entry that the run had when it was opened; -1 for none
    scores: Scores | None  # that the run has so far; None where that is not on record

    def log(self, entry: Entry) -> None:
        """Log an entry."""

    def checkpoint(self, folder: Path, about: dict[str, Any]) -> None:
        """Keep a trained model."""

    def finish(self, told: dict[str, Any]) -> None:
        """Log the final values of the run, and close it."""


def start(name: TrackerName, about: About) -> Tracker:
    """Open a run. Imports the tracker's library."""
    if name == TrackerName.tensorboard:
        from losslab.tracking.tensorboard import TensorBoard

        return TensorBoard(about)
    from losslab.tracking.weights_and_biases import WeightsAndBiases

    return WeightsAndBiases(about)
