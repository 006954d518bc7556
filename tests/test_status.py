"""What is shown of a sweep and done to it, from records written by hand; on a real cluster: test_slurm.py."""

import pytest
from rich.console import Console
from test_tables import cell

from losslab.cells.run import finished
from losslab.config.machine import MachineConfig
from losslab.config.schema import BASE, BenchmarkConfig, Config, EvalConfig, Names
from losslab.files import read_json, write_json, write_lines
from losslab.launchers import slurm, status
from losslab.records.record import Cell


def test_errors_with_brackets_are_shown_as_they_are(tmp_path, capsys):
    for seed, error in enumerate(["no rows in [/data/a, /data/b]", "expected one of [cpu, cuda]"]):
        cell(tmp_path, "sft", seed, None).update(state="failed", error=error)
    Console(width=400).print(status.status_table("study", status.statuses("study", str(tmp_path))))
    shown = capsys.readouterr().out
    assert "no rows in [/data/a, /data/b]" in shown and "expected one of [cpu, cuda]" in shown


def test_the_time_that_is_left_is_that_of_the_recent_steps(tmp_path):
    running = cell(tmp_path, "sft", 0, None)
    rows = [{"step": i, "loss": 1.0, "seconds": 100.0 if i <= 10 else 3.0} for i in range(1, 31)]
    write_lines(running.metrics, rows)
    write_json(running.folder / "data.json", {"steps": 50})
    running.update(state="running")
    write_json(running.folder / "holder.json", {"node": "n1"})
    (row,) = status.statuses("study", str(tmp_path))
    assert (row.state, row.step, row.steps, row.seconds_left) == ("running", 30, 50, 60.0)  # 20 steps of 3 s
    assert status.duration(row.seconds_left) == "1m 00s" and status.duration(4000) == "1h 06m"
    assert status.seconds_left([{"step": 50, "seconds": 3.0}], 50) == 0.0
    assert status.seconds_left(rows, None) is None and status.seconds_left([], 50) is None
    (running.folder / "holder.json").unlink()
    (row,) = status.statuses("study", str(tmp_path))
    assert (row.state, row.seconds_left) == ("silent", None)


def test_nothing_is_cancelled_where_slurm_is_not(tmp_path, monkeypatch):
    submission = tmp_path / "sweeps" / "study" / "1"
    record = {"jobs": ["7"], "cells": {}, "sweep": "study"}
    write_json(submission / slurm.RECORD, record)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="there is no squeue here: run this on a machine of the cluster"):
        slurm.cancel("study", str(tmp_path))
    assert read_json(submission / slurm.RECORD) == record


def test_an_exit_status_that_is_being_written_is_none(tmp_path):
    (tmp_path / "jobs").mkdir()
    write_json(tmp_path / slurm.RECORD, {"cells": ["results/cells/one"]})
    written = slurm.Submission(tmp_path)
    assert written.exit_status("one") is None
    (tmp_path / "jobs/exit-0").write_text("")
    assert written.exit_status("one") is None
    (tmp_path / "jobs/exit-0").write_text("75\n")
    assert written.exit_status("one") == 75


def test_a_finished_cell_is_done_whatever_word_a_kill_left(tmp_path):
    config = Config(
        names=Names(model="tiny", dataset="embedded", loss=BASE, eval="paper"),
        loss={"_target_": "losslab.objectives.base.Base"},
        machine=MachineConfig(results=str(tmp_path)),
        eval=EvalConfig(samples=2),
        benchmark={"tiny_add": BenchmarkConfig(path="embedded")},
    )
    config.model.path = "embedded"
    own = Cell.of(config)
    own.declare(config)
    write_json(own.scores(config) / "scores.json", {"verdict": "official", "benchmarks": {"tiny_add": {"samples": 2}}})
    own.update(state="interrupted")
    assert finished(config, own) and own.state()["state"] == "done"
