"""Objectives in the trainers of transformers and TRL, in real training beside these trainers' own losses."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from losslab.data import toy_task
from losslab.integrations.loss_func import loss_func
from losslab.integrations.trainer import ObjectiveTrainer, add_objective
from losslab.objectives import Objective, Targets
from losslab.objectives.cadft import CADFT
from losslab.objectives.dft import DFT
from losslab.objectives.dft_sequence import SequenceDFT
from losslab.objectives.eaft import EAFT
from losslab.objectives.gem import GEM
from losslab.objectives.label_smoothing import LabelSmoothing
from losslab.objectives.sft import SFT

trl = pytest.importorskip("trl", reason="TRL is not installed")
datasets = pytest.importorskip("datasets")
from losslab.integrations.sft_trainer import ObjectiveSFTTrainer  # noqa: E402

LENGTHS = [(9, 4), (17, 9), (12, 3), (6, 2), (14, 8), (8, 5), (11, 6), (16, 2)]  # tokens, of which the prompt has


@pytest.fixture(scope="module")
def rows() -> Any:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(4, toy_task.model_config().vocab_size, (n,), generator=generator).tolist() for n, _ in LENGTHS]
    labels = [[-100] * prompt + row[prompt:] for row, (_, prompt) in zip(ids, LENGTHS, strict=True)]
    return datasets.Dataset.from_dict({"input_ids": ids, "labels": labels})


def collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Padded on the right."""
    width = max(len(row["input_ids"]) for row in rows)

    def pad(values: list[int], value: int) -> list[int]:
        return values + [value] * (width - len(values))

    columns = {"input_ids": 0, "labels": -100}
    batch = {name: torch.tensor([pad(row[name], value) for row in rows]) for name, value in columns.items()}
    return batch | {"attention_mask": torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in rows])}


OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2, "learning_rate": 1e-2,
    "logging_steps": 1, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "seed": 3,
    "per_device_eval_batch_size": 4, "max_grad_norm": 0.5, "optim": "sgd",
}  # fmt: skip


def trained(trainer: Any) -> tuple[list[dict[str, float]], list[Tensor]]:
    """The logs of the steps, and the weights at the end."""
    trainer.train()
    logs = [row for row in trainer.state.log_history if "grad_norm" in row]
    return logs, [p.detach().clone() for p in trainer.model.parameters()]


def model(checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def same(ours: Any, theirs: Any) -> list[dict[str, float]]:
    (logs, weights), (other_logs, other_weights) = trained(ours), trained(theirs)
    assert len(logs) == len(other_logs) == 2
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in logs] == pytest.approx([row[key] for row in other_logs], rel=1e-4)
    torch.testing.assert_close(weights, other_weights, rtol=1e-4, atol=1e-6)
    return logs


@pytest.mark.parametrize(("smoothing", "objective"), [(0.0, SFT()), (0.1, LabelSmoothing(0.1))])
def test_the_trainer_of_transformers(checkpoint, rows, tmp_path, smoothing, objective):
    """Steps of two micro-batches with different numbers of labels, beside its own cross-entropy and smoothing."""
    options = OPTIONS | {"output_dir": str(tmp_path)}
    plain = TrainingArguments(**options, label_smoothing_factor=smoothing)
    arguments = {"train_dataset": rows, "eval_dataset": rows, "data_collator": collate}
    trainer = ObjectiveTrainer(model(checkpoint), TrainingArguments(**options), objective=objective, **arguments)
    logs = same(trainer, Trainer(model(checkpoint), plain, **arguments))
    if not smoothing:
        assert [row["cross_entropy"] for row in logs] == pytest.approx([row["loss"] for row in logs], rel=1e-3)
    evaluated = trainer.evaluate()
    table = [trainer.model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1) for row in rows]
    nll = torch.cat(
        [-t[range(p - 1, n - 1), row["input_ids"][p:]] for t, row, (n, p) in zip(table, rows, LENGTHS, strict=True)]
    )
    assert evaluated["eval_cross_entropy"] == pytest.approx(nll.mean().item(), rel=1e-4)
    predicted = trainer.predict(rows.select(range(2)))  # asks for logits too
    some = sum(n - p for n, p in LENGTHS[:2])
    assert predicted.predictions is None
    assert predicted.metrics["test_cross_entropy"] == pytest.approx(nll[:some].mean().item(), rel=1e-4)
    both = trainer.evaluate({"few": rows.select(range(2)), "all": rows})  # each has its own
    assert both["eval_few_cross_entropy"] == predicted.metrics["test_cross_entropy"]
    assert both["eval_all_cross_entropy"] == evaluated["eval_cross_entropy"]


