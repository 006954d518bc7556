"""The training loop in real worker processes, against an independent naive version and against itself."""

import json
import math
import statistics
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader
from transformers import AutoModelForCausalLM

from losslab.cells import training
from losslab.cells.training import train_model
from losslab.config.machine import MachineConfig
from losslab.config.schema import (
    AdapterConfig,
    Config,
    DatasetConfig,
    Decay,
    ModelConfig,
    NonFinite,
    Normaliser,
    OptimizerConfig,
    Precision,
    SchedulerConfig,
    Shape,
    TrainConfig,
)
from losslab.data import toy_task
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.distributed.process_group import WorkerError
from losslab.files.json_files import read_json, read_lines, write_json, write_lines
from losslab.models.loading import load_model
from losslab.models.policy import Policy
from losslab.objectives import Objective, Targets
from losslab.planning import memory, plan, sizing
from losslab.planning.architecture import describe
from losslab.training.checkpoints import Checkpoints
from losslab.training.optimizer import check_schedule, lr_factor, make_optimizer, weight_decay_groups
from losslab.training.steps import Steps

TARGETS = {
    "sft": "losslab.objectives.sft.SFT",
    "dft": "losslab.objectives.dft.DFT",
    "iw_sft": "losslab.objectives.iw_sft.IWSFT",
    "talr": "losslab.objectives.talr.TALR",
    "cadft": "losslab.objectives.cadft.CADFT",
    "asft": "losslab.objectives.asft.ASFT",
    "psft": "losslab.objectives.psft.PSFT",
    "dpo": "losslab.objectives.dpo.DPO",
    "nft": "losslab.objectives.nft.NFT",
}
BATCH, STEPS, LR, MOMENTUM = 8, 3, 0.1, 0.9
TWO_RANKS = {"workers": 2, "micro_batch_tokens": 64}  # with two micro-batches on each


def make(checkpoint: Path, rows: Path, results: Path, loss: str, **machine) -> Config:
    return Config(
        model=ModelConfig(path=str(checkpoint)),
        dataset=DatasetConfig(
            path=str(rows),
            rejected_column="wrong" if loss == "dpo" else None,
            reward_column="reward" if loss == "nft" else None,
        ),
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
    tokenizer = toy_task.tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": row["problem"]}], add_generation_prompt=True, tokenize=False
    )
    head = tokenizer(prompt)["input_ids"]
    return torch.tensor(head + tokenizer(row[column])["input_ids"] + [tokenizer.eos_token_id]), len(head)


def logprobs(model, row, column="solution") -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) log-probabilities of the answer tokens and (N, V) the whole distributions."""
    ids, start = sequence(row, column)
    table = model(input_ids=ids[None]).logits[0].log_softmax(-1)[start - 1 : -1]
    return table[range(len(table)), ids[start:]], table


def first_gradient(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The clipped gradient of each weight in the first step, which SGD's momentum is after it."""
    reader = HuggingFaceStorageReader(str(checkpoint))
    about = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(about[name].size) for name in about if name.endswith(".momentum_buffer")}
    dcp.load(state, storage_reader=reader)
    before, after = "optimizer.state.model.", ".momentum_buffer"
    return {name.removeprefix(before).removesuffix(after): tensor for name, tensor in state.items()}


