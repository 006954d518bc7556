"""What is shown of a sweep and done to it, from records written by hand; on a real cluster: test_slurm.py."""

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from submitit.core.utils import FailedJobError
from test_tables import cell

from losslab.cells.run import finished
from losslab.config.machine import MachineConfig
from losslab.config.schema import BASE, BenchmarkConfig, Config, EvalConfig, Names
from losslab.distributed.signals import Interrupted
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.launchers import local, slurm, status
from losslab.launchers.retry import retry
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
    written = slurm.Submission(tmp_path)
    assert written.exit_status(0) is None
    (tmp_path / "jobs/exit-0").write_text("")
    assert written.exit_status(0) is None
    (tmp_path / "jobs/exit-0").write_text("75\n")
    assert (written.exit_status(0), written.exit_status(1)) == (75, None)


def test_a_submission_is_read_once_for_all_of_its_cells(tmp_path, monkeypatch):
    members = [cell(tmp_path, "sft", seed, None) for seed in range(3)]
    folder = tmp_path / "sweeps/study/1"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs/exit-1").write_text("9\n")
    record = {"jobs": ["7"], "cells": {str(own.folder): [] for own in members}, "sweep": "study"}
    write_json(folder / slurm.RECORD, record | {"submitted": "9999", "launcher": {"separate_evaluation": False}})
    reads = []
    monkeypatch.setattr(slurm, "read_json", lambda path: reads.append(path) or read_json(path))
    rows = {row.folder: row for row in status.statuses("study", str(tmp_path))}
    assert [rows[own.folder].state for own in members] == ["waiting", "failed", "waiting"]
    assert "its job ended with status 9" in rows[members[1].folder].note
    assert reads == [folder / slurm.RECORD]


@pytest.mark.parametrize(
    ("separate", "updated", "expected"),
    [(False, "2026-01-03", "trained"), (True, "2026-01-03", "cancelled"), (False, "2026-01-01", "cancelled")],
)
def test_what_is_trained_when_its_sweep_is_cancelled(tmp_path, separate, updated, expected):
    """Trained by the cancelled job it is at its end, unless it was to be scored; else the job had more to do."""
    own = cell(tmp_path, "sft", 0, None)
    own.update(state="trained")
    write_json(own.folder / "cell.json", own.state() | {"updated": updated})
    record = {"jobs": ["7"], "cells": {str(own.folder): []}, "submitted": "2026-01-02", "cancelled": "2026-01-04"}
    record |= {"launcher": {"separate_evaluation": separate}}
    write_json(tmp_path / "sweeps/study/1" / slurm.RECORD, record)
    (row,) = status.statuses("study", str(tmp_path))
    assert row.state == expected


