"""The processes of a cell: their ranks from SLURM's variables, what they broadcast, and that they run the same cell."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.distributed.elastic.metrics import api as metrics_api
from torch.distributed.elastic.metrics.api import prof
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from transformers import AutoModelForCausalLM

from losslab.cells import beforehand
from losslab.cells import run as cell_run
from losslab.composition.compose import entry
from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Device, TrackerName
from losslab.config.machine import MachineConfig, TrackerConfig
from losslab.config.schema import Config, DatasetConfig, Engine, ModelConfig, Names, Stage
from losslab.distributed import environment, process_group, worker
from losslab.distributed import launch as launching
from losslab.distributed.launch import StopForwarded, launch
from losslab.distributed.signals import REQUEUE, WORKER_STOP_SIGNALS, Interrupted, came_of_stop, heeded, raise_on_stop
from losslab.evaluation import engines
from losslab.records.record import Cell

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
    monkeypatch.setattr(environment, "first_host", lambda: "n1")


def test_a_task_for_each_rank(step):
    assert (environment.node_count(), environment.is_worker()) == (1, False)
    environment.adopt_srun_variables()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    assert [os.environ[name] for name in names] == ["6", "7", "0", "1", "n1"]
    assert environment.is_worker() and not environment.is_main_process()


def test_a_task_for_each_node(step):
    os.environ |= {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "1(x3)", "SLURM_PROCID": "2"}
    environment.adopt_srun_variables()
    assert (environment.node_count(), environment.node_rank(), environment.is_worker()) == (3, 2, False)


@pytest.mark.parametrize("given", [{"RANK": "1"}, {"RANK": "0", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "2"}])
def test_half_of_the_variables_of_torchrun_is_refused(monkeypatch, given):
    """As in a Kubeflow pod, or left over in a shell: the process would train and record nothing."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    monkeypatch.setattr(os, "environ", {name: v for name, v in os.environ.items() if name not in names} | given)
    assert environment.is_main_process() and not environment.is_worker()
    message = "RANK and WORLD_SIZE are set without LOCAL_RANK: start this with torchrun, or unset them"
    with pytest.raises(ValueError, match=message):
        entry("losslab.cells.sweep.run", ["plan=true"])
    for rest in ({"RANK": "0", "WORLD_SIZE": "1"}, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}):
        os.environ |= rest
        environment.check_launch()
    assert environment.is_worker() and not environment.is_main_process()


@pytest.mark.parametrize(("visible", "local", "device"), [(1, "3", 0), (4, "3", 3)])
def test_a_gpu_for_each_task_or_all_of_them_for_all(monkeypatch, step, visible, local, device):
    """With --gpus-per-task=1 a process sees its own GPU alone, as number 0."""
    os.environ["SLURM_LOCALID"] = local
    environment.adopt_srun_variables()
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert process_group.init_process_group(MachineConfig(device=Device.cuda)) == torch.device("cuda", device)
    assert taken == [device]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives no cores to a process")
def test_cores_are_those_that_a_process_was_given():
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(own)})
    try:
        assert environment.available_cores() == 1
    finally:
        os.sched_setaffinity(0, own)
    assert environment.available_cores() == len(own)


TALK = """
import json, sys
from losslab.config.machine import MachineConfig
from losslab.distributed.process_group import WorkerError, all_equal, decide_on_main
here = MachineConfig(device="cpu")
decision = decide_on_main(here, lambda: ["é", None, 1.5, {"a": True}])
try:
    decide_on_main(here, lambda: 1 / 0)
    failure = ""
except (ZeroDivisionError, WorkerError) as error:
    failure = str(error)
print(json.dumps([all_equal(here, sys.argv[1]), all_equal(here, "same"), decision, failure]))
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
    return [json.loads(process.communicate(timeout=900)[0]) for process in processes]


def test_two_processes_agree_and_notice_that_they_differ():
    first, second = two_processes(TALK, "cell of seed {rank}")
    assert first == [False, True, ["é", None, 1.5, {"a": True}], "division by zero"]
    assert second == [*first[:3], "rank 0: division by zero"]


NODE = """
import sys, time
from losslab.cells import sweep
from losslab.config.errors import exit_on_error
from losslab.config.machine import MachineConfig
from losslab.distributed import process_group
process_group.first_host = lambda: "127.0.0.1"
here = MachineConfig(device="cpu")
process_group.decide_on_main(here, lambda: None)  # both are there
if sys.argv[1] == "1":
    process_group.POLL_SECONDS = 3  # it looks for the decision before it is made, and long after

def refuse():
    time.sleep(1)
    raise ValueError("no cell can be planned")

with exit_on_error():
    sweep._of_main(here, refuse)
