"""What goes wrong on real machines: one clear error each, no rank hangs, nothing that was finished is lost."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm
from datasets import DatasetInfo, Features, Value
from datasets.arrow_writer import ArrowWriter
from datasets.splits import SplitDict, SplitInfo
from kill import SETTINGS, harness
from place import MODULES

from losslab.composition.words import last_of_each

DYING = """
import os
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from counted import trains

from losslab.objectives import Objective


@dataclass(frozen=True)
class Dying(Objective):
    def loss(self, t):
        if not trains():
            return -t.logp
        here = Path(__file__).with_name("ill")
        steps = Path(__file__).with_name(f"rank{dist.get_rank()}")
        steps.write_text(steps.read_text() + "." if steps.exists() else ".")
        if here.exists() and dist.get_rank() == 1 and len(steps.read_text()) > 3:
            os.kill(os.getpid(), 9)
        return -t.logp
"""


def run(root: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(root / "train.py"), *last_of_each([*SETTINGS, "loss=sft", *arguments])]
    return warm.run(command, folder, os.environ | environment)


def state(folder: Path) -> dict:
    (file,) = folder.glob("results/cells/*/cell.json")
    return json.loads(file.read_text())


@pytest.mark.drill
def test_kills_change_nothing_and_lose_no_step_behind_a_checkpoint(checkpoint, rows, tmp_path):
    """The short form of `python tests/kill.py --moments 30`."""
    writing, step, scoring = harness(tmp_path, checkpoint, rows, ["writing", "step", "scoring"], seed=1)
    assert writing.phase == "writing" and writing.kept >= 2
    assert step.phase == "step" and not step.everything  # its workers are to end by themselves
    assert scoring.phase == "scoring" and scoring.kept == len(scoring.rows) == 15


@pytest.mark.drill
def test_a_rank_that_dies_is_named_and_the_run_goes_on_later(root, checkpoint, rows, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    (tmp_path / "counted.py").write_text(MODULES["counted.py"])
    (tmp_path / "ill").touch()
    arguments = [f"model={checkpoint}", f"dataset.path={rows}", "loss._target_=dying.Dying", "machine.workers=2"]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    failed = run(root, tmp_path, *arguments, PYTHONPATH=path)
    assert failed.returncode == 1
    assert "failed: rank 1 died with exit code -9" in failed.stderr and "Traceback" not in failed.stderr
    assert state(tmp_path)["state"] == "failed"
    (cell,) = tmp_path.glob("results/cells/*")
    assert (cell / "checkpoints/step-00000002").is_dir()
    (tmp_path / "ill").unlink()
    again = run(root, tmp_path, *arguments, PYTHONPATH=path)
    assert again.returncode == 0, again.stderr
    assert state(tmp_path)["state"] == "done" and state(tmp_path)["attempts"] == 2
    steps = [json.loads(line)["step"] for line in (cell / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 16))
    assert (
        len((tmp_path / "rank0").read_text()) <= 3 + 15 - 2 + 1
    )  # the steps before the checkpoint were not taken again


STALLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from losslab.config.machine import MachineConfig
from losslab.config.choices import Device
from losslab.distributed import process_group
from losslab.distributed.launch import launch


def worker():
    process_group.init_process_group(MachineConfig(device=Device.cpu))
    dist.all_reduce(torch.ones(1))
    process_group.STEP_TIMEOUT = timedelta(seconds=3)
    dist.distributed_c10d._set_pg_timeout(process_group.STEP_TIMEOUT)
    if dist.get_rank() == 1:
        Path("stalled").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    sys.modules["stalled"] = sys.modules["__main__"]
    worker.__module__ = "stalled"
    try:
        launch(worker, machine=MachineConfig(device=Device.cpu, workers=2), logs=Path("logs"))
    except process_group.WorkerError as error:
        print(error)
"""