class Cluster:
    """What `submit` and `cancel` ask of SLURM: arrays are numbered from 7, and `accepted` of them are taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, accepted: int = 9, silent: tuple[str, ...] = ()) -> None:
        self.accepted, self.queued, self.cancelled = accepted, list[tuple[str, str]](), list[str]()
        self.silent = silent  # the commands that fail
        self.given: list[tuple[dict, list[list[str]]]] = []  # settings and commands of each array
        monkeypatch.setattr(slurm, "_slurm", self.command)
        monkeypatch.setattr(
            slurm,
            "_executor",
            lambda folder, code, sweep, parameters, after: SimpleNamespace(map_array=self.map(sweep, parameters)),
        )
        monkeypatch.setattr(slurm.code_snapshot, "take", lambda folder: folder)

    def map(self, sweep: str, parameters: dict) -> Callable[..., list[SimpleNamespace]]:
        def map_array(function: object, logs: list[str], commands: list[list[str]]) -> list[SimpleNamespace]:
            if len(self.queued) == self.accepted:
                raise FailedJobError("Invalid account")
            self.queued.append((str(7 + len(self.queued)), slurm.job_name(sweep)))
            self.given.append((parameters, commands))
            return [SimpleNamespace(job_id=f"{self.queued[-1][0]}_{i}") for i in range(len(commands))]

        return map_array

    def command(self, name: str, *arguments: str) -> str:
        if name in self.silent:
            raise ValueError(f"{name} failed: Unable to contact slurm controller")
        if name == "scancel":
            self.cancelled += arguments
            return ""
        return "".join(f"{job} {job}_0 {name}\n" for job, name in self.queued)


PUBLIC = {"separate_evaluation": True, "nodes": 1, "array_parallelism": 4}
PARAMETERS = PUBLIC | {"environment": {"HF_TOKEN": "hf_secret"}, "setup": ["export WANDB_API_KEY=hf_secret"]}


def test_a_sweep_whose_second_array_is_refused_is_cancelled(tmp_path, monkeypatch):
    """Whether squeue answers or not; where scancel does not either, the refusal says what is left to do."""
    cluster = Cluster(monkeypatch, accepted=1, silent=("squeue",))
    with pytest.raises(ValueError, match="^SLURM refused the sweep: Invalid account$"):
        slurm.submit("study", {"cells/one": []}, PARAMETERS, tmp_path)
    assert cluster.cancelled == ["7"]
    (submission,) = slurm.Submission.of("study", str(tmp_path))
    assert submission.record["jobs"] == ["7"] and "cancelled" in submission.record
    Cluster(monkeypatch, accepted=1, silent=("squeue", "scancel"))
    with pytest.raises(ValueError) as refused:
        slurm.submit("other", {"cells/one": []}, PARAMETERS, tmp_path)
    assert str(refused.value) == (
        "SLURM refused the sweep: Invalid account; job 7 is still queued, since scancel failed: Unable to contact "
        f"slurm controller: losslab status other cancel=true results={tmp_path} cancels it"
    )
    (submission,) = slurm.Submission.of("other", str(tmp_path))
    assert submission.record["jobs"] == ["7"] and "cancelled" not in submission.record


def test_what_is_cancelled_are_ones_own_jobs_of_the_sweep(tmp_path, monkeypatch):
    cluster = Cluster(monkeypatch)
    name = "a,b"  # which a list of names for squeue would split
    mine, other = (slurm.submit(name, {"cells/one": []}, PARAMETERS, tmp_path) for _ in range(2))
    slurm.submit("another", {"cells/one": []}, PARAMETERS, tmp_path)
    before = other.record
    monkeypatch.setattr(slurm.Submission, "is_mine", property(lambda own: own.folder == mine.folder))
    assert slurm.cancel(name, str(tmp_path)) == 2
    assert cluster.cancelled == ["7_0", "8_0"] and "cancelled" in mine.record and other.record == before
    monkeypatch.setattr(slurm.Submission, "is_mine", property(lambda own: False))
    with pytest.raises(ValueError, match="the sweep a,b was submitted by another user: ask them to cancel it"):
        slurm.cancel(name, str(tmp_path))


@pytest.mark.parametrize("older", [False, True])
def test_a_sweep_is_retried_where_it_was_submitted(tmp_path, monkeypatch, older):
    """Its cells are relative folders: elsewhere they would be trained anew, beside nothing."""
    cluster, place, elsewhere = Cluster(monkeypatch), tmp_path / "place", tmp_path / "elsewhere"
    for folder in (place, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(place)
    own = cell(Path("results"), "sft", 0, None)
    submission = slurm.submit("study", {str(own.folder): ["loss=sft"]}, PARAMETERS, Path("results"))
    if older:
        record = {key: value for key, value in submission.record.items() if key != "folder"}
        write_json(submission.folder / slurm.RECORD, record)
    (submission.folder / "jobs/exit-0").write_text("9\n")
    queued = list(cluster.queued)
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ValueError) as refused:
        retry("study", str(place / "results"))
    whence = "the folder in which results lies" if older else str(place)
    assert str(refused.value) == f"the sweep was submitted from {whence}: run this there"
    assert cluster.queued == queued
    monkeypatch.chdir(place)
    retry("study", "results")
    assert len(cluster.queued) == 2 * len(queued)


def test_a_retry_gives_each_cell_the_settings_of_its_own_newest_submission(tmp_path, monkeypatch):
    cluster, small, large = (
        Cluster(monkeypatch),
        {"separate_evaluation": False, "nodes": 1},
        {"nodes": 2, "mem_gb": 400},
    )
    rest = {"array_parallelism": 4, "separate_evaluation": False}
    first, second, third = (cell(tmp_path, "sft", seed, None) for seed in range(3))
    submissions = [
        slurm.submit("study", {str(own.folder): [f"tag={i}"] for own in members}, rest | settings, tmp_path)
        for i, (members, settings) in enumerate([((first, second), large), ((second, third), small)])
    ]
    for submission, number in zip([submissions[0], *submissions, submissions[1]], [0, 1, 0, 1], strict=True):
        (submission.folder / f"jobs/exit-{number}").write_text("9\n")
    cluster.given.clear()
    retry("study", str(tmp_path))
    given = [(one["nodes"], one.get("mem_gb"), [words[2] for words in commands]) for one, commands in cluster.given]
    assert given == [(2, 400, ["tag=0"]), (1, None, ["tag=1", "tag=1"])]
    again = [list(one.record["cells"]) for one in slurm.Submission.of("study", str(tmp_path))[2:]]
    assert again == [[str(first.folder)], [str(second.folder), str(third.folder)]]


@pytest.mark.parametrize("recorded", ["interrupted", "training", None])
def test_a_job_that_was_stopped_and_not_requeued_says_so_and_is_retried(tmp_path, monkeypatch, recorded):
    cluster, own = Cluster(monkeypatch), cell(tmp_path, "sft", 0, None)
    submission = slurm.submit("study", {str(own.folder): []}, PARAMETERS | {"separate_evaluation": False}, tmp_path)
    if recorded:
        write_json(own.folder / "cell.json", own.state() | {"state": recorded, "updated": "9999"})
    (row,) = status.statuses("study", str(tmp_path))
    assert (row.state, row.note) == {
        "interrupted": ("preempted", ""),
        "training": ("silent", "its process is gone or cannot write"),
        None: ("waiting", ""),
    }[recorded]
    for state, reason in (("cancelled", "SLURM ended its job"), ("interrupted", "SLURM did not: it is off")):
        (submission.folder / "jobs/stopped-0").write_text(f"{state}: {reason}\n")
        (row,) = status.statuses("study", str(tmp_path))
        assert (row.state, row.note) == (state, reason) and row.state in status.FINAL
    (submission.folder / "jobs/exit-0").write_text("1\n")  # of a later start, before its cell began
    (row,) = status.statuses("study", str(tmp_path))
    assert (row.state, row.note[:29]) == ("failed", "its job ended with status 1, ")
    (submission.folder / "jobs/exit-0").unlink()
    queued = len(cluster.queued)
    retry("study", str(tmp_path))
    assert len(cluster.queued) == queued + 1
    write_json(own.folder / "cell.json", own.state() | {"updated": "2026"})  # before the new submission
    (row,) = status.statuses("study", str(tmp_path))
    assert row.state == "waiting"


def test_settings_of_the_jobs_are_read_by_their_owner_alone(tmp_path, monkeypatch):
    Cluster(monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")  # which records mask, and a retry needs
    submission = slurm.submit("study", {"cells/one": []}, PARAMETERS, tmp_path)
    assert "hf_secret" not in (submission.folder / slurm.RECORD).read_text()
    assert submission.record["launcher"] == PUBLIC
    assert submission.launcher == PARAMETERS
    assert (submission.folder / "jobs").stat().st_mode & 0o777 == 0o700
    (submission.folder / slurm.LAUNCHER).unlink()  # earlier submissions have none
    write_json(submission.folder / slurm.RECORD, submission.record | {"launcher": {"environment": {"A": "1"}}})
    assert submission.launcher == {"environment": {"A": "1"}}
    (submission.folder / slurm.EARLIER).write_text('{"A": "hf_secret"}')
    assert submission.launcher == {"environment": {"A": "hf_secret"}}


CELL = """
import pathlib, signal, sys, time

