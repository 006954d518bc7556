"""Sweeps on a real SLURM cluster of two nodes on this machine (tests/slurm/cluster); test_drills.py disturbs them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import warm
from omegaconf import OmegaConf
from place import HELD, LAUNCHER, TINY, Place, apart, copy, queue, record, steps, until

from hydra_plugins.losslab_launcher import LocalLauncher
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config
from losslab.files.json_files import write_json
from losslab.launchers import status
from losslab.records import code_snapshot
from losslab.records.lock import cell_lock

pytestmark = pytest.mark.timeout(3600)  # every wait has a limit of its own


@pytest.fixture
def place(cluster, root, checkpoint, tmp_path) -> Place:
    return Place(tmp_path, root, checkpoint)


def test_a_sweep_outlives_its_submitter_and_edits_of_the_code(cluster, root, checkpoint, tmp_path):
    code = tmp_path / "code"
    copy(root, code)
    place = Place(tmp_path / "work", code, checkpoint)
    arguments = place.sweep("grid", "loss=sft,dft", "seed=0,1", array_parallelism=2, mem_gb="null")
    submitter = subprocess.Popen(place.command(*arguments), cwd=place.folder, env=place.environment)
    until(lambda: any(place.folder.glob("results/sweeps/grid/*/submission.json")), place)
    submitter.send_signal(signal.SIGKILL)
    submitter.wait()
    (code / "src/losslab/training/loop.py").write_text("raise RuntimeError('edited')\n")
    shutil.rmtree(code / "conf/loss")
    assert len(queue("grid")) == 4
    until(place.over("grid"), place)
    rows = place.status("grid")
    assert [row.state for row in rows] == ["done"] * 4
    assert [(row.step, row.steps, row.tries) for row in rows] == [(10, 10, "1/10")] * 4
    assert len({record(row.folder)["job"] for row in rows}) == 4
    table = (place.folder / "results/tables/grid/table.md").read_text()  # by the last cell: nobody else is there
    assert [line.split("|")[-2].strip() for line in table.splitlines() if line.startswith("| checkpoint |")] == [
        "2",
        "2",
    ]
    (script,) = place.folder.glob("results/sweeps/grid/*/jobs/*_submission.sh")
    assert "--array=0-3%2" in script.read_text()
    assert re.search(r"--mem=[5-9]GB", script.read_text())  # as estimated for a tiny model on the CPU


def test_two_nodes_make_the_same_weights_as_two_processes_of_one(place, root, checkpoint, tmp_path):
    """Also when the job is interrupted on both nodes, and goes on."""
    place.hold()
    held = [*HELD, "machine.workers=1"]
    place.submit("nodes", *held, nodes=2)
    one, ranks = (Place(tmp_path / name, root, checkpoint) for name in ("one", "ranks"))
    done = one.run(*TINY, "model=./checkpoint", *held, "machine.workers=2", "stage=train")
    assert done.returncode == 0, done.stderr
    until(steps(place, "nodes", 2), place)
    subprocess.run(["scancel", "--signal=USR2", *queue("nodes", "%A")], check=True)
    until(lambda: place.starts("nodes") == 2, place)
    place.release()
    until(place.over("nodes"), place)
    srun = ("srun", "--overcommit", "--mem=0", "--nodes=1", "--ntasks=2")
    done = ranks.run(*TINY, "model=./checkpoint", *held, "stage=train", prefix=srun)  # one process for each rank
    assert done.returncode == 0, done.stderr
    assert place.states("nodes") == ["done"]
    assert apart(place.cell("nodes"), one.cell("ablation")) <= 1e-6
    assert apart(ranks.cell("ablation"), one.cell("ablation")) <= 1e-6
    logs = {path.name: path.read_text() for path in (place.cell("nodes") / "logs").iterdir()}
    assert set(logs) == {"main.txt", "node-1.txt", "rank-1.out", "rank-1.err"}
    assert "tiny_add avg@1" in logs["main.txt"] and "tiny_add" not in logs["node-1.txt"]
    assert "interrupted; the same command continues from here" in logs["main.txt"]
    assert re.search(r"training \S+: [1-9]/10 \[00:00<", logs["main.txt"])  # the second start is no first step


def test_an_error_on_the_other_node_shows_once_with_its_rank(place):
    place.submit("other", "loss=sft", "loss._target_=broken.Broken", "+loss.rank=1", "machine.workers=1", nodes=2)
    until(place.over("other"), place)
    (row,) = place.status("other")
    assert (row.state, row.note) == ("failed", "WorkerError: rank 1: ArithmeticError: broken on purpose")
    texts = [path.read_text() for path in row.folder.glob("logs/*.txt")]
    assert "\n".join(texts).count("broken on purpose") == 1


def test_a_sweep_submitted_twice_at_once_runs_each_cell_once(place):
    place.hold()
    arguments = place.sweep("twice", *HELD, "stage=train")
    both = [warm.Popen(place.command(*arguments), place.folder, place.environment) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0] and len(queue("twice")) == 2
    until(lambda: len(queue("twice")) == 1, place)  # one job has left the cell to the other one
    place.release()
    until(place.over("twice"), place)
    (row,) = place.status("twice")
    assert (row.state, row.step, row.tries, record(row.folder)["attempts"]) == ("trained", 10, "1/10", 1)
    assert place.log("twice").count("runs it; nothing to do here") == 1


def test_nothing_is_submitted_when_one_cell_is_broken(place):
    done = place.run(*place.sweep("wrong", "loss=sft,dpo"))
    assert done.returncode == 2 and done.stderr.startswith("error: loss=dpo needs pairs of answers")
    assert not queue("wrong") and not (place.folder / "results").exists()


def test_a_failing_cell_and_its_retry(place):
    classes = "loss._target_=broken.Broken,losslab.objectives.sft.SFT"
    place.submit("failing", "loss=sft", classes, "stage=train")
    until(place.over("failing"), place)
    failed, done = sorted(place.status("failing"), key=lambda row: row.state)
    assert (failed.state, done.state, failed.step) == ("failed", "trained", 2)
    assert failed.note == "WorkerError: rank 0: ArithmeticError: broken on purpose"
    shown = place.run("failing", verb="status")
    assert shown.returncode == 0 and "1 failed, 1 trained" in shown.stdout.replace("\n", " ")
    (place.folder / "mended").touch()
    again = place.run("failing", "retry=failed", verb="status")
    assert again.returncode == 0 and "failing: 1 cells submitted" in again.stdout, again.stderr
    until(place.over("failing"), place)
    assert place.states("failing") == ["trained", "trained"]
    assert record(done.folder)["attempts"] == 1 and record(failed.folder)["attempts"] == 2
    nothing = place.run("failing", "retry=failed", verb="status")
    assert nothing.returncode == 2 and "there is nothing to retry" in nothing.stderr


def test_a_job_that_dies_before_its_cell_begins(place):
    place.submit("stillborn", "loss=sft", container="/bin/false")  # a container that does not start
    until(lambda: place.states("stillborn") == ["failed"], place)
    (row,) = place.status("stillborn")
    assert row.note.startswith("its job ended with status 1, see ")
    refused = place.run(*place.sweep("refused", "loss=sft", partition="nowhere"))
    assert refused.returncode == 2 and "invalid partition" in refused.stderr.splitlines()[-1], refused.stderr


def test_cancel_and_retry(place):
    place.hold()
    place.submit("given_up", *HELD, "seed=0,1", array_parallelism=1)
    until(steps(place, "given_up", 2), place)
    assert place.states("given_up") == ["running", "waiting"]
    done = place.run("given_up", "cancel=true", verb="status")
    assert (done.returncode, done.stdout) == (0, "given_up: 2 jobs cancelled\n"), done.stderr
    until(lambda: not queue("given_up"), place)
    assert place.states("given_up") == ["cancelled", "cancelled"]
    assert list(place.folder.glob("results/cells/*/checkpoints/step-00000003"))  # of the step in which it was asked
    again = place.run("given_up", "retry=failed", verb="status")
    assert again.returncode == 0, again.stderr
    assert len(queue("given_up")) == 2 and "cancelled" not in place.states("given_up")
    place.run("given_up", "cancel=true", verb="status")


def test_the_last_task_of_an_array_is_requeued_alone(place):
    """Its SLURM_JOB_ID is the number of the whole array."""
    place.hold()
    place.submit("array", *HELD, "seed=0,1", "stage=train")
    until(lambda: [row.step for row in place.status("array")] == [2, 2], place)
    (submission,) = place.folder.glob("results/sweeps/array/*/submission.json")
    last = list(json.loads(submission.read_text())["cells"])[1]
    (number,) = json.loads(submission.read_text())["jobs"]
    assert number in queue("array", "%A")  # of one of the two
    task = subprocess.run(
        ["squeue", "--noheader", "--array", f"--job={number}", "--format=%A %i"], capture_output=True, text=True
    )
    assert f"{number} {number}_1" in task.stdout.splitlines()
    subprocess.run(["scancel", "--signal=USR2", f"{number}_1"], check=True)
    until(lambda: record(place.folder / last)["attempts"] == 2, place)
    place.release()
    until(place.over("array"), place)
    of_cells = {
        row.folder.name: (row.state, record(row.folder)["attempts"], row.tries) for row in place.status("array")
    }
    other = ("trained", 1, "1/10")
    assert sorted(of_cells.values()) == [other, ("trained", 2, "2/10")] and of_cells[Path(last).name] != other


def test_a_job_that_slurm_ends_or_does_not_requeue_says_so_and_is_retried(place):
    place.hold()
    place.submit("ended", *HELD, "seed=0,1", "stage=train")
    until(lambda: [row.step for row in place.status("ended")] == [2, 2], place)
    (submission,) = place.folder.glob("results/sweeps/ended/*/submission.json")
    cancelled, kept = json.loads(submission.read_text())["cells"]
    (number,) = json.loads(submission.read_text())["jobs"]
    subprocess.run(["scontrol", "update", f"jobid={number}_1", "requeue=0"], check=True)
    subprocess.run(["scancel", f"{number}_0"], check=True)  # not by `losslab status`
    subprocess.run(["scancel", "--signal=USR2", f"{number}_1"], check=True)
    until(lambda: not queue("ended"), place)
    rows = {row.folder.name: (row.state, row.note) for row in place.status("ended")}
    assert rows[Path(cancelled).name] == ("cancelled", "SLURM ended its job, which was cancelled or out of time")
    state, note = rows[Path(kept).name]
    assert state == "interrupted" and note.startswith("SLURM did not requeue its job: "), note
    assert "disabled" in note
    shown = place.run("ended", "watch=true", verb="status")  # which ends
    assert shown.returncode == 0 and "1 cancelled, 1 interrupted" in shown.stdout.replace("\n", " ")
    place.release()
    again = place.run("ended", "retry=failed", verb="status")
    assert again.returncode == 0 and "ended: 2 cells submitted" in again.stdout, again.stderr
    until(place.over("ended"), place)
    assert place.states("ended") == ["trained", "trained"]
    assert [record(row.folder)["attempts"] for row in place.status("ended")] == [2, 2]


def test_a_trained_cell_is_at_its_end_unless_its_scoring_is_a_job_that_waits(tmp_path):
    cell = tmp_path / "cells/one"
    state = {"state": "trained", "attempts": 1, "declared": "now", "updated": "2026-01-02", "sweeps": ["halves"]}
    state |= {"names": dict.fromkeys(("model", "dataset", "loss", "eval"), "one"), "seed": 0}
    write_json(cell / "cell.json", state)
    for separate, expected in ((None, "trained"), (False, "trained"), (True, "to score")):
        if separate is not None:
            submission = {"cells": {str(cell): []}, "submitted": "2026-01-01"}
            launcher = {"launcher": {"separate_evaluation": separate}}
            write_json(tmp_path / "sweeps/halves/now/submission.json", submission | launcher)
        (row,) = status.statuses("halves", str(tmp_path))
        assert row.state == expected
    assert "trained" in status.FINAL and "to score" not in status.FINAL


def test_scoring_as_a_job_of_its_own(place):
    place.submit("halves", "loss=sft", separate_evaluation="true", container="env")
    until(place.over("halves"), place)
    (row,) = place.status("halves")
    assert row.state == "done" and record(row.folder)["attempts"] == 2
    jobs = json.loads(next(place.folder.glob("results/sweeps/halves/*/submission.json")).read_text())["jobs"]
    assert len(jobs) == 2 and record(row.folder)["job"] == jobs[1]


def test_the_commands_of_the_guide(cluster, root, checkpoint, tmp_path):
    """Those of docs/slurm.md as they are written, with what makes the model tiny behind them."""
    code = tmp_path / "code"
    copy(root, code)
    place = Place(tmp_path / "work", code, checkpoint)
    page = (root / "docs/slurm.md").read_text()
    (settings,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (code / "conf/hydra/launcher/mine.yaml").write_text(settings)
    _, _, plan, trial, sweep, after = re.findall(r"```bash\n(.*?)```", page, re.S)
    tiny = [argument for argument in TINY if argument not in ("dataset.rows=640", "benchmark=[tiny_add]")]
    tiny += ["model=./checkpoint", "dataset.rows=64", "train.max_steps=1", "benchmark=[tiny_add]"]
    launcher = [f"hydra.launcher.{key}={value}" for key, value in LAUNCHER.items() if key != "timeout_min"]
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(
        f"#!{sys.executable}\nimport os, sys\nfrom losslab.composition.words import last_of_each\n"
        f"script, *words = sys.argv[1:]\nfile = os.path.join({str(code)!r}, script)\n"
        f"more = {tiny!r} + os.environ['LAUNCHER'].split() if script == 'train.py' else []\n"
        "words = last_of_each([*words, *more]) if more else words\n"
        "os.execv(sys.executable, [sys.executable, file, *words])\n"
    )
    losslab = python.with_name("losslab")  # as pip installs it
    losslab.write_text(f'#!/bin/sh\nexec {sys.executable} -m losslab "$@"\n')
    for program in (python, losslab):
        program.chmod(0o755)
    place.environment |= {"PATH": f"{python.parent}:{os.environ['PATH']}", "COLUMNS": "200"}

    def run(commands: str, **environment: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=place.folder, env=place.environment | environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    planned = run(plan, LAUNCHER="")
    assert "table1: 3 cells" in planned and "hours of the CPUs of a job: not known here" in planned
    assert "3 cells" in run(sweep.replace("hydra/launcher=slurm", "hydra/launcher=mine plan=true"), LAUNCHER="")
    assert "trial: 1 cells, 1 done" in run(trial, LAUNCHER=" ".join(launcher))
    assert "3 cells submitted as job" in run(sweep, LAUNCHER=" ".join(launcher))
    watch, cancel, retry, table = after.strip().splitlines()
    assert "table1: 3 cells, 3 done" in run(watch)
    until(place.over("table1"), place)
    assert "table1: 0 jobs cancelled" in run(cancel)
    assert "dft" in run(table) and place.states("table1") == ["done"] * 3
    again = subprocess.run(
        ["bash", "-c", retry], cwd=place.folder, env=place.environment, capture_output=True, text=True
    )
    assert again.returncode == 2 and "there is nothing to retry" in again.stderr


def test_several_cells_at_once_on_one_machine(root, checkpoint, tmp_path):
    place = Place(tmp_path, root, checkpoint)
    arguments = ["loss=sft", "loss._target_=losslab.objectives.sft.SFT,broken.Broken", "stage=train"]
    local = ["hydra/launcher=local", "hydra.launcher.processes=2"]
    done = place.run("-m", *TINY, "model=./checkpoint", *arguments, *local)
    assert done.returncode == 1
    failed, good = sorted(place.status("ablation"), key=lambda row: row.state)
    assert (failed.state, good.state) == ("failed", "trained")
    started, ended = (done.stdout.index(f"{word}: {good.folder.name}") for word in ("started", "done"))
    assert done.stdout.count("started: ", 0, ended) == 2 and started < ended  # both were at work at once
    assert f"failed: {failed.folder.name}" in done.stdout
    assert "broken on purpose" in (failed.folder / "logs/main.txt").read_text()


VARIED = ("loss=sft", "scheduler=constant,cosine", "scheduler.floor=0.1", "stage=train")  # of which one reads the floor


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=local", "hydra.launcher.processes=2"]])
def test_each_cell_of_a_sweep_runs_by_itself(root, checkpoint, tmp_path, launcher):
    place = Place(tmp_path, root, checkpoint)
    done = place.run("-m", *TINY, "model=./checkpoint", "train.max_steps=1", *VARIED, *launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.states("ablation") == ["trained", "trained"]


def test_what_a_launcher_is_given_is_read_by_its_owner_alone(root, checkpoint, tmp_path):
    """Shell lines, variables and options of sbatch, in every file that a submission leaves."""
    place, programs, secret = Place(tmp_path / "work", root, checkpoint), tmp_path / "bin", uuid4().hex
    programs.mkdir()
    for name in ("sbatch", "srun"):
        (programs / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (programs / name).chmod(0o755)
    place.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    settings = {"setup": f"['export A={secret}']", "environment.B": secret, "container": f"'env C={secret}'"}
    place.submit("hidden", "loss=sft", **settings, **{"additional_parameters.export": f"'D={secret}'"})
    (record,) = place.folder.glob("results/sweeps/hidden/*/submission.json")
    assert json.loads(record.read_text())["launcher"] == {
        "nodes": 1, "gpus_per_node": None, "cpus_per_task": 1, "mem_gb": 1, "timeout_min": 30, "array_parallelism": 16,
        "tries": 10, "separate_evaluation": False,
    }  # fmt: skip
    holding = [path for path in place.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert {path.name for path in holding} >= {"launcher.json", "multirun.yaml"}
    for path in holding:
        ways = [path, *(folder for folder in path.parents if folder.is_relative_to(place.folder))]
        assert not all(part.stat().st_mode & 0o004 for part in ways), path
    kept = json.loads((record.parent / "jobs/launcher.json").read_text())
    assert (kept["setup"], kept["environment"]) == ([f"export A={secret}"], {"B": secret})  # which a retry needs


def test_each_job_of_a_sweep_runs_by_itself(place):
    place.submit("varied", *VARIED, "train.max_steps=1")
    until(place.over("varied"), place)
    assert place.states("varied") == ["trained", "trained"]


@pytest.mark.parametrize(
    ("gpus", "settings", "expected"),
    [
        (["a", "b"], {}, (2, ["a", "b"])),
        (["a", "b"], {"device": "cpu", "threads": 1}, (8, [])),
        ([], {"device": "cpu", "threads": 3}, (2, [])),
        ([], {}, "every GPU of this machine is in use"),
        (None, {"threads": 2}, (4, [])),
        (None, {"threads": 2, "workers": 2}, (2, [])),
        (None, {}, (1, [])),
    ],
)
def test_how_many_cells_run_at_once_on_one_machine(monkeypatch, gpus, settings, expected):
    machine = MachineConfig(**settings)
    cells = {Path(name): (Config(machine=machine), []) for name in "abc"}
    monkeypatch.setattr("losslab.distributed.gpus.free", lambda: gpus)
    monkeypatch.setattr("losslab.cells.sweep.unfinished", lambda config, words: cells)
    monkeypatch.setattr("losslab.planning.sizing.of_node", lambda config: 1e9)
    monkeypatch.setattr("losslab.planning.memory.available_cores", lambda: 8)
    monkeypatch.setattr("losslab.planning.memory.room", lambda gpu: 64e9)
    monkeypatch.setattr("losslab.launchers.local.run", lambda cells, processes, gpus: asked.append((processes, gpus)))
    asked: list[tuple[int, list[str]]] = []
    launcher = LocalLauncher(processes=None)
    launcher.config = OmegaConf.create({"machine": {"device": str(machine.device)}})
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            launcher.launch([], 0)
    else:
        launcher.launch([], 0)
        assert asked == [expected]


def test_a_lock_that_does_not_reach_another_machine_is_noticed(tmp_path, monkeypatch):
    """A holder elsewhere that gives signs of life although its lock could be taken here."""
    monkeypatch.setattr("losslab.records.lock.HEARTBEAT_SECONDS", 0.5)
    (tmp_path / "holder.json").write_text(json.dumps({"job": "1", "host": "elsewhere", "restarts": 0}))
    beat = "import pathlib, time, sys\nwhile True: pathlib.Path(sys.argv[1]).touch(); time.sleep(0.2)"
    other = subprocess.Popen([sys.executable, "-c", beat, str(tmp_path / "holder.json")])
    try:
        with pytest.raises(ValueError, match="its lock does not reach this machine"), cell_lock(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with cell_lock(tmp_path):  # that machine is dead
        assert json.loads((tmp_path / "holder.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "holder.json").exists()


def test_a_snapshot_is_the_code_of_its_moment(root, tmp_path):
    copied = code_snapshot.take(tmp_path / "code")
    for name in ("src/losslab/training/loop.py", "conf/config.yaml", "conf/experiment/demo.yaml", "train.py"):
        assert (copied / name).read_bytes() == (root / name).read_bytes()
    about = json.loads((copied / "snapshot.json").read_text())
    command = [
        sys.executable,
        "-c",
        "from losslab.records import code_snapshot as s; print(s.commit()); print(s.changes())",
    ]
    environment = os.environ | {"PYTHONPATH": str(copied / "src")}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"{about['commit']}\n{about['changes']}".strip()
    assert not (copied / ".git").exists() and about["commit"] == code_snapshot.commit()
