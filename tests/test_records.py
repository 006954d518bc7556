"""What a cell's record says of its time."""

import time
from pathlib import Path

import pytest

from losslab.cells import run
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, Names
from losslab.records.cell_records import training_device_seconds
from losslab.records.record import Cell


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The times that a record is told, in the order in which it asks."""
    times: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: times.pop(0))
    return times


@pytest.fixture
def cell(tmp_path) -> Cell:
    return Cell(tmp_path / "cell", "0" * 64)


def test_the_time_of_attempts_is_summed_with_those_that_end_in_an_error(cell, clock):
    clock += [10.0, 13.5, 100.0, 102.25, 200.0, 201.0]
    with pytest.raises(KeyboardInterrupt), cell.training(2):
        raise KeyboardInterrupt
    assert cell.state()["training_seconds"] == 3.5
    with cell.training(2):
        assert cell.state()["state"] == "training"
    with cell.timed(scoring_seconds=1):
        pass
    state = cell.state()
    assert (state["training_seconds"], state["scoring_seconds"], state["devices"]) == (5.8, 1.0, 2)


def test_each_attempt_is_counted_with_its_own_devices(cell, clock):
    clock += [0.0, 3600.0, 3600.0, 10800.0]
    for devices in (8, 4):
        with cell.training(devices):
            pass
    state = cell.state()
    assert (state["training_seconds"], state["devices"]) == (10800.0, 4)
    assert training_device_seconds(state, state["devices"]) == (1 * 8 + 2 * 4) * 3600


def test_attempts_of_an_older_record_keep_their_devices(cell, clock):
    """It has the seconds alone, which are those of the devices that are on record."""
    clock += [0.0, 7200.0]
    cell.update(training_seconds=3600.0, devices=8)
    assert training_device_seconds(cell.state(), 8) == 8 * 3600
    with cell.training(4):
        pass
    assert training_device_seconds(cell.state(), 4) == (1 * 8 + 2 * 4) * 3600


def test_the_measurement_of_probabilities_is_no_time_of_the_training(tmp_path, monkeypatch):
    """Neither beside the training nor in a later sweep, on a machine with other devices."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config = Config(
        names=Names(model="tiny", dataset="rows", loss="sft", eval="paper"),
        machine=MachineConfig(results=str(tmp_path)),
        loss={"_target_": "losslab.objectives.sft.SFT"},
    )
    config.model.path = config.dataset.path = "embedded"
    cell = Cell.of(config)

    def train(config: Config, folder: Path) -> None:
        now[0] += 100.0
        cell.model.mkdir(parents=True)

    def measure(*_) -> None:
        now[0] += 600.0

    for name, stand_in in (
        ("base_model", lambda config: config.model), ("train_model", train), ("measure_probabilities", measure),
        ("worker_count", lambda machine: 8),
    ):  # fmt: skip
        monkeypatch.setattr(run, name, stand_in)
    for _ in range(2):
        run.trained_model(config, cell)
    state = cell.state()
    assert now == [1300.0] and (state["training_seconds"], state["training_device_seconds"]) == (100.0, 800.0)


def test_a_full_disk_does_not_hide_why_a_cell_failed(cell, monkeypatch):
    def full(self: Cell, **values: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RuntimeError, match="^the worker died$"), cell.training(1):
        monkeypatch.setattr(Cell, "update", full)
        raise RuntimeError("the worker died")
    with pytest.raises(OSError, match="No space left"), cell.timed(scoring_seconds=1):
        pass