@pytest.mark.drill
def test_a_rank_that_hangs_ends_the_run(tmp_path):
    (tmp_path / "stalled.py").write_text(STALLED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "1"
    command = [sys.executable, "stalled.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=900)
    assert done.stdout.strip() == (
        "rank 0: TimeoutError: no answer from another rank for 0.05 minutes: it or its machine hangs; find out which, "
        "and repeat the command to resume from the newest checkpoint"
    ), done.stderr
    left = Path("/proc", (tmp_path / "stalled").read_text(), "stat")  # it is gone, though it did not hear
    assert not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("workers", [1, 2])
def test_weights_that_do_not_fit_their_configuration(root, checkpoint, rows, tmp_path, workers):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    failed = run(root, tmp_path, f"model={model}", f"dataset.path={rows}", f"machine.workers={workers}")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert re.search(rf"failed: rank [01]: ValueError: the (files of|model) model\.path={model} ", failed.stderr)
    assert state(tmp_path)["state"] == "failed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "results"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(root, checkpoint, rows, tmp_path, small_disk):
    arguments = [f"model={checkpoint}", f"dataset.path={rows}", "machine.keep_last=50", "machine.export_steps=null"]
    failed = run(root, tmp_path, *arguments)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "failed: rank 0: OSError: a checkpoint cannot be written to results/cells" in failed.stderr
    assert state(tmp_path)["state"] == "failed"  # there was room to say so
    assert not list(tmp_path.glob("results/cells/*/checkpoints/.*"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    again = run(root, tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert state(tmp_path)["state"] == "done"


def test_a_results_folder_that_cannot_be_written(root, checkpoint, rows, tmp_path):
    (tmp_path / "file").touch()
    refused = run(root, tmp_path, f"model={checkpoint}", f"dataset.path={rows}", "machine.results=file/results")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("error: file/results/cells/")
    assert refused.stderr.strip().endswith("Not a directory: make room there, or set machine.results")


SILENT = """
import sys, time
from losslab.config.schema import BenchmarkConfig, DatasetConfig, ModelConfig
from losslab.data import examples, hub_datasets
from losslab.evaluation import benchmarks
from losslab.models.loading import load_config, load_tokenizer

hub_datasets.HUB_SECONDS = 2
began = time.monotonic()
rows = DatasetConfig(path="nobody/nothing", split="train", prompt_column="problem", answer_column="solution")
for ask in (
    lambda: load_tokenizer(ModelConfig(path="nobody/nothing")),
    lambda: examples.read(rows),
    lambda: benchmarks.load("mine", BenchmarkConfig(path="nobody/nothing", split="test")),
    lambda: print(hub_datasets.load_dataset("somebody/rows", split="train", revision="a" * 40)["q"][0]),
    lambda: hub_datasets.load_dataset("somebody/rows", split="train", revision="b" * 40),
    lambda: print(load_tokenizer(ModelConfig(path="somebody/tiny")).eos_token),
    lambda: print(load_config(ModelConfig(path="somebody/tiny")).model_type),
):
    try:
        ask()
    except ValueError as error:
        print(error)
print(time.monotonic() - began, file=sys.stderr)
"""


def rows_of_commit(commit: str, folder: Path) -> None:
    """A data set as the library keeps it when it was downloaded."""
    place = folder / commit
    place.mkdir(parents=True)
    with ArrowWriter(path=str(place / "rows-train.arrow")) as writer:
        writer.write({"q": f"of commit {commit[0]}"})
        writer.finalize()
    splits = SplitDict({"train": SplitInfo("train", num_examples=1, dataset_name="rows")})
    about = {"dataset_name": "rows", "config_name": "default", "version": "0.0.0", "builder_name": "parquet"}
    DatasetInfo(features=Features({"q": Value("string")}), splits=splits, **about).write_to_directory(str(place))


def test_a_hub_that_does_not_answer_costs_one_wait_and_what_was_downloaded_is_used(checkpoint, tmp_path):
    cached = tmp_path / "hub/models--somebody--tiny"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "snapshots/abc").symlink_to(checkpoint)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    rows_of_commit("a" * 40, tmp_path / "datasets/somebody___rows/default/0.0.0")
    with socket.socket() as silent:  # it takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(99)
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-P", "-c", SILENT]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    *_, seconds = done.stderr.strip().splitlines()
    absent = f"not downloaded before: {hub} does not answer"
    assert done.stdout.splitlines() == [
        f"model.path=nobody/nothing is not a local folder and was {absent}",
        f"the data set nobody/nothing cannot be read (it was {absent}): check dataset.path",
        f"benchmark mine: nobody/nothing (split test) cannot be read (it was {absent}); check its name, or set "
        "eval.data to a folder with local files",
        "of commit a",
        f"its revision {'b' * 40} was {absent}",
        "<|end|>",
        "qwen2",
    ]
    assert done.stderr.count("; only downloaded files are used") == 1
    assert float(seconds) < 60  # a wait for each file would be ten minutes
