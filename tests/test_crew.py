"""The processes of a cell: who they are by SLURM's word, what they tell each other, and that they do the same cell."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from losslab.config.schema import Device, MachineConfig
from losslab.distributed import process_group

STEP = {
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "3(x2),1",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_JOB_ID": "11",
    "SLURM_STEP_ID": "1",
}


@pytest.fixture
def step(monkeypatch) -> None:
    """The last of seven tasks on three nodes, alone on its node."""
    monkeypatch.setattr(os, "environ", os.environ | STEP)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    monkeypatch.setattr(process_group, "first_host", lambda: "n1")


def test_a_task_for_each_rank(step):
    assert (process_group.nodes(), process_group.joined()) == (1, False)
    process_group.join_slurm()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    assert [os.environ[name] for name in names] == ["6", "7", "0", "1", "n1"]
    assert process_group.joined() and not process_group.main_process()


def test_a_task_for_each_node(step):
    os.environ |= {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "1(x3)", "SLURM_PROCID": "2"}
    process_group.join_slurm()
    assert (process_group.nodes(), process_group.node(), process_group.joined()) == (3, 2, False)


@pytest.mark.parametrize(("visible", "local", "device"), [(1, "3", 0), (4, "3", 3)])
def test_a_gpu_for_each_task_or_all_of_them_for_all(monkeypatch, step, visible, local, device):
    """With --gpus-per-task=1 a process sees its own GPU alone, as number 0."""
    os.environ["SLURM_LOCALID"] = local
    process_group.join_slurm()
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert process_group.join(MachineConfig(device=Device.cuda)) == torch.device("cuda", device)
    assert taken == [device]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives no cores to a process")
def test_cores_are_those_that_a_process_was_given():
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(own)})
    try:
        assert process_group.cores() == 1
    finally:
        os.sched_setaffinity(0, own)
    assert process_group.cores() == len(own)


TALK = """
import json, sys
from losslab import crew
from losslab.schema import MachineConfig
here = MachineConfig(device="cpu")
found = crew.agree(here, lambda: ["é", None, 1.5, {"a": True}])
try:
    crew.agree(here, lambda: 1 / 0)
    failure = ""
except (ZeroDivisionError, crew.WorkerError) as error:
    failure = str(error)
print(json.dumps([crew.alike(here, sys.argv[1]), crew.alike(here, "same"), found, failure]))
"""


def two_processes(code: str, *arguments: str) -> list:
    """What two ranks print as JSON; `{rank}` in an argument is their number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pair = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *(argument.format(rank=rank) for argument in arguments)],
            stdout=subprocess.PIPE, text=True, env=os.environ | pair | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    return [json.loads(process.communicate(timeout=300)[0]) for process in processes]


def test_two_processes_agree_and_notice_that_they_differ():
    first, second = two_processes(TALK, "cell of seed {rank}")
    assert first == [False, True, ["é", None, 1.5, {"a": True}], "division by zero"]
    assert second == [*first[:3], "rank 0: division by zero"]


SLOW = """
import json, time
from datetime import timedelta
import torch.distributed as dist
from losslab import crew
from losslab.schema import MachineConfig
crew.join(MachineConfig(device="cpu"))
dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
with crew.waiting():
    if crew.main_process():
        time.sleep(3)
try:
    if crew.main_process():
        time.sleep(3)
    dist.barrier()
    print(json.dumps("patient"))
except RuntimeError:
    print(json.dumps("lost"))
"""


def test_ranks_wait_for_a_download_longer_than_for_a_step():
    """A step may take a second here; the second rank does not wait the three for the first one."""
    assert two_processes(SLOW)[1] == "lost"


LOAD = """
import json, sys
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from losslab import crew, policy, pretrained
from losslab.schema import Config, MachineConfig, ModelConfig

def whole(*arguments):
    raise MemoryError("a rank read the whole model")

pretrained.load_model = policy.load_model = whole
config = Config(model=ModelConfig(path=sys.argv[1]), machine=MachineConfig(device="cpu"))
device = crew.join(config.machine)
built = policy.build(config, device, reference=True)
own = sum(p.to_local().numel() for p in built.parameters() if isinstance(p, DTensor))
found = {name: value.full_tensor() for name, value in built.model.state_dict().items()}
files = AutoModelForCausalLM.from_pretrained(sys.argv[1]).state_dict()
print(json.dumps([own, sorted(found) == sorted(files), all(torch.equal(found[name], files[name]) for name in files)]))
"""


def test_each_rank_reads_its_own_shards_of_a_model_in_several_files(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    one, other = two_processes(LOAD, str(tmp_path))
    assert one[1:] == other[1:] == [True, True]
    assert one[0] + other[0] == 2 * model.num_parameters()  # with the frozen copy, and split about evenly
    assert abs(one[0] - other[0]) < 0.01 * one[0]