def naive(
    checkpoint: Path, rows: Path, loss: str, normaliser: Normaliser
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[float], list[float]]:
    """One example at a time, full logits, float64, and every formula written out.

    Returns weights, the clipped gradient of the first step, losses and gradient norms.
    """
    model = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    reference = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    data = data_rows(rows)
    sampler = RandomBatchSampler(len(data), BATCH, 1, seed=5, updates=3 if loss == "psft" else 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    losses, norms, first = [], [], dict[str, torch.Tensor]()

    for step in range(STEPS):
        total, count = torch.zeros((), dtype=torch.float64), 0
        if loss in ("talr", "cadft"):  # of the whole batch, before its update
            nll = [-float(logprobs(model, data[i])[0].detach().mean()) for i in sampler.batch(step)]
            median, mean, deviation = statistics.median(nll), statistics.mean(nll), statistics.pstdev(nll)
        for i in sampler.batch(step):
            logp, table = logprobs(model, data[i])
            known, known_table = logprobs(reference, data[i])
            p = logp.detach().exp()
            match loss:
                case "sft":
                    terms = -logp
                case "dft":
                    terms = -p * logp
                case "iw_sft":
                    terms = -(logp - known).mean().exp().clamp(0, 16).detach() * logp
                case "asft":
                    kl = (known_table.detach().exp() * (known_table.detach() - table)).sum(-1)
                    terms = -p * logp + 0.05 * kl
                case "psft":  # all three steps are on the first batch, whose old policy is the base model
                    terms = -(logp - known.detach()).exp().clamp(max=1.28)
                case "talr":
                    terms = -torch.maximum(p ** (1 / median), torch.tensor(0.01)) * logp
                case "cadft":
                    surprise = (-float(logp.detach().mean()) - mean) / deviation
                    terms = -p * math.exp(-max(0.0, surprise)) * logp
                case "dpo":
                    wrong, known_wrong = logprobs(model, data[i], "wrong")[0], logprobs(reference, data[i], "wrong")[0]
                    margin = (logp - known.detach()).sum() - (wrong - known_wrong.detach()).sum()
                    terms = -torch.nn.functional.logsigmoid(0.1 * margin)[None]
                case "nft":
                    rate, log_ratio = data[i]["success_rate"], logp - known.detach()
                    if rate in (0, 1):
                        terms = 0 * logp
                    elif data[i]["reward"]:
                        terms = -(1 - rate) * log_ratio
                    else:
                        negative = (1 - rate * log_ratio.exp()) / (1 - rate)
                        held = negative.detach().clamp(min=1)
                        terms = -(1 - rate) * (held.log() + (negative - negative.detach()) / held)
            total = total + terms.sum()
            count += len(terms) if normaliser == Normaliser.natural else float(p.sum())
        optimizer.zero_grad()
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        first = first or {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        for group in optimizer.param_groups:  # one step of warm-up, then a cosine over the two that remain
            group["lr"] = LR * [1.0, 1.0, 0.5][step]
        optimizer.step()
        losses.append(float(total.detach()) / count)
        norms.append(float(norm))
    return model.state_dict(), first, losses, norms


@pytest.mark.parametrize(
    ("loss", "normaliser", "machine"),
    [
        *((loss, "natural", {}) for loss in ("sft", "dft", "iw_sft", "asft", "psft", "dpo")),
        ("dft", "weights", TWO_RANKS),
        ("talr", "natural", TWO_RANKS),  # these two read statistics of the global batch
        ("cadft", "natural", TWO_RANKS),
        ("nft", "natural", TWO_RANKS),
        ("dft", "natural", TWO_RANKS | {"workers": 3}),  # which do not divide the batch
    ],
)
def test_three_steps_equal_the_naive_version(checkpoint, rows, tmp_path, loss, normaliser, machine):
    config = make(checkpoint, rows, tmp_path, loss, checkpoint_steps=1, keep_every=1, validation_steps=2, **machine)
    config.train.normaliser = Normaliser(normaliser)
    held_out = data_rows(rows)[:2] + [data_rows(rows)[2] | {"problem": "1+2=?"}]
    config.dataset.validation = str(tmp_path / "held.jsonl")
    write_lines(tmp_path / "held.jsonl", held_out)
    weights, metrics = trained(config, tmp_path / "cell")
    check_held_out(tmp_path / "cell", held_out, "solution" if loss != "dpo" else "wrong")
    expected, gradient, losses, norms = naive(checkpoint, rows, loss, config.train.normaliser)
    assert len(metrics) == STEPS
    np.testing.assert_allclose([row["loss"] for row in metrics], losses, rtol=1e-6, atol=1e-7)  # NFT begins at 0
    np.testing.assert_allclose([row["gradient_norm"] for row in metrics], norms, rtol=1e-6)
    if loss != "psft":  # whose steps are all on one batch, without a checkpoint between
        found = first_gradient(tmp_path / "cell/checkpoints/step-00000001")
        assert found.keys() == gradient.keys()
        apart = torch.stack([(found[name] - tensor).norm() for name, tensor in gradient.items()]).norm()
        assert apart < 1e-6 * torch.stack([tensor.norm() for tensor in gradient.values()]).norm()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=0, atol=1e-6, msg=name)


def check_held_out(folder: Path, rows: list[dict], other: str) -> None:
    """Held-out rows are measured on the way, at the end with the exported model, and those seen are counted."""
    measured, about = read_lines(folder / "validation.jsonl"), read_json(folder / "data.json")["validation"]
    assert [row["step"] for row in measured] == [0, 2, STEPS]  # every second step, and the last
    count = 2 if other == "solution" else 4  # of a pair both answers are examples
    assert (about["rows"], about["prompts_trained"], about["repeated"]) == (3, count, count)
    model = AutoModelForCausalLM.from_pretrained(folder / "model").double()
    columns = dict.fromkeys(("solution", other))
    with torch.no_grad():
        nll = -torch.cat([logprobs(model, row, column)[0] for row in rows for column in columns])
    assert measured[-1]["cross_entropy"] == pytest.approx(float(nll.mean()), rel=1e-6)
    assert measured[-1]["answer_tokens"] == len(nll)


@pytest.mark.parametrize("loss", ["dft", "talr", "asft", "dpo"])
def test_ranks_and_micro_batches_do_not_change_the_result(checkpoint, rows, tmp_path, loss):
    one, metrics = trained(make(checkpoint, rows, tmp_path, loss), tmp_path / "one")
    config = make(checkpoint, rows, tmp_path, loss, **TWO_RANKS)
    two, sharded = trained(config, tmp_path / "two")
    np.testing.assert_allclose([r["loss"] for r in metrics], [r["loss"] for r in sharded], rtol=1e-6)
    assert [r["answer_tokens"] for r in metrics] == [r["answer_tokens"] for r in sharded]
    assert [r["p_histogram"] for r in metrics] == [r["p_histogram"] for r in sharded]
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("adapter", [AdapterConfig(), AdapterConfig(8, 16, ["q_proj", "down_proj"])])
def test_bfloat16_is_close_to_float32_on_one_rank_and_on_two(checkpoint, rows, tmp_path, adapter):
    """How far the weights have moved, as a whole, differs by less than 5%.

    bfloat16 rounds to 8 bits, thus by up to 0.4%, at every product of three layers: errors of a gradient are a few
    times that, and measured about 1%. Weights that were kept in bfloat16 would differ by more than they move.
    """
    published = checkpoint
    if adapter.rank:  # which are held in bfloat16 then: numbers that lose nothing
        model, published = AutoModelForCausalLM.from_pretrained(checkpoint), tmp_path / "published"
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
        model.save_pretrained(published)
        toy_task.tokenizer().save_pretrained(published)
    start = load_file(published / "model.safetensors")

    def moved(folder: str, precision: str, **machine) -> tuple[torch.Tensor, list[dict]]:
        config = replace(make(published, rows, tmp_path, "dft", **machine), adapter=adapter)
        config.train.precision = Precision(precision)
        weights, metrics = trained(config, tmp_path / folder)
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}  # as published
        return torch.cat([(weights[name] - start[name]).flatten() for name in start]), metrics

    exact, metrics = moved("exact", "fp32")
    one, rounded = moved("one", "bf16")
    two, sharded = moved("two", "bf16", **TWO_RANKS)
    size = exact.norm()
    for found, expected in ((one, exact), (two, exact), (two, one)):
        assert 1e-4 * size < (found - expected).norm() < 0.05 * size  # not equal: it did compute in bfloat16
    for key, tolerance in (("loss", 0.02), ("gradient_norm", 0.02), ("cross_entropy", 0.002)):
        for found in (rounded, sharded):
            np.testing.assert_allclose([r[key] for r in found], [r[key] for r in metrics], rtol=tolerance)


