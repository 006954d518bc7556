"""How many workers a cell has. Does not import torch, since the plan uses it."""

import os

from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.distributed import gpus
from losslab.distributed.environment import is_worker, node_count


def workers_per_node(machine: MachineConfig) -> int:
    """`machine.workers` if it is set, else one for each GPU, else one."""
    if machine.workers is not None:
        return machine.workers
    return max(1, gpus.count()) if machine.device != Device.cpu else 1


def worker_count(machine: MachineConfig) -> int:
    """Workers on all nodes."""
    return int(os.environ["WORLD_SIZE"]) if is_worker() else workers_per_node(machine) * node_count()