@pytest.mark.parametrize("objective", [DFT(), EAFT(), GEM(), LabelSmoothing(0.1)])
def test_the_loss_of_logits_is_that_of_the_fused_loss(checkpoint, rows, tmp_path, objective):
    """Of a token, of its distribution, and of terms that move probability among other tokens."""
    options = OPTIONS | {"output_dir": str(tmp_path)}
    arguments = {"train_dataset": rows, "data_collator": collate}
    fused = ObjectiveTrainer(model(checkpoint), TrainingArguments(**options), objective=objective, **arguments)
    plain = TrainingArguments(**options)
    same(fused, Trainer(model(checkpoint), plain, compute_loss_func=loss_func(objective), **arguments))


def test_the_loss_of_logits_by_hand():
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]]], requires_grad=True)
    labels = torch.tensor([[-100, 0, -100]])  # the first position predicts token 0: p = 1 / (1 + e) = 0.268941
    out = SimpleNamespace(logits=logits)
    loss = loss_func(DFT())(out, labels)
    assert loss.item() == pytest.approx(0.268941 * 1.313262, rel=1e-5)
    assert loss_func(DFT())(out, labels, num_items_in_batch=4).item() == pytest.approx(loss.item() / 4)
    loss.backward()
    slope = 0.268941 * 0.731059  # p (1 - p)
    assert logits.grad is not None and logits.grad[0, 0].tolist() == pytest.approx([-slope, slope], rel=1e-5)
    assert not logits.grad[0, 1:].any()
    nothing = loss_func(DFT())(out, torch.full_like(labels, -100))
    nothing.backward()
    assert nothing.item() == 0


MEASURED = ("loss", "grad_norm", "cross_entropy", "entropy", "eval_cross_entropy", "eval_entropy")


def in_processes(rows: datasets.Dataset, checkpoint: str, folder: str, fsdp: str) -> None:
    """In each of two processes: steps of one micro-batch each, which are the two of one process's step."""
    options = OPTIONS | {"gradient_accumulation_steps": 1, "output_dir": folder}
    if fsdp:
        options |= {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["Qwen2DecoderLayer"]}}
    arguments = {"train_dataset": rows, "eval_dataset": rows, "data_collator": collate}
    trainer = ObjectiveTrainer(model(Path(checkpoint)), TrainingArguments(**options), objective=DFT(), **arguments)
    trainer.train()
    trainer.evaluate()
    if trainer.args.process_index == 0:
        Path(folder, "logs.json").write_text(json.dumps(trainer.state.log_history))


@pytest.mark.parametrize("fsdp", ["", "fsdp"])
def test_two_processes_log_what_one_does(checkpoint, rows, tmp_path, fsdp):
    """Under DDP and under FSDP2; the processes have different numbers of labels."""
    arguments = {"train_dataset": rows, "eval_dataset": rows, "data_collator": collate}
    options = TrainingArguments(**OPTIONS, output_dir=str(tmp_path / "one"))
    alone = ObjectiveTrainer(model(checkpoint), options, objective=DFT(), **arguments)
    alone.train()
    alone.evaluate()
    rows.save_to_disk(str(tmp_path / "rows"))
    program = (
        "import sys, datasets; from test_integrations import in_processes; "
        "in_processes(datasets.load_from_disk(sys.argv[1]), *sys.argv[2:])"
    )
    script = tmp_path / "two.py"
    script.write_text(program)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / "rows"), str(checkpoint), str(tmp_path), fsdp],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    logs = json.loads((tmp_path / "logs.json").read_text())
    seen: set[str] = set()
    for both in zip(logs, alone.state.log_history, strict=True):
        two, one = ({key: row[key] for key in MEASURED if key in row} for row in both)
        assert two == pytest.approx(one, rel=1e-4)
        seen |= one.keys()
    assert seen == set(MEASURED)


