"""Sweeps on SLURM: the unfinished cells become one job array, which runs a copy of the current code.

A job runs the ordinary command of one cell, `python train.py <its overrides>`, in the copy; submitit writes the batch
script. If the cell has to stop (time limit, preemption), it exits with status 75 and the script requeues the job; if
its node fails, SLURM requeues it. A job that is stopped and not requeued says why in a file beside its output. The
submission is recorded in results/sweeps/<sweep>/<time>/submission.json.
"""

import json
import os
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from losslab.composition.check_unread import CHECKED
from losslab.composition.words import last_of_each
from losslab.config.log import log
from losslab.files.json_files import read_json, write_json
from losslab.records import code_snapshot

RECORD = "submission.json"
LAUNCHER = "jobs/launcher.json"  # beside the record, which others can read; this its owner alone
EARLIER = "jobs/environment.json"  # of submissions whose record holds the rest of the launcher
# What the record has of the launcher: numbers. Shell lines, variables and options of sbatch may hold a key.
PUBLIC = (
    "nodes", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min", "array_parallelism", "tries",
    "separate_evaluation",
)  # fmt: skip
OURS = {"_target_", "submitit_folder", "name", "max_num_timeout", "environment", "container", "tries"}
OURS |= {"separate_evaluation", "setup", "additional_parameters"}
# The batch script survives a TERM to all processes of the job, as when a machine shuts down and srun kills the cell.
TRAP_TERM = "trap asked=yes TERM"
EXIT = "exit-${SLURM_ARRAY_TASK_ID:-0}"  # the file with the status of a job that failed
STOPPED = "stopped-${SLURM_ARRAY_TASK_ID:-0}"  # that which says why a job that was stopped is not requeued
# A task is named by its array, since the last one to start has the array's own number as SLURM_JOB_ID: with that,
# scontrol would show and requeue all tasks. Signals 10, 12 and 15 kill a cell that is asked to stop before it has
# installed its handlers. SLURM itself handles a job that is no longer running: one that it requeues (preempted) counts
# a restart more at once, and so does one that it gave up (its node was unreachable) but that still runs, which must not
# requeue the one that replaced it. A status above 128 is that of scontrol when the requeue has ended it too.
REQUEUE_SCRIPT = f"""code=$?
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
job=${{job:-$SLURM_JOB_ID}}
stopped={{folder}}/{STOPPED}
case ${{asked:-}}$code in
    0 | yes0) ;;
    {os.EX_TEMPFAIL} | 138 | 140 | 143 | yes*)
        now=$(scontrol show job "$job" 2>&1)
        case $now in
            *JobState=RUNNING*"Restarts=${{SLURM_RESTART_COUNT:-0}} "*)
                said=$(scontrol requeue "$job" 2>&1) || [ $? -gt 128 ] ||
                    echo "interrupted: SLURM did not requeue its job: $said" >"$stopped" ;;
            *"Restarts=${{SLURM_RESTART_COUNT:-0}} "*)
                echo "cancelled: SLURM ended its job, which was cancelled or out of time" >"$stopped" ;;
            *JobState=*) ;;
            *) echo "interrupted: scontrol did not show its job, to requeue it: $now" >"$stopped" ;;
        esac ;;
    *) echo $code >{{folder}}/{EXIT} ;;
esac
exit $code"""