def stop(*_):
    print("stopped", flush=True)
    sys.exit(75)

signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""


def test_a_request_to_stop_reaches_the_cells_that_run_on_this_machine(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(CELL)
    monkeypatch.setattr(local, "ROOT", tmp_path)
    cells = {tmp_path / name: [str(tmp_path / f"{name}-began")] for name in "abc"}

    def ask() -> None:
        while len(list(tmp_path.glob("*-began"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Interrupted):
        local.run(cells, 2, [])
    asking.join()
    assert {path.parent.parent.name: path.read_text() for path in tmp_path.glob("*/logs/main.txt")} == {
        "a": "stopped\n",
        "b": "stopped\n",
    }


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
    own.give_up(config, "x")
    assert finished(config, own) and own.failure(config) is None
    assert (own.state()["state"], own.state()["error"]) == ("done", None)
    other = replace(config, eval=EvalConfig(samples=2, temperature=0.0))
    own.give_up(other, "y")
    own.give_up(config, "x")
    assert finished(config, own) and (own.failure(config), own.failure(other)) == (None, "y")
    assert (own.state()["state"], own.state()["error"]) == ("failed", "y")


@pytest.mark.parametrize(
    ("array", "shown", "requeued", "reason"),
    [
        ("7", "JobId=8 JobState=RUNNING Requeue=1 Restarts=0 BatchFlag=1", True, None),
        ("7", "JobId=8 JobState=RUNNING Requeue=1 Restarts=1 BatchFlag=1", False, None),  # SLURM replaced it already
        ("7", "JobId=8 JobState=CANCELLED Requeue=1 Restarts=0 BatchFlag=1", False, "cancelled"),
        ("", "slurm_load_jobs error: Unable to contact slurm controller", False, "interrupted"),
    ],
)
def test_what_the_script_of_a_job_does_after_a_stop(tmp_path, array, shown, requeued, reason):
    """With a scontrol that only notes what it is asked; the folder of the results may have a space in its name."""
    jobs = tmp_path / "my results"
    jobs.mkdir()
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n[ "$1" = requeue ] || echo "{shown}"\n')
    scontrol.chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "0", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    job |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": "1"} if array else {}
    script = "(exit 75)\n" + slurm.REQUEUE_SCRIPT.replace("{folder}", shlex.quote(str(jobs)))
    done = subprocess.run(["bash", "-c", script], env=job, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "")
    name = "7_1" if array else "7"  # of the last task of an array 7 alone would be all of its tasks
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [f"show job {name}", *[f"requeue {name}"] * requeued]
    written = [file.read_text().partition(":")[0] for file in jobs.iterdir()]
    assert written == ([reason] if reason else [])
