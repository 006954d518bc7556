"""Starts the workers of a cell: torch's elastic launcher on this machine, or the processes that are there already."""

import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from losslab.schema import Device, MachineConfig

PRELOAD = ["losslab.loop"]  # imported once by the fork server, so that the cells of a sweep start at once
REQUEUE = 75  # EX_TEMPFAIL: start the same command again and it goes on
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PATIENCE = timedelta(minutes=30)  # that a rank waits for the others in a step
T = TypeVar("T")
SHUTDOWN_SECONDS = "600"  # how long a worker that was asked to leave may take for its checkpoint


class WorkerError(RuntimeError):
    """A worker failed: the rank with its error, and the worker's own traceback."""

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


class Interrupted(SystemExit):
    """The run was asked to leave and did, with a checkpoint behind it. As an exit status it asks for a requeue."""

    def __init__(self) -> None:
        super().__init__(REQUEUE)


def launch(worker: Callable[..., None], *args: object, machine: MachineConfig, logs: Path) -> None:
    """Run `worker(*args)` on every rank. Raises WorkerError with the first error of a rank, or Interrupted.

    Under torchrun or srun the ranks are the processes that were started, and `worker` runs in this one.
    """
    if joined():
        worker(*args)
        gc.collect()
        torch.cuda.empty_cache()  # the evaluator's engine comes next
        return
    multiprocessing.set_forkserver_preload(PRELOAD)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # or the fork server takes our tabulate.py for the library
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: a quarter off the head's time on a CPU
    workers = count(machine)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="losslab",
        local_addr="localhost",
        start_method="forkserver",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(
            log_dir=str(logs) if workers > 1 else None, redirects={rank: Std.ALL for rank in range(1, workers)}
        ),
    )
    for noisy in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # they repeat what we raise
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        elastic_launch(config, _run)(os.getpid(), worker, *args)
    except SignalException:
        raise Interrupted from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == REQUEUE:
            raise Interrupted from None
        report: Any = failure.message  # what `record` wrote, or a text about the exit code
        if isinstance(report, dict):
            raise WorkerError(f"rank {rank}: {report['message']}", report["extraInfo"]["py_callstack"]) from None
        raise WorkerError(f"rank {rank} died with exit code {failure.exitcode}", "") from None
    finally:  # the launcher leaves its own behind
        for number, handler in handlers.items():
            signal.signal(number, handler)


@record
def _run(launcher: int, worker: Callable[..., None], *args: object) -> None:
    threading.Thread(target=_leave_with, args=(launcher,), daemon=True).start()
    try:
        worker(*args)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _leave_with(launcher: int) -> None:
    """End this worker when the process that started it is gone: a new one may begin where it was."""
    while True:
        time.sleep(1)
        try:
            os.kill(launcher, 0)
        except ProcessLookupError:
            os._exit(1)


def join(machine: MachineConfig) -> torch.device:
    """Take this rank's device and join the other ranks, once in a process; the environment says where they are."""
    cuda = machine.device == Device.cuda or (machine.device == Device.auto and torch.cuda.is_available())
    local = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    return torch.device("cuda", local) if cuda else torch.device("cpu")


@cache
def _conversation() -> dist.ProcessGroup:
    """A group in which ranks wait for rank 0 as long as it takes, whatever the backend of training."""
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))


def agree(machine: MachineConfig, decide: Callable[[], T]) -> T:
    """What rank 0 finds, on every rank of processes that somebody else started; its failure is one everywhere."""
    if not joined():
        return decide()
    join(machine)
    found: list[Any] = [None, None]
    failure: Exception | None = None
    if main_process():
        try:
            found[0] = decide()
        except Exception as error:
            failure, found[1] = error, str(error)
    dist.broadcast_object_list(found, src=0, group=_conversation())
    if failure is not None:
        raise failure
    if found[1] is not None:
        raise WorkerError(f"rank 0: {found[1]}", "")
    return found[0]


def count(machine: MachineConfig) -> int:
    """Workers on this machine: as asked for, else one per GPU, else one."""
    if machine.workers is not None:
        return machine.workers
    return max(1, torch.cuda.device_count()) if machine.device != Device.cpu else 1


def joined() -> bool:
    """Whether somebody else started this process as one rank among others."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def main_process() -> bool:
    """Whether this process writes records: the only one, or rank 0."""
    return int(os.environ.get("RANK", "0")) == 0


def join_slurm() -> None:
    """Translate the variables of `srun` with several tasks into those that torch reads."""
    environment = os.environ
    if joined() or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    hosts = subprocess.run(
        ["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]], capture_output=True, text=True, check=True
    )
    environment.update(
        RANK=environment["SLURM_PROCID"],
        WORLD_SIZE=environment["SLURM_STEP_NUM_TASKS"],
        LOCAL_RANK=environment["SLURM_LOCALID"],
        LOCAL_WORLD_SIZE=environment["SLURM_STEP_TASKS_PER_NODE"].split("(")[0].split(",")[0],
        MASTER_ADDR=hosts.stdout.split()[0],
        MASTER_PORT=environment.get("MASTER_PORT", str(20000 + int(environment["SLURM_JOB_ID"]) % 20000)),
    )