def test_a_model_is_exported_in_the_dtype_it_was_published_in(checkpoint, rows, tmp_path):
    published = tmp_path / "published"
    AutoModelForCausalLM.from_pretrained(checkpoint).bfloat16().save_pretrained(published)
    toy_task.tokenizer().save_pretrained(published)
    config = make(published, rows, tmp_path, "sft", **TWO_RANKS)
    config.train.max_steps, config.train.precision = 1, Precision.bf16
    weights, _ = trained(config, tmp_path / "cell")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "cell/model/config.json").read_text())["dtype"] == "bfloat16"
    before = load_file(published / "model.safetensors")
    assert set(weights) == set(before) and any(not torch.equal(weights[name], before[name]) for name in before)


def test_a_run_is_laid_out_for_the_tokens_of_its_plan_and_records_the_layout(checkpoint, rows, tmp_path, monkeypatch):
    """Of three steps, however many rows there are: what is not worth compilation in the plan is not compiled."""
    config, seen = make(checkpoint, rows, tmp_path, "dft"), []

    def sized(config: Config, tokens: int | None) -> Config:
        seen.append(tokens)
        return sizing.sized(config, tokens)

    monkeypatch.setattr("losslab.cells.training.sized", sized)
    planned = plan.make(config)
    _, metrics = trained(config, tmp_path / "cell")
    assert seen == [planned.tokens] == [STEPS * BATCH * config.train.max_length]
    layout = read_json(tmp_path / "cell/layout.json")
    assert layout["attention"] == "scaled_dot_product_attention by runs"
    assert not layout["compile"] and "measured_memory" not in layout
    # The plan's formula for the first two steps, in place of steps of the longest rows.
    steps, laid_out = [row["tokens"] for row in metrics[:2]], sizing.sized(config)
    expected = memory.on_device(laid_out, describe(config), planned.parameters, steps=steps)
    assert layout["planned_memory"] == expected < planned.memory