@dataclass(frozen=True)
class Submission:
    """The folder of one call of `submit`."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        return read_json(self.folder / RECORD)

    @property
    def is_mine(self) -> bool:
        """Whether this user wrote it: jobs run commands from it, so only one's own may be submitted again."""
        return (self.folder / RECORD).stat().st_uid == os.getuid()

    @property
    def launcher(self) -> dict[str, Any]:
        """The `parameters` of `submit`, if the submission is one's own."""
        if (file := self.folder / LAUNCHER).exists():
            return read_json(file)
        environment = self.folder / EARLIER  # before it, the record held the environment too
        return self.record["launcher"] | ({"environment": read_json(environment)} if environment.exists() else {})

    def exit_status(self, number: int) -> int | None:
        """The non-zero exit status of the job of a cell, counted from 0 as in the record; None if there is none."""
        try:
            text = (self.folder / "jobs" / f"exit-{number}").read_text().strip()
        except (FileNotFoundError, PermissionError):  # no such file, or another user's job
            text = ""
        return int(text) if text.isdigit() else None  # empty while being written, and on a full disk

    def stopped(self, number: int) -> tuple[str, str] | None:
        """The state (cancelled, interrupted) of a cell whose job was stopped and not requeued, and why; else None.

        `number` is that of `exit_status`.
        """
        try:
            text = (self.folder / "jobs" / f"stopped-{number}").read_text()
        except (FileNotFoundError, PermissionError):
            text = ""
        state, colon, reason = " ".join(text.split()).partition(": ")
        return (state, reason) if colon else None

    def cancel(self) -> int:
        """Cancel its queued and running jobs; returns how many there were."""
        record = self.record
        listed = _slurm("squeue", "--noheader", "--array", "--me", "--format=%F %i %j")
        mine = [line.split(maxsplit=2) for line in listed.splitlines()]
        # By the name too, since SLURM starts again at the first number one day.
        queued = [task for job, task, name in mine if job in record["jobs"] and name == job_name(record["sweep"])]
        record |= {"cancelled": datetime.now(UTC).isoformat()}
        write_json(self.folder / RECORD, record)  # first: `status` reads a cancelled job's files by it
        if queued:
            _slurm("scancel", *queued)
        return len(queued)

    @classmethod
    def of(cls, sweep: str, results: str) -> list["Submission"]:
        """The submissions of a sweep, oldest first."""
        return [cls(path.parent) for path in sorted(Path(results).glob(f"sweeps/{sweep}/*/{RECORD}"))]


def submit(sweep: str, cells: dict[str, list[str]], parameters: dict[str, Any], results: Path) -> Submission:
    """Submit cells, given as folder and overrides, as one job array. Raises ValueError if SLURM refuses."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = _new_folder(results / "sweeps" / sweep)
    code = code_snapshot.take(folder / "code").resolve()
    stages = ["train", "score"] if parameters["separate_evaluation"] else [None]  # None: what the cell asks for
    (folder / LAUNCHER).write_text(json.dumps(parameters))  # with its secrets, which a retry needs
    public = {key: parameters[key] for key in PUBLIC if key in parameters}
    record = {"sweep": sweep, "submitted": datetime.now(UTC).isoformat(timespec="seconds"), "cells": cells}
    # The folder, since the cells and paths among the overrides may be relative to it.
    record |= {"launcher": public, "results": str(results), "folder": os.getcwd()}
    jobs: list[str] = []
    try:
        for stage in stages:
            after = {"dependency": f"aftercorr:{jobs[-1]}", "kill_on_invalid_dep": "yes"} if jobs else {}
            nodes = 1 if stage == "score" else parameters["nodes"]
            executor = _executor(folder / "jobs", code, sweep, parameters | {"nodes": nodes}, after)
            commands = [_command(code, overrides, stage) for overrides in cells.values()]
            submitted = executor.map_array(_become, [str(Path(cell) / "logs") for cell in cells], commands)
            jobs.append(submitted[0].job_id.split("_")[0])
            write_json(folder / RECORD, record | {"jobs": jobs})
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        left = _withdraw(Submission(folder), jobs[0]) if jobs else ""
        raise ValueError(f"SLURM refused the sweep: {' '.join(str(error).split())}{left}") from None
    at_once = min(len(cells), parameters["array_parallelism"])
    log.info(
        f"{sweep}: {len(cells)} cells submitted as job {' and '.join(jobs)}, {at_once} at a time\n"
        f"follow: losslab status {sweep} watch=true\nrecord: {folder}"
    )
    return Submission(folder)


def cancel(sweep: str, results: str) -> int:
    """Cancel this user's queued and running jobs of a sweep; returns how many there were."""
    submissions = Submission.of(sweep, results)
    if not submissions:
        raise ValueError(f"the sweep {sweep} was not submitted to SLURM from {results}: there is nothing to cancel")
    mine = [submission for submission in submissions if submission.is_mine]
    if not mine:
        raise ValueError(f"the sweep {sweep} was submitted by another user: ask them to cancel it")
    return sum(submission.cancel() for submission in mine)


