"""What a cell's record says of its time."""

import time

import pytest

from losslab.records.record import Cell


def test_the_time_of_attempts_is_summed_with_those_that_end_in_an_error(tmp_path, monkeypatch):
    cell, clock = Cell(tmp_path / "cell", "0" * 64), iter([10.0, 13.5, 100.0, 102.25, 200.0, 201.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), cell.timed("training_seconds"):
        raise KeyboardInterrupt
    assert cell.state()["training_seconds"] == 3.5
    with cell.timed("training_seconds"):
        cell.update(state="training", devices=2)
    with cell.timed("scoring_seconds"):
        pass
    state = cell.state()
    assert (state["training_seconds"], state["scoring_seconds"], state["devices"]) == (5.8, 1.0, 2)