def test_the_reference_is_measured_once_for_a_model_and_its_data(checkpoint, rows, tmp_path):
    def files(model: Path, data: Path, seed: int) -> dict[Path, tuple[int, bytes]]:
        config = make(model, data, tmp_path, "iw_sft")
        config.train.max_steps, config.seed = 1, seed
        train_model(config, tmp_path / f"cell-{model.name}-{data.stem}-{seed}")
        return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.glob("cache/reference/*")}

    first = files(checkpoint, rows, seed=5)
    ((file, _),) = first.items()
    base = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    with torch.no_grad():
        expected = [logprobs(base, json.loads(line))[0] for line in rows.read_text().splitlines()]
    np.testing.assert_allclose(np.load(file), torch.cat(expected), rtol=0, atol=1e-5)

    assert files(checkpoint, rows, seed=6) == first
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(rows.read_text().splitlines(keepends=True)[:9]))
    second = files(checkpoint, fewer, seed=5)
    assert len(second) == 2 and first.items() < second.items()
    other = tmp_path / "other"
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(toy_task.model_config()).save_pretrained(other)
    toy_task.tokenizer().save_pretrained(other)
    third = files(other, fewer, seed=5)
    assert len(third) == 3 and second.items() < third.items()


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
    first = RandomBatchSampler(len(lengths), BATCH, 2, seed=5).batch(2)[0]
    broken[np.load(folder / "offsets.npy")[first]] = -1  # no such token
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


@dataclass(frozen=True)
class Breaking(Objective):
    """-log p, and infinity where the reward is 1."""

    needs = frozenset({"reward"})

    def loss(self, t: Targets) -> torch.Tensor:
        return -t.logp / (1 - t.reward[t.sequence])


