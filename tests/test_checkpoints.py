"""What is kept of a run in progress: whole or not there, verified when read, and good for another number of ranks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import make, trained

from losslab.cell import train_model
from losslab.checkpoint import MANIFEST, damaged
from losslab.launch import WorkerError
from losslab.schema import OptimizerConfig


@pytest.fixture(scope="module")
def config(checkpoint, rows, tmp_path_factory):
    """Six steps with a checkpoint after each; those at even steps stay."""
    adam = OptimizerConfig(_target_="torch.optim.AdamW", lr=1e-3, weight_decay=0.1, arguments={"fused": True})
    one = make(checkpoint, rows, tmp_path_factory.mktemp("results"), "dft", checkpoint_steps=1, keep_every=2)
    return replace(one, optimizer=adam, train=replace(one.train, epochs=2, max_steps=None))


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "cell"
    weights, _ = trained(config, folder)
    return folder, weights


@pytest.fixture
def unfinished(run, tmp_path):
    """The run as if it had been killed before its export."""
    shutil.copytree(run[0], tmp_path / "cell")
    shutil.rmtree(tmp_path / "cell/model")
    return tmp_path / "cell"


def names(cell: Path) -> list[str]:
    return sorted(path.name for path in (cell / "checkpoints").iterdir())


def test_the_last_and_every_kth_stay(config, unfinished, tmp_path):
    assert names(unfinished) == ["step-00000002", "step-00000004"]  # after step 6 the model itself is there
    three = replace(config, machine=replace(config.machine, keep_last=3, keep_every=None, export_steps=5))
    shutil.rmtree(unfinished / "checkpoints")
    (unfinished / "steps").write_text("a file where the export of step 5 wants a folder")
    with pytest.raises(WorkerError, match="rank 0: "):
        train_model(three, unfinished)
    assert names(unfinished) == ["step-00000002", "step-00000003", "step-00000004"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_goes_on_with_another_number_of_ranks(config, run, unfinished, workers):
    other = replace(config, machine=replace(config.machine, workers=workers))
    resumed, metrics = trained(other, unfinished)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    for name, tensor in run[1].items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0 if workers == 1 else 1e-6, msg=name)


def test_from_two_ranks_to_one(config, tmp_path):
    two = replace(config, machine=replace(config.machine, workers=2))
    whole, _ = trained(two, tmp_path / "cell")
    shutil.rmtree(tmp_path / "cell/model")
    assert json.loads((tmp_path / "cell/checkpoints/step-00000004" / MANIFEST).read_text())["ranks"] == 2
    resumed, _ = trained(config, tmp_path / "cell")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=1e-6, msg=name)


def truncate(checkpoint: Path) -> None:
    file = next(checkpoint.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-100])


def tamper(checkpoint: Path) -> None:
    file = next(checkpoint.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose(checkpoint: Path) -> None:
    (checkpoint / ".metadata").unlink()


def unsign(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text("{")


@pytest.mark.parametrize("damage", [truncate, tamper, lose, unsign])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(config, run, unfinished, damage):
    damage(unfinished / "checkpoints/step-00000004")
    assert damaged(unfinished / "checkpoints/step-00000004") is not None
    assert damaged(unfinished / "checkpoints/step-00000002") is None
    resumed, metrics = trained(config, unfinished)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in run[1].items())
    assert damaged(unfinished / "checkpoints/step-00000004") is None  # written again on the way


def test_after_a_damaged_checkpoint_the_new_ones_count(config, unfinished):
    """At the defaults, which keep one: the damaged one must not be taken for the newest."""
    tamper(unfinished / "checkpoints/step-00000004")
    shutil.rmtree(unfinished / "checkpoints/step-00000002")
    (unfinished / "steps").write_text("a file where the export of step 3 wants a folder")
    usual = replace(config, machine=replace(config.machine, keep_every=None, export_steps=3))
    with pytest.raises(WorkerError, match="rank 0: "):
        train_model(usual, unfinished)
    assert names(unfinished) == ["step-00000002"]


def test_what_a_kill_left_half_written_is_no_checkpoint(config, run, unfinished):
    half = unfinished / "checkpoints/.step-00000009.writing"
    shutil.copytree(unfinished / "checkpoints/step-00000004", half)
    truncate(half)
    resumed, _ = trained(config, unfinished)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in run[1].items())
    assert names(unfinished) == ["step-00000002", "step-00000004"]


def test_exports_between(config, run, tmp_path):
    steps = replace(config, machine=replace(config.machine, export_steps=2, checkpoint_steps=50))
    weights, _ = trained(steps, tmp_path / "cell")
    assert sorted(path.name for path in (tmp_path / "cell/steps").iterdir()) == ["00000002", "00000004"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in run[1].items())
    assert not (tmp_path / "cell/checkpoints").exists()
