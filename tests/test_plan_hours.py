"""The hours and speeds of a plan, against sums done by hand, and where they come from."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from test_compose import SERVED, hydra, make  # noqa: F401 (hydra is a fixture of all tests here)
from transformers import AutoModelForCausalLM, LlamaConfig

from losslab.config.schema import AdapterConfig, Config
from losslab.distributed import gpus
from losslab.planning import cost, cpu_speed, plan
from losslab.planning.gpu_speed import Card
from losslab.records.record import Cell
from losslab.training.throughput import Work

JOB = {"nodes": 1, "gpus_per_node": 1}
SIZE = 1_543_714_304  # parameters of the default model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rank", [0, 8])
def test_a_plan_counts_operations_as_mfu_does(tied, rank):
    """Of rows of the full length that are all answer; only the plan counts the norms, five of width 8."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied,
    ))  # fmt: skip
    model.requires_grad_(not rank)
    config, length, rows = make(), 20, 3
    config = replace(config, train=replace(config.train, max_length=length), adapter=AdapterConfig(rank=rank))
    size = cost.Size.of(config, model.config, model.num_parameters(), rows * length)
    measured = Work.of(model).flops(np.full(rows, length), answers=rows * length)
    assert size.operations * rows * length == measured + (4 if rank else 6) * 5 * 8 * rows * length


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ([], 0.513 * 0.94),  # 256 rows of 2048 tokens are many micro-batches
        (["train.batch_size=12"], 0.513),  # 24,576 tokens are one
        (["train.batch_size=12", "machine.compile=false"], 0.398),
        (["train.batch_size=12", "machine.deterministic=true"], 0.484),
        (["train.batch_size=12", "machine.deterministic=true", "machine.compile=false"], 0.398),
        (["train.batch_size=12", "machine.recompute=full"], 0.513 * 6 / 8),
        (["train.batch_size=12", "machine.recompute=selective"], 0.513),
        (["adapter=lora"], 0.51),
        (["adapter=lora", "machine.recompute=full"], 0.51 * 4 / 6),
        (["method=grpo", "machine.compile=auto"], 0.526 * 11_718 / 43_143),
        (["train.precision=fp32"], None),
        (["model=tiny"], None),  # 167 thousand parameters
    ],
)
def test_the_share_of_a_gpus_peak_is_what_was_measured_for_such_a_cell(changes, share):
    planned = plan.make(make("machine.micro_batch_tokens=26112", "machine.compile=true", *changes), JOB)
    assert (planned.time.share and planned.time.share.share) == pytest.approx(share)
    assert (planned.hours is None) == (share is None)


def test_the_hours_and_tokens_a_second_of_the_papers_recipe_by_hand(monkeypatch):
    monkeypatch.setattr(gpus, "count", lambda: 1)
    monkeypatch.setattr(gpus, "memory", lambda: 141e9)
    monkeypatch.setattr(gpus, "name", lambda: "NVIDIA H200")
    recipe = make("machine.compile=true", "benchmark=[amc23]")
    planned, tokens = plan.make(recipe), 391 * 256 * 2048
    # Six operations of each weight, the tied output layer's too, and the attention of 28 layers of 12 heads of 128
    # dimensions to 1,024 tokens on average.
    operations = 6 * 1_543_714_304 + 12 * 28 * 12 * 128 * 1024
    training = tokens * operations / (0.513 * 0.94 * 989e12) / 3600
    scoring = 2 * 1_543_714_304 * 16 * 4096 * 40 / (0.1 * 989e12) / 3600
    assert planned.hours == pytest.approx(training + scoring)
    assert training == pytest.approx(1.17, abs=0.01)
    assert planned.time.rate(Card.of(gpu=True, here=True)) == pytest.approx(tokens / training / 3600)
    assert planned.time.rate(Card("slow", 1e12)) == pytest.approx(0.513 * 0.94 * 1e12 / operations)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", Card("NVIDIA H200", 989e12)),
        ("NVIDIA H100 NVL", Card("NVIDIA H100 NVL", 835e12)),
        ("NVIDIA A100-SXM4-80GB", Card("NVIDIA A100-SXM4-80GB", 312e12)),
        ("Tesla T4", Card("H100", 989e12, "the peak of Tesla T4 is not known")),
        (None, Card("H100", 989e12, "the peak of the GPU here is not known")),
    ],
)
def test_the_peak_is_that_of_the_gpu_here(monkeypatch, name, expected):
    monkeypatch.setattr(gpus, "name", lambda: name)
    assert Card.of(gpu=True, here=True) == expected
    assert Card.of(gpu=True, here=False) == Card("H100", 989e12, "a job's GPUs are not known here")
    assert Card.of(gpu=False, here=True) == Card("H100", 989e12, "no GPU is used here")


def measured(config: Config, seconds: float) -> Cell:
    """A record of two steps of 100 tokens, the first of which took a minute."""
    cell = Cell.of(config)
    cell.declare(config)
    cell.begin(config)
    rows = [{"step": step, "tokens": 100, "seconds": took} for step, took in ((1, 60.0), (2, seconds))]
    cell.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return cell