def test_a_skipped_step_moves_the_schedule_and_nothing_else(checkpoint, rows, tmp_path):
    """Four steps of 4 rows; one row of the second breaks its gradient. The rates are 1, 3/4, 1/2, 1/4 of the peak."""
    data = [row | {"reward": 0} for row in data_rows(rows)[:16]]
    data[RandomBatchSampler(16, 4, 1, seed=5).batch(1)[2]]["reward"] = 1
    broken = tmp_path / "broken.jsonl"
    broken.write_text("".join(json.dumps(row) + "\n" for row in data))
    config = make(checkpoint, broken, tmp_path, "nft", export_steps=1)
    config = replace(
        config,
        loss={"_target_": f"{__name__}.Breaking"},
        optimizer=OptimizerConfig("torch.optim.SGD", LR),
        scheduler=SchedulerConfig(shape=Shape.linear, warmup_ratio=0),
        train=replace(config.train, batch_size=4, max_steps=4, non_finite=NonFinite.skip),
    )
    last, metrics = trained(config, tmp_path / "cell")
    assert [row["skipped"] for row in metrics] == [False, True, False, False]
    assert [row["lr"] for row in metrics] == pytest.approx([LR, LR * 3 / 4, LR / 2, LR / 4])
    one, two, three = (load_file(tmp_path / f"cell/steps/0000000{i}/model.safetensors") for i in (1, 2, 3))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for before, after, row in ((two, three, metrics[2]), (three, last, metrics[3])):
        moved = torch.cat([(after[name] - before[name]).flatten() for name in before]).norm()
        assert float(moved) == pytest.approx(row["lr"] * min(config.train.clip, row["gradient_norm"]), rel=1e-4)


@pytest.mark.parametrize("skipped", [[False] * 3, [False, True, True], [True] * 3])
def test_the_end_of_a_run_says_how_many_updates_were_skipped(one_rank, tmp_path, capsys, skipped):
    model, sampler, exported = torch.nn.Linear(1, 1), RandomBatchSampler(12, 4, 1, seed=5), []
    optimizer = torch.optim.SGD(model.parameters())
    with Checkpoints(tmp_path / "checkpoints", model, optimizer, torch.device("cpu"), 1, None) as checkpoints:
        steps = Steps(MachineConfig(), sampler, tmp_path, checkpoints, exported.append)
        for step in steps.resume():
            steps.record({"step": step + 1, "skipped": skipped[step]}, "")
        with pytest.raises(ValueError, match="all 3 updates were skipped") if all(skipped) else nullcontext():
            steps.finish()
    assert exported == ([] if all(skipped) else [tmp_path / "model"])
    told = "2 of 3 updates were skipped: their gradient was not finite" in capsys.readouterr().err
    assert told == (sum(skipped) == 2)


def test_a_run_that_skipped_every_update_exports_no_model(checkpoint, rows, tmp_path):
    """Nor when the same command resumes it."""
    broken, cell = tmp_path / "broken.jsonl", tmp_path / "cell"
    broken.write_text("".join(json.dumps(row | {"reward": 1}) + "\n" for row in data_rows(rows)[:16]))
    config = make(checkpoint, broken, tmp_path, "nft", checkpoint_steps=1, workers=2)
    config = replace(
        config,
        loss={"_target_": f"{__name__}.Breaking"},
        train=replace(config.train, batch_size=8, max_steps=2, non_finite=NonFinite.skip),
    )
    for _ in range(2):
        with pytest.raises(WorkerError, match="^rank [01]: ValueError: all 2 updates were skipped"):
            train_model(config, cell)
        assert [row["skipped"] for row in read_lines(cell / "metrics.jsonl")] == [True, True]
        assert not (cell / "model").exists()


def test_weight_decay_spares_the_biases_of_fused_experts():
    """Which have two dimensions, as in gpt-oss."""
    module = torch.nn.Module()
    shapes = {"gate_up_proj": (4, 6, 8), "gate_up_proj_bias": (4, 8), "router": (4, 6), "gain": (6,)}
    for name, shape in shapes.items():
        module.register_parameter(name, torch.nn.Parameter(torch.ones(shape)))
    config = OptimizerConfig("torch.optim.AdamW", lr=0.1, weight_decay=0.5)
    decayed, rest = weight_decay_groups(config, module)
    assert (decayed["weight_decay"], [p.shape for p in decayed["params"]]) == (0.5, [(4, 6, 8), (4, 6)])
    assert (rest["weight_decay"], [p.shape for p in rest["params"]]) == (0.0, [(4, 8), (6,)])
    (every,) = weight_decay_groups(replace(config, decay=Decay.all), module)
    assert [p.shape for p in every["params"]] == list(shapes.values())


