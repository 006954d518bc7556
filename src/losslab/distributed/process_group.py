"""The processes of a cell as a group: they join, broadcast decisions, and wait for each other.

Rank 0 decides and writes the records; `decide_on_main` broadcasts its result or its exception. Messages are JSON, so
that nothing that comes over a network is executed.
"""

import atexit
import gc
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.distributed.environment import first_host, is_main_process, is_worker, node_count, node_rank, step_port

STEP_TIMEOUT = timedelta(minutes=30)  # of a collective in a training step, and of the nodes' rendezvous
LONG_TIMEOUT = timedelta(days=7)  # of a wait for what one process does for all, such as downloading and scoring
LEAVE_SECONDS = 10.0
POLL_SECONDS = 0.5
T = TypeVar("T")  # a value that JSON can represent
_messages = itertools.count()  # the number of the next message; the same on all nodes


class WorkerError(RuntimeError):
    """A worker failed: its rank and error, and the worker's own traceback."""

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


def init_process_group(machine: MachineConfig) -> torch.device:
    """Join the other ranks, once per process, as the environment variables say; returns this rank's device."""
    cuda = machine.device == Device.cuda or (machine.device == Device.auto and torch.cuda.is_available())
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.device_count() == 1:  # under `srun --gpus-per-task=1` each process sees only its own GPU
        local = 0
    if cuda:
        torch.cuda.set_device(local)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=STEP_TIMEOUT, device_id=device if cuda else None)
    return device


def release_memory() -> None:
    """Free this rank's cached memory after training, since the evaluation's engine needs it next."""
    gc.collect()
    torch.cuda.empty_cache()


def decide_on_main(machine: MachineConfig, decide: Callable[[], T]) -> T:
    """The result of `decide()` on rank 0, on every process.

    Its exception is raised on rank 0, and as WorkerError elsewhere.
    """
    if is_worker():
        init_process_group(machine)
        return _decide(decide, _broadcast)
    return _decide(decide, _publish) if node_count() > 1 else decide()


def _decide(decide: Callable[[], T], send: Callable[[Any], Any]) -> T:
    """Run `decide` on rank 0 and send (result, error message) to the others."""
    if not is_main_process():
        result, failure = send(None)
        if failure is not None:
            raise WorkerError(f"rank 0: {failure}", "")
        return result
    try:
        result = decide()
    except BaseException as error:
        send((None, str(error) or type(error).__name__))
        raise
    send((result, None))
    return result


def _broadcast(message: Any) -> Any:
    """Rank 0's message on every rank, by a collective."""
    text = torch.tensor(list(json.dumps(message).encode()), dtype=torch.uint8)
    size = torch.tensor([len(text)])
    dist.broadcast(size, src=0, group=_patient_group())
    if not is_main_process():
        text = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(text, src=0, group=_patient_group())
    return json.loads(bytes(text.tolist()))


def _publish(message: Any) -> Any:
    """The first node's message on every node, by the store."""
    key = f"decided/{next(_messages)}"
    if is_main_process():
        store().set(key, json.dumps(message))
        return message
    return _wait_for(key)


def _wait_for(key: str) -> Any:
    """The value of a key of the store once it is set. Polls, so that signals are handled meanwhile."""
    while not store().check([key]):
        time.sleep(POLL_SECONDS)
    return json.loads(store().get(key))


def gather_from_nodes(value: T) -> list[T]:
    """The values of all nodes in node order, on every node."""
    number = next(_messages)
    store().set(f"gathered/{number}/{node_rank()}", json.dumps(value))
    return [_wait_for(f"gathered/{number}/{node}") for node in range(node_count())]


def all_equal(machine: MachineConfig, text: str) -> bool:
    """Whether every process passes the same text."""
    if not is_worker():
        return node_count() == 1 or len(set(gather_from_nodes(text))) == 1
    init_process_group(machine)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
    extremes = torch.tensor([number, -number])
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=_patient_group())
    return bool(extremes.sum() == 0)


@contextmanager
def barrier_at_end() -> Iterator[None]:
    """Ranks wait for each other at the end of the block, however long one of them takes in it. Called on every rank."""
    group = _patient_group()  # before the block: making a group is a collective itself
    yield
    dist.barrier(group)


@cache
def _patient_group() -> dist.ProcessGroup:
    """All ranks over gloo with LONG_TIMEOUT, whatever the backend of training."""
    return dist.new_group(backend="gloo", timeout=LONG_TIMEOUT)


@cache
def store() -> dist.TCPStore:
    """The key-value store of the processes on the nodes, held by the first one, which leaves last."""
    tcp = dist.TCPStore(first_host(), step_port(), node_count(), is_master=node_rank() == 0, timeout=STEP_TIMEOUT)
    tcp.set_timeout(LONG_TIMEOUT)
    atexit.register(_leave, tcp)
    return tcp


def _leave(tcp: dist.TCPStore) -> None:
    """At the end of a process: the first node stays until the others have read why, and ended too.

    Not for longer than `LEAVE_SECONDS`, since another node may be at work, or dead.
    """
    if node_rank():
        with suppress(dist.DistError):  # the first node is gone
            tcp.set(f"left/{node_rank()}", "")
        return
    others, limit = [f"left/{node}" for node in range(1, node_count())], time.monotonic() + LEAVE_SECONDS
    while not tcp.check(others) and time.monotonic() < limit:
        time.sleep(POLL_SECONDS)
