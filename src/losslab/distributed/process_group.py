"""The processes that run a cell together: one alone, one on each node of a SLURM job, or one for each rank.

The first one decides and keeps the records (`main_process`); the others hear what it decided (`agree`). What they tell
each other is JSON: nothing that comes over a network is run.
"""

import gc
import hashlib
import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from losslab.config.schema import Device, MachineConfig

PATIENCE = timedelta(minutes=30)  # that a rank waits for the others in a step, and a node for the first one to come
FOREVER = timedelta(days=7)  # what one process may take for all, such as downloading and scoring
POLL_SECONDS = 0.5
T = TypeVar("T")  # what JSON has a form for
_talks = itertools.count()  # what was agreed on so far, alike on all nodes


class WorkerError(RuntimeError):
    """A worker failed: the rank with its error, and the worker's own traceback."""

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


def joined() -> bool:
    """Whether somebody else started this process as one rank among others."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def nodes() -> int:
    """Processes of this cell that are one on each node, as `srun --ntasks-per-node=1` starts them; else 1."""
    tasks, machines = (int(os.environ.get(f"SLURM_STEP_NUM_{name}", "1")) for name in ("TASKS", "NODES"))
    return machines if tasks == machines and not joined() else 1


def node() -> int:
    """The place of this process among `nodes()`."""
    return int(os.environ["SLURM_PROCID"]) if nodes() > 1 else 0


def main_process() -> bool:
    """Whether this process writes records: the only one, or the first."""
    return node() == 0 and int(os.environ.get("RANK", "0")) == 0


def join(machine: MachineConfig) -> torch.device:
    """Take this rank's device and join the other ranks, once in a process; the environment says where they are."""
    cuda = machine.device == Device.cuda or (machine.device == Device.auto and torch.cuda.is_available())
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.device_count() == 1:  # as under `srun --gpus-per-task=1`, where each process sees its own
        local = 0
    if cuda:
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    return torch.device("cuda", local) if cuda else torch.device("cpu")


def cores() -> int:
    """CPU cores that this process may use: on a shared machine, those that a scheduler gave it."""
    allowed = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def rest() -> None:
    """Give this rank's memory back after training: the evaluator's engine comes next."""
    gc.collect()
    torch.cuda.empty_cache()


def agree(machine: MachineConfig, decide: Callable[[], T]) -> T:
    """What the first process finds, on all of them; its failure is one everywhere."""
    if joined():
        join(machine)
        return _told(decide, _broadcast)
    return _told(decide, _announce) if nodes() > 1 else decide()


def _told(decide: Callable[[], T], tell: Callable[[Any], Any]) -> T:
    """Run `decide` on the first process and hand (what it found, its failure) to the others."""
    if not main_process():
        found, failure = tell(None)
        if failure is not None:
            raise WorkerError(f"rank 0: {failure}", "")
        return found
    try:
        found = decide()
    except BaseException as error:
        tell((None, str(error) or type(error).__name__))
        raise
    tell((found, None))
    return found


def _broadcast(message: Any) -> Any:
    text = torch.tensor(list(json.dumps(message).encode()), dtype=torch.uint8)
    size = torch.tensor([len(text)])
    dist.broadcast(size, src=0, group=_conversation())
    if not main_process():
        text = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(text, src=0, group=_conversation())
    return json.loads(bytes(text.tolist()))


def _announce(message: Any) -> Any:
    key = f"agreed/{next(_talks)}"
    if main_process():
        store().set(key, json.dumps(message))
        return message
    return _await(key)


def _await(key: str) -> Any:
    """The value of a key, once it is there; signals are heard meanwhile."""
    while not store().check([key]):
        time.sleep(POLL_SECONDS)
    return json.loads(store().get(key))


def exchange(value: T) -> list[T]:
    """The values of all nodes, in their order, on every node."""
    talk = next(_talks)
    store().set(f"exchanged/{talk}/{node()}", json.dumps(value))
    return [_await(f"exchanged/{talk}/{other}") for other in range(nodes())]


def alike(machine: MachineConfig, mine: str) -> bool:
    """Whether all processes say the same."""
    if not joined():
        return nodes() == 1 or len(set(exchange(mine))) == 1
    join(machine)
    number = int.from_bytes(hashlib.sha256(mine.encode()).digest()[:7])
    ends = torch.tensor([number, -number])
    dist.all_reduce(ends, dist.ReduceOp.MAX, group=_conversation())
    return bool(ends.sum() == 0)


@contextmanager
def waiting() -> Iterator[None]:
    """Ranks wait at the end of the block for each other, however long one takes in it. Called on every rank."""
    group = _conversation()  # first, as ranks meet to make it too
    yield
    dist.barrier(group)


@cache
def _conversation() -> dist.ProcessGroup:
    """A group in which ranks wait for each other as long as it takes, whatever the backend of training."""
    return dist.new_group(backend="gloo", timeout=FOREVER)


@cache
def store() -> dist.TCPStore:
    """What the processes on the nodes write for each other; the first one holds it."""
    found = dist.TCPStore(first_host(), port(), nodes(), is_master=node() == 0, timeout=PATIENCE)
    found.set_timeout(FOREVER)
    return found


def first_host() -> str:
    """The address of the first node of this SLURM step."""
    names = _scontrol("hostnames", os.environ["SLURM_STEP_NODELIST"])
    facts = re.search(r"NodeAddr=(\S+)", _scontrol("node", names.split()[0]))
    return facts[1] if facts else names.split()[0]


def port() -> int:
    """A port that the processes of a SLURM step know without a word, and other steps on the machine do not use."""
    step = int(os.environ["SLURM_JOB_ID"]) * 7 + int(os.environ.get("SLURM_STEP_ID", "0"))
    return int(os.environ.get("MASTER_PORT", 20000 + step % 12000))


def _scontrol(*what: str) -> str:
    try:
        return subprocess.run(["scontrol", "show", *what], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise ValueError(f"several nodes meet through scontrol ({error}): a container must have it") from None


def join_slurm() -> None:
    """Translate the variables of `srun` with a task for each rank into those that torch reads."""
    environment = os.environ
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if joined() or tasks == 1 or tasks == nodes():
        return
    environment.update(
        RANK=environment["SLURM_PROCID"],
        WORLD_SIZE=str(tasks),
        LOCAL_RANK=environment["SLURM_LOCALID"],
        LOCAL_WORLD_SIZE=str(per_node(environment["SLURM_STEP_TASKS_PER_NODE"])[int(environment["SLURM_NODEID"])]),
        MASTER_ADDR=first_host(),
        MASTER_PORT=str(port()),
    )


def per_node(tasks: str) -> list[int]:
    """SLURM's short form of the tasks on each node, written out: `2(x3),1` is 2, 2, 2, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks)
    return [int(number) for number, times in found for _ in range(int(times or 1))]
