"""Starts the workers of a cell with torch's elastic launcher, on this machine or on all nodes of a SLURM job.

Where somebody else started a process for each rank, this one is a worker itself. A signal that asks the cell to leave
reaches its workers from here: they save a checkpoint and end, and `launch` raises Interrupted.
"""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, PContext, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from losslab.config.schema import Device, MachineConfig
from losslab.distributed import process_group
from losslab.distributed.process_group import WorkerError

PRELOAD = ["losslab.training.loop"]  # imported once by the fork server, so that the cells of a sweep start at once
REQUEUE = 75  # EX_TEMPFAIL: start the same command again and it goes on
LEAVE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # the requests to leave; SLURM sends each of them
ASKED = (*LEAVE, signal.SIGINT)  # those that a worker hears
HANDLED = (*ASKED, signal.SIGHUP)
SHUTDOWN_SECONDS = 600  # how long a worker that was asked to leave may take for its checkpoint
MANNERS_SECONDS = 3  # that a rank which lost another one lets that one speak first


class Interrupted(SystemExit):
    """The run was asked to leave and did, with a checkpoint behind it. As an exit status it asks for a requeue."""

    def __init__(self) -> None:
        super().__init__(REQUEUE)


@contextmanager
def leaving(requests: tuple[signal.Signals, ...] = LEAVE) -> Iterator[None]:
    """Raise Interrupted in the block when the process is asked to leave, once; further requests are not heard."""

    def leave(number: int, frame: FrameType | None) -> None:
        ignore_signals()
        raise Interrupted

    before = {number: signal.signal(number, leave) for number in requests}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Do not hear requests to leave any more: the process is about to."""
    for number in LEAVE:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def shielded() -> Iterator[None]:
    """What is started in the block does not hear requests to leave.

    SLURM sends them, and a terminal Ctrl-C, to every process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def launch(worker: Callable[..., None], *args: object, machine: MachineConfig, logs: Path) -> None:
    """Run `worker(*args)` on every rank. Raises WorkerError with the first error of a rank, or Interrupted.

    Under torchrun, or srun with a task for each rank, `worker` runs in this process. Else ranks are processes, and
    those but rank 0 write to `logs`. Called on every node.
    """
    if process_group.joined():
        worker(*args)
        process_group.rest()
        return
    failure = _on_this_node(worker, args, machine, logs)
    if process_group.nodes() > 1:
        failures = [
            Failure(**one) for one in process_group.exchange(asdict(failure) if failure else None) if one is not None
        ]
        failure = min(failures, key=lambda one: (one.message is None, one.when), default=None)
    if failure is not None:
        raise Interrupted if failure.message is None else WorkerError(failure.message, failure.trace)


def _stop(number: int, frame: FrameType | None) -> None:
    """Make torch's launcher end its workers, once: SLURM asks twice, and a second time would not let them finish."""
    for one in HANDLED:
        signal.signal(one, signal.SIG_IGN)
    raise SignalException(f"asked to leave by {signal.Signals(number).name}", sigval=signal.SIGTERM)


@dataclass(frozen=True)
class Failure:
    """How the workers of a node ended, if not well."""

    when: float
    message: str | None = None  # None: they were asked to leave
    trace: str = ""


def _on_this_node(worker: Callable[..., None], args: tuple, machine: MachineConfig, logs: Path) -> Failure | None:
    """Run the workers of this node to their end; returns how they failed."""
    gpus = 0 if machine.device == Device.cpu else torch.cuda.device_count()
    if gpus and count(machine) > gpus:
        raise ValueError(f"machine.workers={machine.workers}, but {gpus} GPUs are visible here: lower it")
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # or the fork server takes our evaluate.py for the library
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: a quarter off the head's time on a CPU
    multiprocessing.set_forkserver_preload(PRELOAD)
    with shielded():
        resource_tracker.ensure_running()  # it ends by unblocking SIGTERM, so the fork server has a shield of its own
    with shielded():
        forkserver.ensure_running()
    nodes = process_group.nodes()
    port = process_group.agree(machine, _free_port) if nodes > 1 else 0
    for noisy in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # they repeat what we raise
    handlers = {signal.SIGQUIT: signal.getsignal(signal.SIGQUIT)}
    handlers |= {number: signal.signal(number, _stop) for number in HANDLED}
    logs.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="losslab-") as errors:
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=count(machine),
            rdzv_backend="static" if nodes > 1 else "c10d",
            rdzv_endpoint=f"{process_group.first_host()}:{port}" if nodes > 1 else "localhost:0",
            rdzv_configs={"rank": process_group.node()} if nodes > 1 else {},
            run_id="losslab",
            local_addr=None if nodes > 1 else "localhost",
            start_method="forkserver",
            max_restarts=0,
            logs_specs=Logs(logs, errors),
            signals_to_handle="SIGQUIT",  # the others are ours
            **_shutdown_timeout(),
        )
        try:
            with _following():
                elastic_launch(config, _run)(worker, *args)
        except (SignalException, Interrupted):
            handlers |= dict.fromkeys(LEAVE, signal.SIG_IGN)  # it is leaving
            return Failure(time.time())
        except ChildFailedError as error:
            failure = _failure(error)
            if nodes > 1:
                process_group.store().set("failed", "yes")
            return failure
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return None


