"""Sweeps on SLURM: the unfinished cells become one job array, which runs a copy of the current code.

A job runs the ordinary command of one cell, `python train.py <its overrides>`, in the copy; submitit writes the batch
script. If the cell has to stop (time limit, preemption), it exits with status 75 and the script requeues the job; if
its node fails, SLURM requeues it. The submission is recorded in results/sweeps/<sweep>/<time>/submission.json.
"""

import os
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from losslab.config.log import log
from losslab.files import read_json, write_json
from losslab.records import code_snapshot

RECORD = "submission.json"
OURS = {"_target_", "submitit_folder", "name", "max_num_timeout", "environment", "container", "tries"}
OURS |= {"separate_evaluation", "setup", "additional_parameters"}
# The batch script survives a TERM to all processes of the job, as when a machine shuts down and srun kills the cell.
TRAP_TERM = "trap asked=yes TERM"
# Signals 10, 12 and 15 kill a cell that is asked to stop before it has installed its handlers. SLURM itself handles a
# job that is no longer running (cancelled, preempted). A job that SLURM gave up (its node was unreachable) but that
# still runs must not requeue the one that replaced it.
REQUEUE_SCRIPT = f"""code=$?
case ${{asked:-}}$code in
    0 | yes0) ;;
    {os.EX_TEMPFAIL} | 138 | 140 | 143 | yes*)
        now=$(scontrol show job "$SLURM_JOB_ID")
        case $now in
            *JobState=RUNNING*"Restarts=${{SLURM_RESTART_COUNT:-0}} "*) scontrol requeue "$SLURM_JOB_ID" ;;
        esac ;;
    *) echo $code >{{folder}}/exit-${{SLURM_ARRAY_TASK_ID:-0}} ;;
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

    def exit_status(self, cell: str) -> int | None:
        """The non-zero exit status of the job of a cell (the folder's name); None if there is none."""
        names = [Path(folder).name for folder in self.record["cells"]]
        path = self.folder / "jobs" / f"exit-{names.index(cell)}" if cell in names else None
        try:
            text = path.read_text().strip() if path else ""
        except (FileNotFoundError, PermissionError):  # no such file, or another user's job
            text = ""
        return int(text) if text.isdigit() else None  # empty while being written, and on a full disk

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
    jobs: list[str] = []
    try:
        for stage in stages:
            after = {"dependency": f"aftercorr:{jobs[-1]}", "kill_on_invalid_dep": "yes"} if jobs else {}
            nodes = 1 if stage == "score" else parameters["nodes"]
            executor = _executor(folder / "jobs", code, sweep, parameters | {"nodes": nodes}, after)
            commands = [_command(code, overrides, stage) for overrides in cells.values()]
            submitted = executor.map_array(_become, [str(Path(cell) / "logs") for cell in cells], commands)
            jobs.append(submitted[0].job_id.split("_")[0])
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        raise ValueError(f"SLURM refused the sweep: {' '.join(str(error).split())}") from None
    record = {"sweep": sweep, "jobs": jobs, "submitted": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(folder / RECORD, record | {"cells": cells, "launcher": parameters, "results": str(results)})
    at_once = min(len(cells), parameters["array_parallelism"])
    log.info(
        f"{sweep}: {len(cells)} cells submitted as job {' and '.join(jobs)}, {at_once} at a time\n"
        f"follow: losslab status {sweep} watch=true\nrecord: {folder}"
    )
    return Submission(folder)


def cancel(sweep: str, results: str) -> int:
    """Cancel all queued and running jobs of a sweep; returns how many there were."""
    jobs = [job for submission in Submission.of(sweep, results) for job in submission.record["jobs"]]
    if not jobs:
        raise ValueError(f"the sweep {sweep} was not submitted to SLURM from {results}: there is nothing to cancel")
    mine = _slurm("squeue", "--noheader", "--array", "--me", f"--name={job_name(sweep)}", "--format=%A %F %i")
    queued = [line.split()[2] for line in mine.splitlines() if line.split()[1] in jobs]
    for submission in Submission.of(sweep, results):  # first: `status` reads a cancelled job's files by it
        write_json(submission.folder / RECORD, submission.record | {"cancelled": datetime.now(UTC).isoformat()})
    if queued:
        _slurm("scancel", *queued)
    return len(queued)


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
    return [sys.executable, str(code / "train.py"), *overrides, "hydra.mode=RUN", *half]


def _executor(folder: Path, code: Path, sweep: str, parameters: dict[str, Any], after: dict[str, str]) -> Any:
    import submitit

    python = shlex.quote(sys.executable)
    container = f"{parameters['container']} " if parameters["container"] else ""
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_python=f"{container}{python}")
    path = f"export PYTHONPATH={shlex.quote(str(code / 'src'))}${{PYTHONPATH:+:$PYTHONPATH}}"
    variables = {"LOSSLAB_TRIES": parameters["tries"], **parameters["environment"]}
    if parameters["cpus_per_task"]:
        variables["SRUN_CPUS_PER_TASK"] = parameters["cpus_per_task"]  # since 22.05 srun does not take it from sbatch
    exports = [path, *(f"export {name}={shlex.quote(str(value))}" for name, value in variables.items())]
    chosen = {key: value for key, value in parameters.items() if key not in OURS and value is not None}
    chosen |= {
        "setup": [TRAP_TERM, *(parameters["setup"] or []), *exports],
        "teardown": [REQUEUE_SCRIPT.replace("{folder}", shlex.quote(str(folder.resolve())))],
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
