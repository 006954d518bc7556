"""Which process of a cell this is, from the variables of torchrun, of srun, or of neither.

A cell runs in one of three ways: in one process that starts a worker for each device; in one such process on each node
of a SLURM job (`srun --ntasks-per-node=1`); or in one process for each rank, started by torchrun or srun.
"""

import os
import re
import subprocess


def is_worker() -> bool:
    """Whether torchrun or srun started this process as one rank of several."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def node_count() -> int:
    """Nodes on which this cell has one process each, as `srun --ntasks-per-node=1` starts them; else 1."""
    tasks, machines = (int(os.environ.get(f"SLURM_STEP_NUM_{name}", "1")) for name in ("TASKS", "NODES"))
    return machines if tasks == machines and not is_worker() else 1


def node_rank() -> int:
    """The index of this process among the `node_count()` processes."""
    return int(os.environ["SLURM_PROCID"]) if node_count() > 1 else 0


def is_main_process() -> bool:
    """Whether this process writes the records: rank 0 of node 0."""
    return node_rank() == 0 and (not is_worker() or int(os.environ["RANK"]) == 0)


def check_launch() -> None:
    """Refuse, with ValueError, half of torchrun's variables: processes that take part in nothing would each run the
    whole cell, and write one record.
    """
    several = os.environ.get("WORLD_SIZE", "") not in ("", "1") or os.environ.get("RANK", "") not in ("", "0")
    if several and "LOCAL_RANK" not in os.environ:
        raise ValueError("RANK and WORLD_SIZE are set without LOCAL_RANK: start this with torchrun, or unset them")


def available_cores() -> int:
    """CPU cores that this process may use; on a shared machine those that the scheduler assigned."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def adopt_srun_variables() -> None:
    """Set the variables that torch reads from those of `srun` with one task for each rank."""
    environment = os.environ
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if is_worker() or tasks == 1 or tasks == node_count():
        return
    environment.update(
        RANK=environment["SLURM_PROCID"],
        WORLD_SIZE=str(tasks),
        LOCAL_RANK=environment["SLURM_LOCALID"],
        LOCAL_WORLD_SIZE=str(
            tasks_of_nodes(environment["SLURM_STEP_TASKS_PER_NODE"])[int(environment["SLURM_NODEID"])]
        ),
        MASTER_ADDR=first_host(),
        MASTER_PORT=str(step_port()),
    )


def tasks_of_nodes(tasks: str) -> list[int]:
    """The tasks on each node from SLURM's short form: `2(x3),1` is [2, 2, 2, 1]."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks)
    return [int(number) for number, times in groups for _ in range(int(times or 1))]


def first_host() -> str:
    """The address of the first node of this SLURM step. Raises ValueError without scontrol."""
    names = _scontrol("hostnames", os.environ["SLURM_STEP_NODELIST"])
    address = re.search(r"NodeAddr=(\S+)", _scontrol("node", names.split()[0]))
    return address[1] if address else names.split()[0]


def step_port() -> int:
    """A port derived from the ids of the SLURM job and step, the same on every node and different for other steps."""
    step = int(os.environ["SLURM_JOB_ID"]) * 7 + int(os.environ.get("SLURM_STEP_ID", "0"))
    return int(os.environ.get("MASTER_PORT", 20000 + step % 12000))


def _scontrol(*query: str) -> str:
    try:
        return subprocess.run(["scontrol", "show", *query], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise ValueError(f"a cell on several nodes needs scontrol, in a container too: {error}") from None