def _shutdown_timeout() -> dict[str, int]:
    """The option of LaunchConfig that gives workers SHUTDOWN_SECONDS to leave.

    torch 2.11 does not have it: there the limit is a default argument of the class that holds the workers.
    """
    seconds = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS))
    if "shutdown_timeout" in LaunchConfig.__dataclass_fields__:
        return {"shutdown_timeout": seconds}
    PContext.close.__defaults__ = (None, seconds)  # of (death_sig, timeout)
    return {}


def _failure(error: ChildFailedError) -> Failure:
    rank, failure = error.get_first_failure()
    if failure.exitcode == REQUEUE or -failure.exitcode in LEAVE:  # the latter before it could listen
        return Failure(failure.timestamp)
    report: Any = failure.message  # what `record` wrote, or a text about the exit code
    if isinstance(report, dict):
        return Failure(failure.timestamp, f"rank {rank}: {report['message']}", report["extraInfo"]["py_callstack"])
    return Failure(failure.timestamp, f"rank {rank} died with exit code {failure.exitcode}")


@contextmanager
def _following() -> Iterator[None]:
    """End the workers of this node when those of another one failed: they might wait for each other for long."""
    if process_group.nodes() == 1:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            if process_group.store().check(["failed"]):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Logs(DefaultLogsSpecs):
    """Rank 0 writes where this process does, rank N to rank-N.out and rank-N.err."""

    def __init__(self, folder: Path, errors: str) -> None:
        super().__init__(log_dir=errors, redirects=Std.NONE)
        self.folder = folder

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        found = super().reify(envs)
        for local, environment in envs.items():
            if (rank := int(environment["RANK"])) > 0:
                found.stdouts[local] = str(self.folder / f"rank-{rank}.out")
                found.stderrs[local] = str(self.folder / f"rank-{rank}.err")
        return found


@record
def _run(worker: Callable[..., None], *args: object) -> None:
    threading.Thread(target=_leave_with_launcher, daemon=True).start()
    try:
        with leaving(ASKED):  # until the worker knows better: before its first step there is nothing to save
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)  # what came before is heard now
            worker(*args)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # it lost a rank, whose error is the one to tell
            time.sleep(MANNERS_SECONDS)
        if "Timed out" in str(error):  # and that one has none to tell
            minutes = process_group.PATIENCE.total_seconds() / 60
            raise TimeoutError(
                f"no answer from another rank for {minutes:g} minutes: it hangs, or its machine does; see where, and "
                "start the same again to go on from the newest checkpoint"
            ) from error
        raise
    if dist.is_initialized():  # not after an error: NCCL's would wait for ranks that wait for this one
        dist.destroy_process_group()


def _leave_with_launcher() -> None:
    """End this worker when the process that started it is gone: a new one may begin where it was.

    What tells is a pipe that closes with that process. Its number would not: that of a killed process stays until it is
    waited for, and may be another one's then.
    """
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)


def count(machine: MachineConfig) -> int:
    """Workers on this machine: as asked for, else one per GPU, else one."""
    if machine.workers is not None:
        return machine.workers
    return max(1, torch.cuda.device_count()) if machine.device != Device.cpu else 1


def devices(machine: MachineConfig) -> int:
    """Workers of a run on all nodes."""
    return int(os.environ["WORLD_SIZE"]) if process_group.joined() else count(machine) * process_group.nodes()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