@pytest.mark.parametrize(("kind", "objective"), [("nll", SFT()), ("dft", DFT())])
@pytest.mark.parametrize("packing", [False, True])
def test_the_sft_trainer_of_trl(checkpoint, rows, tmp_path, kind, objective, packing):
    """With its own data collator, padded and packed, beside its own fused losses."""
    options = OPTIONS | {"output_dir": str(tmp_path), "packing": packing, "max_length": 20, "bf16": False}
    options |= {"padding_free": packing, "gradient_checkpointing": False}
    arguments = {"train_dataset": rows, "processing_class": toy_task.tokenizer()}
    ours = ObjectiveSFTTrainer(model(checkpoint), trl.SFTConfig(**options), objective=objective, **arguments)
    theirs = trl.SFTTrainer(model(checkpoint), trl.SFTConfig(**options, loss_type=kind), **arguments)
    same(ours, theirs)


def test_sequences_are_told_apart(checkpoint, rows, tmp_path):
    """An objective that couples the tokens of a sequence, in a padded batch and in a packed row."""
    trainer = ObjectiveTrainer(
        model(checkpoint), TrainingArguments(**OPTIONS, output_dir=str(tmp_path)), objective=SequenceDFT("geometric")
    )
    picked = [rows[i] for i in (0, 3, 5)]
    padded = collate(picked)
    expected = 0.0
    for row in picked:
        ids = torch.tensor(row["input_ids"])
        logp = trainer.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
        logp = logp[torch.tensor(row["labels"])[1:] != -100].detach()
        expected -= float(logp.mean().exp() * logp.sum())
    loss = trainer.compute_loss(trainer.model, padded, num_items_in_batch=1)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    ids, labels = (torch.tensor([sum((row[name] for row in picked), [])]) for name in ("input_ids", "labels"))
    positions = torch.cat([torch.arange(len(row["input_ids"])) for row in picked])[None]
    packed = {"input_ids": ids, "labels": labels, "position_ids": positions}
    assert trainer.compute_loss(trainer.model, packed, num_items_in_batch=1).item() == pytest.approx(expected, rel=1e-4)


def test_adapters_train_and_an_adapted_output_layer_is_refused(checkpoint, rows, tmp_path):
    peft = pytest.importorskip("peft")
    options = trl.SFTConfig(**OPTIONS, output_dir=str(tmp_path), bf16=False)
    arguments: dict[str, Any] = {"train_dataset": rows, "processing_class": toy_task.tokenizer(), "objective": DFT()}
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    trainer = ObjectiveSFTTrainer(model(checkpoint), options, peft_config=lora, **arguments)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    logs, _ = trained(trainer)
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert len(logs) == 2 and moved and all(".lora_" in name for name in moved)
    whole = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="output layer has adapters"):
        ObjectiveSFTTrainer(model(checkpoint), options, peft_config=whole, **arguments)


@pytest.mark.parametrize(
    ("objective", "options", "arguments", "message"),
    [
        (CADFT(), {}, {}, "CADFT needs batch_nll, which a trainer does not have: train it with losslab train"),
        (DFT(), {}, {"compute_metrics": lambda _: {}}, "need logits, which do not exist: leave them out"),
        (DFT(), {"label_smoothing_factor": 0.1}, {}, "use the objective LabelSmoothing"),
    ],
)
def test_what_cannot_be_served_is_refused(checkpoint, tmp_path, objective, options, arguments, message):
    settings = TrainingArguments(**OPTIONS, output_dir=str(tmp_path), **options)
    with pytest.raises(ValueError, match=message):
        ObjectiveTrainer(model(checkpoint), settings, objective=objective, **arguments)


def test_what_the_loss_of_logits_cannot_serve_is_refused():
    with pytest.raises(ValueError, match="CADFT needs batch_nll, which a trainer does not have"):
        loss_func(CADFT())
    with pytest.raises(ValueError, match="SequenceDFT couples the tokens of a sequence.*: use ObjectiveTrainer"):
        loss_func(SequenceDFT("geometric"))


def test_each_training_with_model_init_begins_with_a_new_model(checkpoint, rows, tmp_path):
    options = TrainingArguments(**OPTIONS, output_dir=str(tmp_path))
    arguments = {"train_dataset": rows, "data_collator": collate, "objective": DFT()}
    made: list[Any] = []

    def init() -> Any:
        made.append(model(checkpoint))
        return made[0] if len(made) == 3 else made[-1]  # the third training has a model that has the objective already

    trainer = ObjectiveTrainer(model_init=init, args=options, **arguments)
    once, _ = trained(ObjectiveTrainer(model(checkpoint), options, **arguments))
    logs, _ = trained(trainer)
    assert [row["cross_entropy"] for row in logs] == [row["cross_entropy"] for row in once] and len(logs) == 2
    assert trainer.model is made[1]
    logs, _ = trained(trainer)
    assert [row["cross_entropy"] for row in logs] == [row["cross_entropy"] for row in once] and len(made) == 3
    assert made[0].forward.__wrapped__.__func__ is type(made[0]).forward  # wrapped once


