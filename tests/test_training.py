"""The training loop in real worker processes, against an independent naive version and against itself."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from losslab import world
from losslab.batches import Schedule
from losslab.cell import train_model
from losslab.launch import WorkerError
from losslab.loop import lr_factor
from losslab.schema import (
    Config,
    DatasetConfig,
    MachineConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    SchedulerConfig,
    Shape,
    TrainConfig,
)

TARGETS = {
    "sft": "losslab.objectives.sft.SFT",
    "dft": "losslab.objectives.dft.DFT",
    "iw_sft": "losslab.objectives.iw_sft.IWSFT",
    "talr": "losslab.objectives.talr.TALR",
    "asft": "losslab.objectives.asft.ASFT",
    "psft": "losslab.objectives.psft.PSFT",
    "dpo": "losslab.objectives.dpo.DPO",
}
BATCH, STEPS, LR, MOMENTUM = 8, 3, 0.1, 0.9


def make(checkpoint: Path, rows: Path, results: Path, loss: str, **machine) -> Config:
    return Config(
        model=ModelConfig(path=str(checkpoint)),
        dataset=DatasetConfig(path=str(rows), rejected_column="wrong" if loss == "dpo" else None),
        loss={"_target_": TARGETS[loss]},
        optimizer=OptimizerConfig(_target_="torch.optim.SGD", lr=LR, arguments={"momentum": MOMENTUM}),
        scheduler=SchedulerConfig(warmup_ratio=0.34),
        train=TrainConfig(
            batch_size=BATCH, precision=Precision.fp32, clip=0.5, updates=3 if loss == "psft" else 1, max_steps=STEPS
        ),
        machine=MachineConfig(results=str(results), device="cpu", threads=1, **machine),
        seed=5,
    )


def trained(config: Config, folder: Path) -> tuple[dict[str, torch.Tensor], list[dict]]:
    train_model(config, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return load_file(folder / "model" / "model.safetensors"), lines


def data_rows(rows: Path) -> list[dict]:
    return [json.loads(line) for line in rows.read_text().splitlines()]


def sequence(row: dict, column: str = "solution") -> tuple[torch.Tensor, int]:
    """(T,) token ids of prompt, answer and EOS, and where the answer begins."""
    tokenizer = world.tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": row["problem"]}], add_generation_prompt=True, tokenize=False
    )
    head = tokenizer(prompt)["input_ids"]
    return torch.tensor(head + tokenizer(row[column])["input_ids"] + [tokenizer.eos_token_id]), len(head)


def naive(checkpoint: Path, rows: Path, loss: str) -> tuple[dict[str, torch.Tensor], list[float], list[float]]:
    """One example at a time, full logits, float64, and every formula written out."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    reference = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    data = data_rows(rows)
    schedule = Schedule(len(data), BATCH, 1, seed=5, updates=3 if loss == "psft" else 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    losses, norms = [], []

    def logprobs(model, row, column="solution"):
        """(N,) log-probabilities of the answer tokens and (N, V) the whole distributions."""
        ids, start = sequence(row, column)
        table = model(input_ids=ids[None]).logits[0].log_softmax(-1)[start - 1 : -1]
        return table[range(len(table)), ids[start:]], table

    for step in range(STEPS):
        total, count = torch.zeros((), dtype=torch.float64), 0
        for i in schedule.batch(step):
            logp, table = logprobs(model, data[i])
            known, known_table = logprobs(reference, data[i])
            match loss:
                case "sft":
                    terms = -logp
                case "dft":
                    terms = -logp.detach().exp() * logp
                case "iw_sft":
                    terms = -(logp - known).mean().exp().clamp(0, 16).detach() * logp
                case "asft":
                    kl = (known_table.detach().exp() * (known_table.detach() - table)).sum(-1)
                    terms = -logp.detach().exp() * logp + 0.05 * kl
                case "psft":  # all three steps are on the first batch, whose old policy is the base model
                    terms = -(logp - known.detach()).exp().clamp(max=1.28)
                case "dpo":
                    wrong, known_wrong = logprobs(model, data[i], "wrong")[0], logprobs(reference, data[i], "wrong")[0]
                    margin = (logp - known.detach()).sum() - (wrong - known_wrong.detach()).sum()
                    terms = -torch.nn.functional.logsigmoid(0.1 * margin)[None]
            total = total + terms.sum()
            count += len(terms)
        optimizer.zero_grad()
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:  # one step of warm-up, then a cosine over the two that remain
            group["lr"] = LR * [1.0, 1.0, 0.5][step]
        optimizer.step()
        losses.append(float(total.detach()) / count)
        norms.append(float(norm))
    return model.state_dict(), losses, norms


@pytest.mark.parametrize("loss", ["sft", "dft", "iw_sft", "asft", "psft", "dpo"])
def test_three_steps_equal_the_naive_version(checkpoint, rows, tmp_path, loss):
    weights, metrics = trained(make(checkpoint, rows, tmp_path, loss), tmp_path / "cell")
    expected, losses, norms = naive(checkpoint, rows, loss)
    assert len(metrics) == STEPS
    np.testing.assert_allclose([row["loss"] for row in metrics], losses, rtol=1e-5)
    np.testing.assert_allclose([row["gradient_norm"] for row in metrics], norms, rtol=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("loss", ["dft", "talr", "asft", "dpo"])
def test_ranks_and_micro_batches_do_not_change_the_result(checkpoint, rows, tmp_path, loss):
    one, metrics = trained(make(checkpoint, rows, tmp_path, loss), tmp_path / "one")
    config = make(checkpoint, rows, tmp_path, loss, workers=2, micro_batch_tokens=64)
    two, sharded = trained(config, tmp_path / "two")
    np.testing.assert_allclose([r["loss"] for r in metrics], [r["loss"] for r in sharded], rtol=1e-5)
    assert [r["answer_tokens"] for r in metrics] == [r["answer_tokens"] for r in sharded]
    assert [r["p_histogram"] for r in metrics] == [r["p_histogram"] for r in sharded]
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=2e-6, msg=name)


def test_resume_is_bit_identical_also_from_a_checkpoint_between(checkpoint, rows, tmp_path):
    adam = OptimizerConfig(_target_="torch.optim.AdamW", lr=1e-3, weight_decay=0.1, arguments={"fused": True})
    config = replace(make(checkpoint, rows, tmp_path, "iw_sft", checkpoint_steps=2), optimizer=adam)
    config = replace(config, train=replace(config.train, epochs=2, max_steps=None))
    whole, metrics = trained(config, tmp_path / "whole")
    # The first part ends by an error in its third step: a batch that cannot be read.
    tokens = tmp_path / "cache" / "data"
    (folder,) = (file.parent for file in tokens.glob("*/tokens.npy"))
    intact = np.load(folder / "tokens.npy")
    broken = intact.copy()
    lengths = np.diff(np.load(folder / "offsets.npy"))
    first = Schedule(len(lengths), BATCH, 2, seed=5).batch(2)[0]
    broken[np.load(folder / "offsets.npy")[first]] = 10**6  # no such token
    np.save(folder / "tokens.npy", broken)
    with pytest.raises(WorkerError, match="rank 0: IndexError: index out of range"):
        train_model(config, tmp_path / "cell")
    assert [path.name for path in (tmp_path / "cell" / "checkpoints").iterdir()] == ["step-00000002"]
    np.save(folder / "tokens.npy", intact)
    resumed, again = trained(config, tmp_path / "cell")
    assert not (tmp_path / "cell" / "checkpoints").exists()
    assert [row["step"] for row in again] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in again] == [row["loss"] for row in metrics]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_a_gradient_that_is_not_finite_is_one_clear_error(checkpoint, rows, tmp_path):
    config = make(checkpoint, rows, tmp_path, "sft")
    config = replace(config, optimizer=replace(config.optimizer, lr=1e30), train=replace(config.train, clip=1e30))
    with pytest.raises(WorkerError, match="rank 0: .*the gradient is not finite at step 2: lower optimizer.lr"):
        train_model(config, tmp_path / "cell")


def test_learning_rate_shapes():
    cosine = SchedulerConfig(shape=Shape.cosine, warmup_ratio=0.2)
    expected = [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8))]
    assert [lr_factor(cosine, step, 10) for step in range(10)] == pytest.approx(expected)
    linear = SchedulerConfig(shape=Shape.linear, warmup_steps=0, floor=0.1)
    assert [lr_factor(linear, step, 4) for step in range(4)] == pytest.approx([1.0, 0.775, 0.55, 0.325])
    wsd = SchedulerConfig(shape=Shape.wsd, warmup_ratio=0.25, decay_ratio=0.5)
    assert [lr_factor(wsd, step, 8) for step in range(8)] == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    constant = SchedulerConfig(shape=Shape.constant, warmup_steps=2)
    assert [lr_factor(constant, step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