"""


def test_a_node_whose_first_one_has_ended_says_nothing_of_its_own():
    """The store of their decisions is the first one's, which refuses the sweep while the other is not looking."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE", "RANK")}
    pair = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_ID": "1", "MASTER_PORT": port}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", NODE, rank], stderr=subprocess.PIPE, text=True,
            env=alone | pair | {"SLURM_PROCID": rank},
        )
        for rank in "01"
    ]  # fmt: skip
    first, second = (node.communicate(timeout=900)[1] for node in nodes)
    assert [node.returncode for node in nodes] == [2, 1]
    assert first.splitlines()[-1] == "error: no cell can be planned"
    assert "Traceback" not in second and "no cell" not in second


SLOW = """
import json, time
from datetime import timedelta
import torch.distributed as dist
from losslab.config.machine import MachineConfig
from losslab.distributed.environment import is_main_process
from losslab.distributed.process_group import barrier_at_end, init_process_group
init_process_group(MachineConfig(device="cpu"))
dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
with barrier_at_end():
    if is_main_process():
        time.sleep(3)
try:
    if is_main_process():
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
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, ModelConfig
from losslab.distributed.process_group import init_process_group
from losslab.models import loading, policy

def whole(*arguments):
    raise MemoryError("a rank read the whole model")

loading.load_model = policy.load_model = whole
config = Config(model=ModelConfig(path=sys.argv[1]), machine=MachineConfig(device="cpu"))
device = init_process_group(config.machine)
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


def test_a_stop_that_torch_replaces_by_an_error_of_its_own_is_a_stop(monkeypatch):
    """Its metrics read in a `finally` what the signal kept from being assigned."""

    def stop() -> float:
        raise StopForwarded(signal.SIGUSR2)

    @prof
    def monitor() -> None: ...

    monkeypatch.setattr(metrics_api.time, "time", stop)
    with pytest.raises(UnboundLocalError) as replaced:
        monitor()
    assert came_of_stop(replaced.value) and not came_of_stop(UnboundLocalError("start"))
    request = StopForwarded(signal.SIGUSR2)
    assert isinstance(request, SignalException) and isinstance(request, Interrupted)
    assert (request.code, request.sigval, str(request)) == (REQUEUE, signal.SIGTERM, "asked to stop by SIGUSR2")


@pytest.mark.parametrize("error", [OSError(9, "Bad file descriptor"), UnboundLocalError("start")])
def test_a_cell_whose_stop_comes_up_as_another_error_is_interrupted(checkpoint, rows, tmp_path, monkeypatch, error):
    def trained(*_: object) -> None:
        try:
            raise StopForwarded(signal.SIGUSR2)
        finally:
            raise error

    config = Config(
        model=ModelConfig(path=str(checkpoint)), dataset=DatasetConfig(path=str(rows)),
        loss={"_target_": "losslab.objectives.sft.SFT"}, names=Names(model="tiny", dataset="rows", loss="sft", eval=""),
        machine=MachineConfig(results=str(tmp_path)), tracker=TrackerConfig(name=TrackerName.none), stage=Stage.train,
        benchmark={"tiny_add": BenchmarkConfig(path="embedded")},
    )  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in WORKER_STOP_SIGNALS}
    monkeypatch.setattr(cell_run, "trained_model", trained)
    try:
        with pytest.raises(SystemExit) as left:
            cell_run.run(config)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert left.value.code == REQUEUE
    assert Cell.of(config).state()["state"] == "interrupted"


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in heeded(WORKER_STOP_SIGNALS) and len(heeded(WORKER_STOP_SIGNALS)) == 4
        with raise_on_stop(WORKER_STOP_SIGNALS):
            os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert signal.SIGHUP in heeded(WORKER_STOP_SIGNALS)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_request_to_stop_that_comes_in_a_destructor_is_not_lost(capsys):
    class Destroyed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.01)

    hook = sys.unraisablehook
    with pytest.raises(Interrupted), raise_on_stop():
        Destroyed()
        time.sleep(60)
    assert sys.unraisablehook is hook and capsys.readouterr().err == ""


def test_a_second_ctrl_c_does_not_end_the_clean_up():
    cleaned = []
    with pytest.raises(Interrupted), raise_on_stop(WORKER_STOP_SIGNALS):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        finally:
            for number in WORKER_STOP_SIGNALS:
                os.kill(os.getpid(), number)
            cleaned.append(True)
    assert cleaned == [True]


def handlers() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in (signal.SIGQUIT, *WORKER_STOP_SIGNALS)}


@pytest.fixture
def no_fork_server(monkeypatch) -> None:
    monkeypatch.setattr(launching.fork_server, "start", lambda modules: None)
    monkeypatch.setattr(launching.fork_server, "wait", lambda: None)


def test_a_launch_that_cannot_begin_leaves_the_handlers_as_they_were(no_fork_server, tmp_path):
    before = handlers()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        launch(print, machine=MachineConfig(device=Device.cpu), logs=tmp_path / "file/logs")
    assert handlers() == before


def test_after_a_failure_on_several_nodes_the_next_launch_runs(no_fork_server, tmp_path, monkeypatch):
    """The nodes of a SLURM step keep one store for all cells of a sweep."""
    kept, ran = torch.distributed.HashStore(), []

    def fail(*_: object) -> None:
        failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file="none")
        raise ChildFailedError("worker", {0: failure})

    def succeed(*_: object) -> None:
        time.sleep(1.5)  # the other nodes are asked every second
        ran.append(True)

    for name, value in {
        "node_count": lambda: 2, "store": lambda: kept, "gather_from_nodes": lambda value: [value, None],
        "_launch_config": lambda *_: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(launching, name, value)

    def start(workers: Callable[..., None]) -> None:
        monkeypatch.setattr(launching, "elastic_launch", lambda *_: workers)
        launch(print, machine=MachineConfig(device=Device.cpu), logs=tmp_path / "logs")

    with pytest.raises(process_group.WorkerError, match="rank 0 died with exit code 1"):
        start(fail)
    start(succeed)
    assert ran == [True]


@pytest.mark.parametrize(
    ("ranks", "message", "raised"),
    [
        ("2", "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv", TimeoutError),
        ("2", "Timed out after 3 seconds: the server of the judge", RuntimeError),
        ("1", "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv", RuntimeError),
    ],
)
def test_only_a_collective_that_times_out_is_put_down_to_another_rank(monkeypatch, ranks, message, raised):
    def fail() -> None:
        raise RuntimeError(message)

    monkeypatch.setenv("WORLD_SIZE", ranks)
    monkeypatch.setattr(worker, "LOST_RANK_SECONDS", 0)
    monkeypatch.setattr(worker, "_exit_with_launcher", lambda: None)
    with pytest.raises(raised) as error:
        worker.run_worker.__wrapped__(fail)
    assert ("no answer from another rank for 30 minutes" in str(error.value)) == (raised is TimeoutError)


FORKED = """
import os, signal, sys
from losslab.distributed import fork_server

