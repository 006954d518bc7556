"""What is kept of a run in progress: whole or not there, verified when read, and good for another number of ranks."""

import json
import os
import pickle
import shutil
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_training import make, trained

from losslab.cells.run import finished
from losslab.cells.training import train_model
from losslab.config.schema import Names, OptimizerConfig, Reduction, Stage
from losslab.distributed.process_group import WorkerError
from losslab.files.atomic import appear
from losslab.records.record import Cell
from losslab.training.checkpoint_files import MANIFEST, damage, digest, misfit, seal, values_of
from losslab.training.checkpoints import Checkpoints, random_state

NAMES = Names(model="tiny", dataset="rows", loss="dft", eval="none")


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


def test_a_mean_of_each_micro_batch_goes_on_with_its_number_of_ranks_alone(left):
    config, cell = left
    official = replace(config, train=replace(config.train, reduction=Reduction.micro_batch, micro_batch=2))
    two = replace(official, machine=replace(official.machine, workers=2))
    with pytest.raises(WorkerError, match="the run started with 1 workers and resumes with 2, which changes"):
        train_model(two, cell)
    assert names(cell) == ["step-00000003", "step-00000004"]
    (cell / "steps").unlink()
    _, metrics = trained(official, cell)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]


def truncate(checkpoint: Path) -> None:
    file = next(checkpoint.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def tamper(checkpoint: Path) -> None:
    file = next(checkpoint.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose(checkpoint: Path) -> None:
    next(checkpoint.glob("*.safetensors")).unlink()


def unsign(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text("{")


def empty(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text("{}")


def no_object(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text("null")


def misdate(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps(manifest | {"step": 3}))


class Payload:
    """What a pickle runs when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def resealed(checkpoint: Path, **changes: object) -> None:
    """Seal what is in a checkpoint's folder with our own function, as whoever can write there can do."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).unlink()
    seal(checkpoint, {key: value for key, value in manifest.items() if key not in ("sha256", "files")} | changes)


def hostile_pickles(checkpoint: Path) -> None:
    """In place of the tensors, and wherever torch's own formats have a pickle."""
    marker = checkpoint.parent / "code-was-run"
    for name in (".metadata", "__0_0.distcp", next(checkpoint.glob("*.safetensors")).name):
        (checkpoint / name).write_bytes(pickle.dumps(Payload(marker)))
    resealed(checkpoint)


def content(checkpoint: Path) -> tuple[dict, dict]:
    """Tensors and values of a checkpoint of one rank."""
    values = json.loads((checkpoint / MANIFEST).read_text())["values"]
    return load_file(checkpoint / "rank-00000.safetensors"), values


def lose_a_tensor(checkpoint: Path) -> None:
    tensors, _ = content(checkpoint)
    del tensors["optimizer.state.model.model.norm.weight.exp_avg"]
    offsets = {name: {"saved_offsets": [0] * value.ndim} for name, value in tensors.items()}
    save_file(tensors, checkpoint / "rank-00000.safetensors", {"DCP_SHARDING_INFO": json.dumps(offsets)})
    resealed(checkpoint)


def earlier_version(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["sha256"], manifest["version"]
    (checkpoint / MANIFEST).write_text(json.dumps(manifest | {"sha256": digest(manifest)}))


@pytest.mark.parametrize("harm", [truncate, tamper, lose, unsign, empty, no_object, misdate, earlier_version])
def test_a_damaged_checkpoint_is_noticed(unfinished, harm):
    assert damage(unfinished / "checkpoints/step-00000004") is None
    harm(unfinished / "checkpoints/step-00000004")
    assert damage(unfinished / "checkpoints/step-00000004") is not None


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory):
    """A run at the defaults but for the steps between checkpoints, which fails after those of steps 1 to 4."""
    usual = replace(config, machine=replace(config.machine, keep_every=None, export_steps=5))
    cell = tmp_path_factory.mktemp("stopped") / "cell"
    cell.mkdir()
    (cell / "steps").write_text("a file where the export of step 5 wants a folder")
    with pytest.raises(WorkerError, match="rank 0: "):
        train_model(usual, cell)
    assert names(cell) == ["step-00000003", "step-00000004"]
    return usual, cell


@pytest.fixture
def left(stopped, tmp_path):
    """The configuration and the folder of that run, once more and with its fault still there."""
    shutil.copytree(stopped[1], tmp_path / "cell")
    return stopped[0], tmp_path / "cell"


@pytest.mark.parametrize("harm", [tamper, hostile_pickles])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(left, run, harm):
    """At the defaults. Step 4 is taken and kept again, and the damaged one is there to be looked at."""
    config, cell = left
    harm(cell / "checkpoints/step-00000004")
    broken = sorted(file.read_bytes() for file in (cell / "checkpoints/step-00000004").iterdir())
    with pytest.raises(WorkerError, match="rank 0: "):
        train_model(config, cell)
    assert names(cell) == ["damaged-step-00000004", "step-00000003", "step-00000004"]
    aside = cell / "checkpoints/damaged-step-00000004"
    assert sorted(file.read_bytes() for file in aside.iterdir()) == broken
    assert damage(cell / "checkpoints/step-00000004") is None
    assert not (cell / "checkpoints/code-was-run").exists()
    (cell / "steps").unlink()
    resumed, metrics = trained(config, cell)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in run[1].items())
    assert not (cell / "checkpoints").exists()


def test_of_several_damaged_checkpoints_the_newest_is_set_aside(left):
    config, cell = left
    for step in (3, 4):
        tamper(cell / f"checkpoints/step-0000000{step}")
    two = replace(config, machine=replace(config.machine, export_steps=2))  # of which the first one fails
    with pytest.raises(WorkerError, match="rank 0: "):
        train_model(two, cell)
    assert names(cell) == ["damaged-step-00000004", "step-00000001"]


def test_a_checkpoint_that_cannot_be_read_now_is_left_alone(left):
    """As when a disk of the network is away: here the file is a folder, which no right to read helps with."""
    config, cell = left
    file = cell / "checkpoints/step-00000004" / MANIFEST
    content = file.read_bytes()
    file.unlink()
    file.mkdir()
    with pytest.raises(WorkerError, match=r"step-00000004 cannot be read now \(Is a directory\): repeat the command"):
        train_model(config, cell)
    assert names(cell) == ["step-00000003", "step-00000004"]
    file.rmdir()
    file.write_bytes(content)
    assert damage(cell / "checkpoints/step-00000004") is None


def test_without_a_checkpoint_that_can_be_loaded_a_run_begins_anew(left, run):
    """The optimizer counts its steps from zero again."""
    config, cell = left
    for checkpoint in (cell / "checkpoints").iterdir():
        lose_a_tensor(checkpoint)
    (cell / "steps").unlink()
    weights, metrics = trained(config, cell)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(weights[name], tensor) for name, tensor in run[1].items())


def test_a_checkpoint_is_tensors_each_once_and_text(unfinished):
    checkpoint = unfinished / "checkpoints/step-00000004"
    assert sorted(path.name for path in checkpoint.iterdir()) == ["rank-00000.safetensors", MANIFEST]
    assert {path.stat().st_mode & 0o777 for path in checkpoint.iterdir()} == {0o644}
    with safe_open(checkpoint / "rank-00000.safetensors", "pt") as stored:
        weights = {name for name in stored.keys() if name.startswith("model.")}
    # The output layer is the embedding.
    assert "model.model.model.embed_tokens.weight" in weights and "model.model.lm_head.weight" not in weights


def test_a_checkpoint_of_another_state_is_none_of_this_run(unfinished):
    checkpoint = unfinished / "checkpoints/step-00000004"
    tensors, stored = content(checkpoint)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    assert misfit(checkpoint, tensors, values, stored) == ""
    norm, betas = "model.model.model.norm.weight", "optimizer.param_groups.0.betas"
    for change, values_there, reason in (
        ({norm: tensors[norm][1:]}, stored, f"{norm} is of another shape"),
        ({norm: tensors[norm].double()}, stored, f"{norm} is of another shape"),
        ({"more": torch.ones(1)}, stored, "more is missing"),
        ({}, stored | {betas: "fast"}, f"{betas} differs from this run's value"),
        ({}, stored | {betas: [0.9]}, f"{betas} differs from this run's value"),
        ({}, stored | {"optimizer.param_groups.0.params.0": "else"}, "optimizer.param_groups.0.params.0 differs"),
        ({}, stored | {"more": 1}, "more differs from this run's value"),
    ):
        assert misfit(checkpoint, tensors | change, values, values_there).startswith(reason)
    (checkpoint / "rank-00000.safetensors").write_bytes(b"\xff" * 99)
    assert misfit(checkpoint, tensors, values, stored) == "its tensors cannot be read (SafetensorError)"


def test_an_optimizer_whose_state_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.history is a deque, which cannot be checkpointed"):
        values_of({"optimizer": {"history": deque()}})


def test_what_a_kill_left_half_written_is_no_checkpoint(config, run, unfinished):
    half = unfinished / "checkpoints/.step-00000009.writing"
    shutil.copytree(unfinished / "checkpoints/step-00000004", half)
    truncate(half)
    resumed, _ = trained(config, unfinished)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in run[1].items())
    assert names(unfinished) == ["step-00000002", "step-00000004"]


def test_checkpoints_that_a_kill_left_behind_a_finished_model_go(config, tmp_path):
    """By what the run kept that trained it, whatever a later one, such as of its scoring, would keep."""
    machine = replace(config.machine, results=str(tmp_path), keep_every=4)
    cell = Cell.of(config := replace(config, machine=machine, stage=Stage.train, names=NAMES))
    cell.declare(config)
    for name in (
        "model",
        "checkpoints/step-00000004",
        "checkpoints/step-00000006",
        "checkpoints/damaged-step-00000005",
    ):
        (cell.folder / name).mkdir(parents=True)
    assert finished(replace(config, machine=replace(machine, keep_every=None)), cell)
    assert names(cell.folder) == ["step-00000004"]


def test_a_folder_appears_when_all_of_it_is_on_the_disk(tmp_path, monkeypatch):
    temporary, folder = tmp_path / ".writing", tmp_path / "model"
    for place in (temporary / "part", folder):
        place.mkdir(parents=True)
        (place / "weights").write_text(place.name)
    files = {path.stat().st_ino for path in (temporary, *temporary.rglob("*"))}
    flushed = []

    def fsync(descriptor: int) -> None:
        flushed.append((os.fstat(descriptor).st_ino, temporary.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    appear(temporary, folder)
    assert len(files) == 3 and set(flushed) == {(file, True) for file in files} | {(tmp_path.stat().st_ino, False)}
    assert [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))] == ["part", "part/weights"]


def test_exports_between(config, run, tmp_path):
    steps = replace(config, machine=replace(config.machine, export_steps=2, checkpoint_steps=50))
    weights, _ = trained(steps, tmp_path / "cell")
    assert sorted(path.name for path in (tmp_path / "cell/steps").iterdir()) == ["00000002", "00000004"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in run[1].items())
    assert not (tmp_path / "cell/checkpoints").exists()


def test_the_random_state_is_that_of_the_runs_device(monkeypatch):
    """On a machine with a GPU too: to ask it for its state would set it up."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.ones(1))
    assert set(random_state(torch.device("cpu"))) == {"cpu"}
    assert set(random_state(torch.device("cuda"))) == {"cpu", "cuda"}


def test_random_numbers_go_on_where_they_were(tmp_path):
    """For an objective that draws some."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        policy = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(policy.parameters())
        kept = Checkpoints(
            tmp_path / "checkpoints", policy, optimizer, torch.device("cpu"), keep_last=1, keep_every=None
        )
        with kept as checkpoints:
            checkpoints.save(1)
            checkpoints.finish()
            drawn = torch.rand(4)
            assert checkpoints.resume() == 1
            assert torch.equal(torch.rand(4), drawn)
    finally:
        dist.destroy_process_group()