def test_the_hours_of_a_cpu_are_those_of_the_newest_cell_of_this_kind(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    here = ("machine.device=cpu", f"machine.results={tmp_path}", "dataset.rows=2560")
    config = make(*here)
    assert plan.make(config).hours is None
    plan.show([config])
    assert "hours of this CPU: not known for 1 of 1 trained cells, before one of" in capsys.readouterr().out

    old, new = (measured(replace(config, seed=seed), seconds) for seed, seconds in ((1, 0.5), (2, 4.0)))
    os.utime(old.metrics, (1e9, 1e9))
    cpu_speed._newest.cache_clear()  # as in another process
    assert cpu_speed.training(config, SIZE) == (25, new.folder.name)
    planned = plan.make(make(*here, "loss=sft"))
    assert planned.hours == pytest.approx(10 * 256 * 2048 / 25 / 3600)
    # Log-probabilities of the reference, of the data once: 2 operations beside 6.
    assert plan.make(make(*here, "loss=iw_sft")).hours == pytest.approx(planned.hours * (1 + 1 / 3))
    plan.show([config])
    printed = capsys.readouterr().out
    said = f"{planned.hours:.1f} of training (all rows of the full length), at the 25 tokens/s of {new.folder.name}"
    assert said in printed
    assert "device hours of an H100, since no GPU is used here, at most: " in printed
    assert "48% of its bfloat16 peak, as measured on an H200 with all weights of 1.5B parameters" in printed

    for change in ("train.precision=fp32", "adapter=lora", "machine.threads=7", "model=qwen2.5-math-7b"):
        assert plan.make(make(*here, change)).hours is None, change
    about = json.loads((new.folder / "environment.json").read_text())
    (new.folder / "environment.json").write_text(json.dumps(about | {"cpu": "another"}))
    cpu_speed._newest.cache_clear()
    assert cpu_speed.training(config, SIZE) == (200, old.folder.name)
    old.metrics.write_text('{"step": "x"}\n')
    cpu_speed._newest.cache_clear()
    assert cpu_speed.training(config, SIZE) is None


@pytest.mark.parametrize(
    ("words", "in_steps", "before"),
    [
        (["loss=asft"], 1, 0),
        (["loss=talr"], 1, 0),
        (["loss=iw_sft"], 0, 1),
        (["loss=gift"], 1, 1),
        (["loss=psft", "train.updates=3"], 1 / 3, 0),
        (["loss=sft"], 0, 0),
    ],
)
def test_the_rate_of_a_cell_serves_another_objective(tmp_path, words, in_steps, before):
    """Each pass without gradients takes a third of training; those before the first step are not in its seconds."""
    here = ("machine.device=cpu", f"machine.results={tmp_path}", "dataset.rows=2560")
    cell = measured(make(*here, *words), 4.0)
    rate, source = cpu_speed.training(make(*here, "loss=dft"), SIZE)
    assert (rate, source) == (pytest.approx(25 * (1 + in_steps / 3)), cell.folder.name)
    other, own = plan.make(make(*here, "loss=dft")), plan.make(make(*here, *words))
    assert other.hours == pytest.approx(10 * 256 * 2048 / rate / 3600)
    assert own.hours / own.tokens == pytest.approx(other.hours / other.tokens * (1 + (in_steps + before) / 3))


def test_a_record_of_other_cores_or_of_an_objective_that_is_gone_has_no_rate(tmp_path, monkeypatch):
    config = make("machine.device=cpu", f"machine.results={tmp_path}")
    monkeypatch.setattr("losslab.records.environment.available_cores", lambda: 3)
    cell = measured(config, 4.0)
    assert cpu_speed.training(config, SIZE) is None
    monkeypatch.setattr(cpu_speed, "available_cores", lambda: 3)
    cpu_speed._newest.cache_clear()
    assert cpu_speed.training(config, SIZE) == (25, cell.folder.name)
    record = cell.folder / "config.yaml"
    record.write_text(record.read_text().replace("losslab.objectives.dft.DFT", "somebody.Loss"))
    cpu_speed._newest.cache_clear()
    assert cpu_speed.training(config, SIZE) is None


def test_the_code_of_a_record_from_elsewhere_is_not_run_by_a_plan(tmp_path, monkeypatch):
    """A folder of results is a package to Python when the folder above it is on the path, as the project's is."""
    config = make("machine.device=cpu", f"machine.results={tmp_path}/results")
    cell = measured(config, 4.0)
    (cell.folder / "payload.py").write_text(f"open({str(tmp_path / 'code-was-run')!r}, 'w')\nclass X:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    record, target = cell.folder / "config.yaml", f"results.cells.{cell.folder.name}.payload.X"
    record.write_text(record.read_text().replace("losslab.objectives.dft.DFT", target))
    assert target in record.read_text() and cpu_speed.training(config, SIZE) is None
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.parametrize("job", [JOB, JOB | {"gpus_per_node": 0}], ids=["gpu", "cpu"])
def test_a_served_model_takes_no_hours_of_a_device(tmp_path, capsys, monkeypatch, job):
    monkeypatch.setenv("COLUMNS", "300")
    served, own = make(*SERVED), make("loss=base")
    assert plan.make(served, job).hours is None
    plan.show([served], job)
    printed = capsys.readouterr().out
    assert "hours of scoring: not known for 1 of 1 cells, whose answers come from an endpoint" in printed
    assert "device hours" not in printed and "of the peak" not in printed
    plan.show([own, served], job)
    printed = capsys.readouterr().out
    assert f"{plan.make(own, job).time.cost.scoring:,.1f} of scoring (all samples of the full length)" in printed
    assert "hours of scoring: not known for 1 of 2 cells" in printed and "sampling: 10% of the peak" in printed


def test_the_hours_of_a_job_without_gpus_are_not_known(capsys):
    config = make("model=tiny", "dataset=embedded", "benchmark=[tiny_add]", "loss=sft", "machine.device=cpu")
    plan.show([config], JOB | {"gpus_per_node": 0})
    assert "hours of the CPUs of a job: not known here" in capsys.readouterr().out