@pytest.mark.parametrize("decay", list(Decay))
def test_weight_decay_spares_biases_and_norm_gains_unless_told_otherwise(checkpoint, decay):
    policy = Policy(load_model(ModelConfig(path=str(checkpoint))), Precision.fp32, torch.float32, AdapterConfig())
    for name, parameter in policy.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.ones_(parameter)  # they are zero in a new model, which no decay would show
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    make_optimizer(OptimizerConfig("torch.optim.AdamW", lr=0.1, weight_decay=0.5, decay=decay), policy).step()
    spared = {name for name in before if name.endswith("bias") or "norm" in name}
    assert len(before) == 1 + 3 * 12 + 1 and len(spared) == 3 * 5 + 1  # three layers: 3 biases, 2 gains in each
    for name, parameter in policy.named_parameters():  # without a gradient, a step of AdamW is its decay
        factor = 1.0 if name in spared and decay == Decay.matrices else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), factor * before[name], msg=name)


def test_learning_rate_shapes():
    cosine = SchedulerConfig(shape=Shape.cosine, warmup_ratio=0.2)
    expected = [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8))]
    assert [lr_factor(cosine, step, 10) for step in range(10)] == pytest.approx(expected)
    official = replace(cosine, warmup_at_zero=True)  # the others are as they were
    assert [lr_factor(official, step, 10) for step in range(10)] == pytest.approx([0.0, 0.5, *expected[2:]])
    linear = SchedulerConfig(shape=Shape.linear, warmup_steps=0, floor=0.1)
    assert [lr_factor(linear, step, 4) for step in range(4)] == pytest.approx([1.0, 0.775, 0.55, 0.325])
    wsd = SchedulerConfig(shape=Shape.wsd, warmup_ratio=0.25, decay_ratio=0.5)
    assert [lr_factor(wsd, step, 8) for step in range(8)] == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    constant = SchedulerConfig(shape=Shape.constant, warmup_steps=2)
    assert [lr_factor(constant, step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_a_warm_up_that_leaves_no_step_of_the_shape_is_refused(checkpoint, rows, tmp_path):
    """20 warm-up steps of 20 never reach the peak that optimizer.lr names; 19 do."""
    check_schedule(SchedulerConfig(warmup_steps=19), 20)
    check_schedule(SchedulerConfig(warmup_ratio=0.1), 1)  # rounded to none
    for config, message in (
        (
            SchedulerConfig(warmup_steps=20),
            "the warm-up of 20 steps is not over in the 20 .*: lower scheduler.warmup_steps",
        ),
        (SchedulerConfig(warmup_ratio=1.0), "lower scheduler.warmup_ratio"),
        (
            SchedulerConfig(shape=Shape.wsd, warmup_ratio=0.5, decay_ratio=0.8),
            "from step 4, within the warm-up of 10 steps: lower scheduler.warmup_ratio or scheduler.decay_ratio",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check_schedule(config, 20)
    config = make(checkpoint, rows, tmp_path, "sft")
    with pytest.raises(ValueError, match="the warm-up of 500 steps is not over"):
        train_model(replace(config, scheduler=SchedulerConfig(warmup_steps=500)), tmp_path / "cell")


def test_what_was_measured_of_another_layout_is_not_kept(checkpoint, rows, tmp_path, monkeypatch):
    """A cell that goes on elsewhere keeps what the first steps showed, if its layout is the same."""
    monkeypatch.setattr(training, "launch", lambda *_, **__: None)
    config, file = make(checkpoint, rows, tmp_path, "sft", micro_batch_tokens=64), tmp_path / "cell/layout.json"
    train_model(config, tmp_path / "cell")
    written = read_json(file)
    assert written["micro_batch_tokens"] == 64 and written["planned_memory"] > 0
    write_json(file, written | {"attention": "x", "measured_memory": 7})
    train_model(config, tmp_path / "cell")
    assert read_json(file) == written | {"attention": "x", "measured_memory": 7}
    config.machine.micro_batch_tokens = 128
    train_model(config, tmp_path / "cell")
    assert read_json(file).keys() == written.keys() and read_json(file)["micro_batch_tokens"] == 128