def _withdraw(submission: Submission, job: str) -> str:
    """Cancel the training of a sweep whose scoring was refused; returns what to add to the refusal if that fails."""
    try:
        _slurm("scancel", job)
    except ValueError as error:
        record = submission.record
        command = f"losslab status {record['sweep']} cancel=true results={record['results']}"
        return f"; job {job} is still queued, since {error}: {command} cancels it"
    write_json(submission.folder / RECORD, submission.record | {"cancelled": datetime.now(UTC).isoformat()})
    return ""


def job_name(sweep: str) -> str:
    return f"losslab-{sweep}"


def _slurm(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise ValueError(f"there is no {command[0]} here: run this on a machine of the cluster") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{command[0]} failed: {' '.join(error.stderr.split())}") from None
    return done.stdout


def _new_folder(parent: Path) -> Path:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in ("", *(f".{number}" for number in range(1, 100))):
        try:
            (parent / f"{stamp}{suffix}" / "jobs").mkdir(parents=True, mode=0o700)  # submitit's pickles and environment
        except FileExistsError:
            continue
        (parent / f"{stamp}{suffix}").chmod(0o755)  # it holds code that will run
        return parent / f"{stamp}{suffix}"
    raise AssertionError(f"a hundred submissions of {parent.name} in one second")


def _command(code: Path, overrides: list[str], stage: str | None) -> list[str]:
    half = [f"stage={stage}"] if stage else []
    return [sys.executable, str(code / "train.py"), *last_of_each([*overrides, "hydra.mode=RUN", *half])]


def _executor(folder: Path, code: Path, sweep: str, parameters: dict[str, Any], after: dict[str, str]) -> Any:
    import submitit

    python = shlex.quote(sys.executable)
    container = f"{parameters['container']} " if parameters["container"] else ""
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_python=f"{container}{python}")
    path = f"export PYTHONPATH={shlex.quote(str(code / 'src'))}${{PYTHONPATH:+:$PYTHONPATH}}"
    variables = {CHECKED: 1, "LOSSLAB_TRIES": parameters["tries"], **parameters["environment"]}
    if parameters["cpus_per_task"]:
        variables["SRUN_CPUS_PER_TASK"] = parameters["cpus_per_task"]  # since 22.05 srun does not take it from sbatch
    exports = [path, *(f"export {name}={shlex.quote(str(value))}" for name, value in variables.items())]
    chosen = {key: value for key, value in parameters.items() if key not in OURS and value is not None}
    written = shlex.quote(str(folder.resolve()))
    chosen |= {
        "setup": [TRAP_TERM, f"rm -f {written}/{EXIT} {written}/{STOPPED}", *(parameters["setup"] or []), *exports],
        "teardown": [REQUEUE_SCRIPT.replace("{folder}", written)],
        "additional_parameters": {"requeue": True, **after, **parameters["additional_parameters"]},
    }
    general = {"timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "stderr_to_stdout"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        executor.update_parameters(
            name=job_name(sweep), **{key if key in general else f"slurm_{key}": value for key, value in chosen.items()}
        )
    return executor


def _become(logs: str, command: list[str]) -> None:
    """In the job: redirect output to the cell's logs, and replace this process by the cell's command."""
    node = os.environ["SLURM_NODEID"]
    path = Path(logs) / ("main.txt" if node == "0" else f"node-{node}.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    os.execv(command[0], command)
