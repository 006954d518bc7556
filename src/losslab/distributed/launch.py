"""Starts the workers of a cell with torch's elastic launcher, on this machine or on every node of a SLURM job.

Under torchrun, or srun with one task for each rank, this process is a worker itself. A request to stop is forwarded to
the workers: they save a checkpoint and exit, and `launch` raises Interrupted.
"""

import itertools
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, PContext, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from losslab.config.choices import Device
from losslab.config.log import log
from losslab.config.machine import MachineConfig
from losslab.distributed import fork_server
from losslab.distributed.environment import first_host, is_main_process, is_worker, node_count, node_rank
from losslab.distributed.process_group import WorkerError, decide_on_main, gather_from_nodes, release_memory, store
from losslab.distributed.signals import (
    REQUEUE,
    STOP_SIGNALS,
    WORKER_STOP_SIGNALS,
    Interrupted,
    heeded,
)
from losslab.distributed.worker import run_worker
from losslab.distributed.worker_count import workers_per_node
from losslab.files.json_files import read_json
from losslab.files.locks import lock

PRELOAD = ["losslab.training.loop"]  # which the workers need
SHUTDOWN_SECONDS = 600  # that a worker may take to save its checkpoint after a stop request
_launches = itertools.count()  # the number of the next launch; the same on all nodes


def launch(worker: Callable[..., None], *args: object, machine: MachineConfig, logs: Path) -> None:
    """Run `worker(*args)` on every rank. Raises WorkerError with the first error of a rank, or Interrupted.

    Ranks are separate processes, and all but rank 0 write to `logs`; under torchrun, or srun with one task for
    each rank, `worker` runs in this process. Called on every node.
    """
    if is_worker():
        worker(*args)
        release_memory()
        return
    failure = _launch_on_node(worker, args, machine, logs)
    if node_count() > 1:
        reports = gather_from_nodes(asdict(failure) if failure else None)
        failures = [Failure(**report) for report in reports if report is not None]
        failure = min(failures, key=lambda failure: (failure.message is None, failure.time), default=None)
    if failure is not None:
        raise Interrupted if failure.message is None else WorkerError(failure.message, failure.trace)


def launch_without(file: Path, worker: Callable[..., None], *args: object, machine: MachineConfig) -> None:
    """Run `worker(*args)`, which writes `file`, on every rank if there is no such file yet; errors are those of
    `launch`.

    Cells that run at the same time make the file once: the others wait for it. Called by every process of a cell.
    """
    logs = file.with_suffix("")
    with lock(logs, quiet=True) if is_main_process() else nullcontext():
        if decide_on_main(machine, lambda: not file.exists()):
            launch(worker, *args, machine=machine, logs=logs)


@dataclass(frozen=True)
class Failure:
    """How the workers of a node failed or were stopped."""

    time: float
    message: str | None = None  # None: they were asked to stop
    trace: str = ""


def _launch_on_node(worker: Callable[..., None], args: tuple, machine: MachineConfig, logs: Path) -> Failure | None:
    """Run the workers of this node to their end; returns the failure, or None."""
    failed = f"failed/{next(_launches)}"  # a key of the store, which the nodes keep for all of their launches
    gpus = 0 if machine.device == Device.cpu else torch.cuda.device_count()
    if gpus and workers_per_node(machine) > gpus:
        raise ValueError(f"machine.workers={machine.workers}, but {gpus} GPUs are visible here: lower it")
    fork_server.start(PRELOAD)
    fork_server.wait()  # a worker that is requested earlier would start, and log a failure, after a request to stop
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they would log the exception that is raised here again
    forwarded = heeded(WORKER_STOP_SIGNALS)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGQUIT, *forwarded)}
    try:
        for number in forwarded:
            signal.signal(number, _forward_stop)
        logs.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="losslab-") as errors:
            config = _launch_config(machine, WorkerLogs(logs, errors))
            try:
                with _stop_when_another_node_fails(failed):
                    elastic_launch(config, run_worker)(worker, *args)
            except (SignalException, Interrupted):
                handlers |= dict.fromkeys(STOP_SIGNALS, signal.SIG_IGN)  # this process is stopping
                for file in Path(errors).rglob("error.json"):
                    log.warning(f"a worker failed while it was stopping: {read_json(file)['message']['message']}")
                return Failure(time.time())
            except ChildFailedError as error:
                if node_count() > 1:
                    store().set(failed, "yes")
                return _failure_of(error)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return None


