"""The lock of a cell's folder: one process at a time, across all machines that share the results.

It is an `flock` on the file `lock`, which works across machines on NFS (Linux since 2.6.12, with its lock service),
Lustre (mounted with `flock`), GPFS and BeeGFS. `holder.json` names the process that holds the lock; its modification
time is updated every few seconds, as a heartbeat for `status` and to detect a file system whose locks do not reach
other machines.
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

from losslab.config.log import log
from losslab.files.json_files import read_json, write_json
from losslab.files.record_names import RECORD_VERSION

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 60.0  # without a heartbeat
HOLDER, SUCCESSOR = "holder.json", "successor.json"


class Busy(RuntimeError):
    """Another job holds the cell."""


def slurm_job() -> str | None:
    """The SLURM job of this process, as `squeue` prints it; None outside of SLURM."""
    environment = os.environ
    if "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def slurm_restarts() -> int:
    """How often SLURM has restarted this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


@contextmanager
def cell_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a cell's folder in the block.

    Outside of SLURM the process waits for the lock. A SLURM job does not wait, since it would occupy its nodes: it
    raises Busy. If the holder is an earlier start of the same job (on a node that SLURM lost contact with), that one is
    asked to stop, and this one waits for it.

    Raises:
        Busy: another job holds the lock.
        ValueError: the locks of the file system do not reach other machines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    this = {"job": slurm_job(), "restarts": slurm_restarts(), "host": host, "pid": os.getpid()}
    this["version"] = RECORD_VERSION
    this["node"] = os.environ.get("SLURMD_NODENAME", host)
    with (folder / "lock").open("a") as file:
        if not _acquired(file):
            holder = read_json(folder / HOLDER)
            if this["job"] is None:
                log.info(f"waiting for another process that is running {folder.name}")
                fcntl.flock(file, fcntl.LOCK_EX)
            elif holder.get("job") == this["job"]:
                _wait_for_predecessor(folder, file, this)
            else:
                owner = f"job {holder['job']}" if holder.get("job") else "another process"
                raise Busy(f"{owner} on {holder.get('node', 'this machine')} runs it")
        _check_reach(folder, this)
        with _heartbeat(folder, this):
            yield


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of a cell's folder."""
    try:
        with (folder / "lock").open() as file:
            return not _acquired(file)  # it is released as the file is closed
    except FileNotFoundError:
        return False


def _acquired(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_predecessor(folder: Path, file: TextIO, this: dict[str, Any]) -> None:
    """Ask the earlier start of this job to stop, and wait for its lock."""
    write_json(folder / SUCCESSOR, this)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    finally:
        (folder / SUCCESSOR).unlink(missing_ok=True)


def _check_reach(folder: Path, this: dict[str, Any]) -> None:
    """Raise ValueError if a process on another machine still sends heartbeats although this one got the lock."""
    path = folder / HOLDER
    holder = read_json(path)
    if not holder or holder["host"] == this["host"] or time.time() - path.stat().st_mtime > DEAD_AFTER_SECONDS:
        return
    before = path.stat().st_mtime
    time.sleep(3 * HEARTBEAT_SECONDS)
    if path.exists() and path.stat().st_mtime != before:
        raise ValueError(
            f"{holder['host']} is running {folder}, but its lock does not reach this machine: put machine.results on a "
            "file system with locks across machines (NFS with its lock service, Lustre mounted with flock)"
        )


@contextmanager
def _heartbeat(folder: Path, this: dict[str, Any]) -> Iterator[None]:
    """Send heartbeats in the block, and SIGTERM to this process when a later start of the job asks for the lock."""
    path, over = folder / HOLDER, threading.Event()
    write_json(path, this)

    def beat() -> None:
        stopping = False
        while not over.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a disk that does not answer for a moment
                path.touch()
            successor: dict[str, Any] = {}
            with suppress(OSError, ValueError):
                successor = read_json(folder / SUCCESSOR)
            if not stopping and successor.get("job") == this["job"] and successor.get("restarts", 0) > this["restarts"]:
                stopping = True
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)
