"""What is shown of a run, entry by entry, and what a tracker must do with it. The trackers are the modules beside."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from losslab.config.choices import TrackerName

Histogram = tuple[list[int], list[float]]  # n counts and n + 1 edges


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[list[Any]]  # texts, numbers or None


@dataclass(frozen=True)
class Entry:
    """What is shown at once."""

    number: int  # grows from entry to entry of a run, so that a continued run sends no entry twice
    step: int  # of training
    values: dict[str, Any] = field(default_factory=dict)  # numbers, by name as in train/loss
    histograms: dict[str, Histogram] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """A run of a tracker: one for a cell under a protocol, one for the table of a sweep."""

    folder: str  # a tracker's files go to a folder of its own in it
    part: str  # tells runs of one folder apart
    id: str
    name: str
    group: str
    job_type: str
    tags: list[str]
    config: dict[str, Any]
    scores: list[str]  # names of the values that the run is judged by
    project: str
    entity: str | None
    mode: str  # online or offline


class Tracker(Protocol):
    """A run that is open. Opening one takes the place of what was kept in files of a run with the same id."""

    after: int  # the number of the last entry that the run had when it was opened; -1 for none

    def log(self, entry: Entry) -> None:
        """Show an entry."""

    def checkpoint(self, folder: Path, about: dict[str, Any]) -> None:
        """Keep a trained model."""

    def finish(self, told: dict[str, Any]) -> None:
        """Show the final values of the run, and close it."""


def start(name: TrackerName, about: About) -> Tracker:
    """Open a run. Imports the tracker's library."""
    if name == TrackerName.tensorboard:
        from losslab.tracking.tensorboard import TensorBoard

        return TensorBoard(about)
    from losslab.tracking.weights_and_biases import WeightsAndBiases

    return WeightsAndBiases(about)
