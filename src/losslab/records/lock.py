"""Who runs a cell: one process at a time, across all machines that share the results.

The lock is flock's on `lock` in the cell's folder. It holds across machines over NFS (Linux since 2.6.12, with its lock
service), Lustre (mounted with `flock`), GPFS and BeeGFS. `holder.json` says who has it, and its time is renewed every
few seconds: a sign of life for `status.py`, and the means to notice a file system whose locks do not hold.
"""

import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from losslab.files import read_json, write_json

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # after which a holder is taken for dead
HOLDER, SUCCESSOR = "holder.json", "successor.json"


class Busy(RuntimeError):
    """Another job runs the cell."""


def job() -> str | None:
    """The SLURM job that this process is in, as `squeue` writes it; None outside of SLURM."""
    environment = os.environ
    if "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often SLURM has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a cell's folder alone.

    A process outside of SLURM waits for the one that has it. A job does not keep its machines waiting and raises Busy;
    but when an earlier start of the same job lives on where SLURM cannot reach it, that one is asked to leave.

    Raises:
        Busy: another job has the folder.
        ValueError: the file system's locks do not hold across machines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    me = {"job": job(), "restarts": restarts(), "host": host, "pid": os.getpid()}
    me["node"] = os.environ.get("SLURMD_NODENAME", host)
    with (folder / "lock").open("a") as file:
        if not _locked(file):
            other = read_json(folder / HOLDER)
            if me["job"] is None:
                print(f"another process works on {folder.name}; waiting for it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            elif other.get("job") == me["job"]:
                _succeed(folder, file, me)
            else:
                owner = f"job {other['job']}" if other.get("job") else "another process"
                raise Busy(f"{owner} on {other.get('node', 'this machine')} runs it")
        _distrust(folder, me)
        with _alive(folder, me):
            yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _succeed(folder: Path, file: TextIO, me: dict[str, Any]) -> None:
    """Wait until the earlier start of this job has left."""
    write_json(folder / SUCCESSOR, me)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    finally:
        (folder / SUCCESSOR).unlink(missing_ok=True)


def _distrust(folder: Path, me: dict[str, Any]) -> None:
    """Notice that a process on another machine is alive although its lock was ours to take."""
    path = folder / HOLDER
    other = read_json(path)
    if not other or other["host"] == me["host"] or time.time() - path.stat().st_mtime > SILENCE_SECONDS:
        return
    before = path.stat().st_mtime
    time.sleep(3 * BEAT_SECONDS)
    if path.exists() and path.stat().st_mtime != before:
        raise ValueError(
            f"{other['host']} works on {folder}, and its lock does not reach this machine: put machine.results on a "
            "file system with locks across machines (NFS with its lock service, Lustre mounted with flock)"
        )


@contextmanager
def _alive(folder: Path, me: dict[str, Any]) -> Iterator[None]:
    """Give a sign of life until the block ends, and leave when a later start of the same job wants the folder."""
    path, over = folder / HOLDER, threading.Event()
    write_json(path, me)

    def beat() -> None:
        asked = False
        while not over.wait(BEAT_SECONDS):
            with suppress(OSError):  # a disk that does not answer for a moment
                path.touch()
            successor = read_json(folder / SUCCESSOR)
            if not asked and successor.get("job") == me["job"] and successor.get("restarts", 0) > me["restarts"]:
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)