def test_a_copy_of_a_trained_model_is_trained_itself(checkpoint, rows, tmp_path):
    options = TrainingArguments(**OPTIONS, output_dir=str(tmp_path))
    first = model(checkpoint)
    add_objective(first)
    second = copy.deepcopy(first)
    before = [parameter.clone() for parameter in first.parameters()]
    arguments = {"train_dataset": rows, "data_collator": collate, "objective": DFT()}
    logs, _ = trained(ObjectiveTrainer(second, options, **arguments))
    once, _ = trained(ObjectiveTrainer(model(checkpoint), options, **arguments))
    assert [row["cross_entropy"] for row in logs] == [row["cross_entropy"] for row in once]
    assert all(map(torch.equal, first.parameters(), before))
    ids = torch.tensor([[3, 4, 5]])
    assert not torch.equal(second(input_ids=ids).logits, first(input_ids=ids).logits)


def test_an_encoder_decoder_model_is_refused(tmp_path):
    """Its logits are aligned with its labels, which those of a causal model are not."""
    sizes = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    t5 = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    labels = torch.tensor([[3, 4, 1]])
    out = t5(input_ids=torch.tensor([[5, 6, 1]]), labels=labels)
    with pytest.raises(ValueError, match="an encoder-decoder model is not supported, .*: use a causal language model"):
        loss_func(SFT())(out, labels)
    # Transformers has a decoder for the configuration of BART, but none for that of T5.
    small = {"vocab_size": 16, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    heads = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("attention_heads", "ffn_dim")}
    bart = BartForConditionalGeneration(BartConfig(**small, **heads))
    for both in (t5, bart):
        with pytest.raises(ValueError, match="an encoder-decoder model is not supported"):
            ObjectiveTrainer(both, TrainingArguments(**OPTIONS, output_dir=str(tmp_path)), objective=SFT())


class Undeclared(Objective):
    def loss(self, t: Targets) -> Tensor:
        return -t.logp + t.reference_kl


class Averaged(Objective):
    def loss(self, t: Targets) -> Tensor:
        return -t.logp.mean() if len(t.logp) > 8 else -t.logp  # in training alone, and not on the tokens of a trial


def test_mistakes_in_an_objective_of_ones_own_are_the_sentences_of_losslab(checkpoint, tmp_path):
    settings = TrainingArguments(**OPTIONS, output_dir=str(tmp_path))
    message = "Undeclared: t.reference_kl is not there: put .reference_distribution. into `needs`"
    with pytest.raises(ValueError, match=message):
        ObjectiveTrainer(model(checkpoint), settings, objective=Undeclared())
    with pytest.raises(ValueError, match=message):
        loss_func(Undeclared())
    logits, labels = torch.zeros(1, 10, 7), torch.zeros(1, 10, dtype=torch.long)
    with pytest.raises(ValueError, match=r"Averaged.loss returns a tensor of shape \(\) for 9 tokens"):
        loss_func(Averaged())(SimpleNamespace(logits=logits), labels)


def test_a_batch_without_labels_is_refused_and_one_without_trained_tokens_is_zero(checkpoint, rows, tmp_path):
    settings = TrainingArguments(**OPTIONS, output_dir=str(tmp_path))
    trainer = ObjectiveTrainer(model(checkpoint), settings, objective=DFT())
    batch = collate([rows[0], rows[1]])
    with pytest.raises(ValueError, match="a batch has no labels"):
        trainer.compute_loss(trainer.model, {"input_ids": batch["input_ids"]})
    loss = trainer.compute_loss(trainer.model, batch | {"labels": torch.full_like(batch["labels"], -100)})
    loss.backward()
    assert loss.item() == 0
    logits = trainer.model(input_ids=batch["input_ids"]).logits  # its own forward is as before
    assert logits.shape == (*batch["input_ids"].shape, toy_task.model_config().vocab_size)
