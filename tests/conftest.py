"""Fixtures shared by the tests: a tiny checkpoint, the project's root, the shared real data if present, a cluster."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from place import Cluster
from transformers import AutoModelForCausalLM

from losslab.data import toy_task

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LOSSLAB_SHARED", ROOT.parent / "shared"))
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell; programs under test would too
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take minutes, the longest first. A worker takes whole files: one that began last would run alone.
LONGEST = [
    "test_toy_suite", "test_run", "test_slurm", "test_drills", "test_families", "test_hostile", "test_engines",
    "test_online", "test_notebooks", "test_failures", "test_docs", "test_training", "test_memory", "test_experiments",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("LOSSLAB_DRILLS") != "required":
        # They wait for minutes; .ci/run, which every change must pass, requires them.
        skipped = pytest.mark.skip(reason="a drill: .ci/run runs it, and LOSSLAB_DRILLS=required")
        for item in items:
            if item.get_closest_marker("drill"):
                item.add_marker(skipped)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with random weights and its tokenizer, in Hugging Face format."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(toy_task.model_config()).save_pretrained(folder)
    toy_task.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training rows with answers of different lengths, wrong answers, and rewards."""
    rng = random.Random(0)
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        {"problem": f"{i}+{i}=?", "solution": f"{2 * i} " * rng.randint(1, 9)}
        | {"wrong": f"{i or 1} " * rng.randint(1, 9), "reward": i % 2, "success_rate": i % 5 / 4}
        for i in range(22)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def one_rank() -> Iterator[None]:
    """This process as the only rank of a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real cluster of two nodes, which is up meanwhile; it starts daemons, where LOSSLAB_SLURM=required allows it."""
    if os.environ.get("LOSSLAB_SLURM") != "required":
        pytest.skip("set LOSSLAB_SLURM=required, as root and after tests/slurm/cluster install, to run these tests")
    assert shutil.which("slurmctld"), "SLURM is not installed: run tests/slurm/cluster install as root"
    assert os.geteuid() == 0, "only root can start a cluster"
    cluster = Cluster(ROOT / "tests/slurm/cluster", tmp_path_factory.mktemp("slurm"))
    cluster.run("start")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.folder / "slurm.conf"))
        try:
            yield cluster
        finally:
            cluster.run("stop")


@pytest.fixture
def cluster(slurm: Cluster) -> Iterator[Cluster]:
    """The cluster with both nodes up and nothing to do, before a test and after it."""
    yield slurm
    slurm.tidy()