def _launch_config(machine: MachineConfig, logs: DefaultLogsSpecs) -> LaunchConfig:
    nodes = node_count()
    port = decide_on_main(machine, _free_port) if nodes > 1 else 0
    return LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=workers_per_node(machine),
        rdzv_backend="static" if nodes > 1 else "c10d",
        rdzv_endpoint=f"{first_host()}:{port}" if nodes > 1 else "localhost:0",
        rdzv_configs={"rank": node_rank()} if nodes > 1 else {},
        run_id="losslab",
        local_addr=None if nodes > 1 else "localhost",
        start_method="forkserver",
        max_restarts=0,
        logs_specs=logs,
        signals_to_handle="SIGQUIT",  # this module handles the others
        **_shutdown_timeout(),
    )


def _shutdown_timeout() -> dict[str, Any]:
    """The option of LaunchConfig that gives workers SHUTDOWN_SECONDS to stop.

    torch 2.11 does not have it: there the limit is a default argument of the class that holds the workers.
    """
    seconds = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS))
    if "shutdown_timeout" in LaunchConfig.__dataclass_fields__:
        return {"shutdown_timeout": seconds}
    PContext.close.__defaults__ = (None, seconds)  # of (death_sig, timeout)
    return {}


class StopForwarded(SignalException, Interrupted):
    """Raised on a stop signal: torch's launcher stops its workers on it; everywhere else it acts as Interrupted."""

    def __init__(self, number: int) -> None:
        SignalException.__init__(self, f"asked to stop by {signal.Signals(number).name}", sigval=signal.SIGTERM)
        self.code = REQUEUE


def _forward_stop(number: int, frame: FrameType | None) -> None:
    """Make torch's launcher stop its workers, once: SLURM sends the signal twice, and the second must not kill them."""
    for forwarded in WORKER_STOP_SIGNALS:
        signal.signal(forwarded, signal.SIG_IGN)
    raise StopForwarded(number)


def _failure_of(error: ChildFailedError) -> Failure:
    rank, failure = error.get_first_failure()
    if failure.exitcode == REQUEUE or -failure.exitcode in STOP_SIGNALS:  # the latter before its handler was set
        return Failure(failure.timestamp)
    report: Any = failure.message  # what torch's `record` wrote, or a text about the exit code
    if isinstance(report, dict):
        return Failure(failure.timestamp, f"rank {rank}: {report['message']}", report["extraInfo"]["py_callstack"])
    return Failure(failure.timestamp, f"rank {rank} died with exit code {failure.exitcode}")


@contextmanager
def _stop_when_another_node_fails(failed: str) -> Iterator[None]:
    """Stop the workers of this node when those of another fail, for which they would otherwise wait until a timeout.

    The other node says so by the key `failed` of the store.
    """
    if node_count() == 1:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            if store().check([failed]):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class WorkerLogs(DefaultLogsSpecs):
    """Rank 0 writes to this process's streams, rank N to rank-N.out and rank-N.err."""

    def __init__(self, folder: Path, errors: str) -> None:
        super().__init__(log_dir=errors, redirects=Std.NONE)
        self.folder = folder

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        destinations = super().reify(envs)
        for local, environment in envs.items():
            if (rank := int(environment["RANK"])) > 0:
                destinations.stdouts[local] = str(self.folder / f"rank-{rank}.out")
                destinations.stderrs[local] = str(self.folder / f"rank-{rank}.err")
        return destinations


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