def look():
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    loaded = ("losslab.files.locks" in sys.modules) + 2 * ("colorsys" in sys.modules)
    sys.exit(10 + loaded + 4 * (signal.SIGTERM in blocked))

if __name__ == "__main__":
    fork_server.start(["losslab.files.locks"])
    context = fork_server.start(["colorsys"])  # the server runs already
    fork_server.wait()
    process = context.Process(target=look)
    process.start()
    process.join()
    print(process.exitcode, "VLLM_LOGGING_LEVEL" in os.environ, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_processes_are_forked_from_one_server_that_has_imported_what_they_need(tmp_path):
    """And that hands them no request to stop, while this process has its own signals and environment."""
    (tmp_path / "forked.py").write_text(FORKED)
    environment = {key: value for key, value in os.environ.items() if key != "VLLM_LOGGING_LEVEL"}
    printed = subprocess.run(
        [sys.executable, "forked.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["15", "False", "set()"]


def test_the_server_of_the_workers_imports_the_engine_too(checkpoint, rows, tmp_path, monkeypatch):
    """Once for all cells of a sweep: an engine that imports vLLM itself takes seconds for it in each."""
    modules: list[str] = []
    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(engines.fork_server, "start", modules.extend)
    # The hub is asked first: processes that are forked from the server keep what it knew of it when it started.
    monkeypatch.setattr(beforehand, "check_model", lambda model: asked.append((model.path, bool(modules))))
    config = Config(
        model=ModelConfig(path=str(checkpoint)), dataset=DatasetConfig(path=str(rows)),
        loss={"_target_": "losslab.objectives.sft.SFT"}, names=Names(model="tiny", dataset="rows", loss="sft", eval=""),
        machine=MachineConfig(results=str(tmp_path), engine=Engine.vllm, device=Device.cpu),
        tracker=TrackerConfig(name=TrackerName.none), benchmark={"tiny_add": BenchmarkConfig(path="embedded")},
    )  # fmt: skip
    assert not cell_run.finished(config, Cell.of(config))
    assert modules[0] == "losslab.training.loop" and "vllm.v1.worker.cpu_worker" in modules
    assert asked == [(str(checkpoint), False)]
    modules.clear()
    alone = replace(config, stage=Stage.train, seed=1)
    assert not cell_run.finished(alone, Cell.of(alone)) and modules == []  # which needs no engine
