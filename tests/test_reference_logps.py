"""What is known of a batch beside the policy: statistics, and a reference, by tiny models in this process."""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from datasets import Dataset
from safetensors.torch import load_file
from test_training import make
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from losslab.config.choices import Recompute
from losslab.config.schema import AdapterConfig, Config, OptimizerConfig, Precision, ReferenceConfig
from losslab.data import toy_task
from losslab.data.batches import collate
from losslab.data.examples import Examples, prepare
from losslab.data.loader import MicroBatch, StepBatch
from losslab.data.mismatched import mismatched
from losslab.data.tokenise import Tokeniser
from losslab.distributed.signals import Interrupted
from losslab.files.json_files import read_lines
from losslab.models import attention
from losslab.models.loading import check_vocabulary
from losslab.models.policy import Policy, build
from losslab.objectives.deft_cayley import CayleyDEFT
from losslab.objectives.forward_kl import ForwardKL
from losslab.objectives.iw_sft import IWSFT
from losslab.objectives.reverse_kl import ReverseKL
from losslab.objectives.sft import SFT
from losslab.planning import cost
from losslab.planning.architecture import describe
from losslab.planning.memory import FRAGMENTS, on_device
from losslab.records.identity import identity
from losslab.training import loop
from losslab.training.reference_logps import Reference, batch_statistics

CPU = torch.device("cpu")
SFT_LOSS = {"_target_": "losslab.objectives.sft.SFT"}


@pytest.fixture
def policy() -> Policy:
    model = tiny_models.make("qwen2")
    model.set_attn_implementation(attention.NAME)
    return Policy(model, Precision.fp32, torch.float32, AdapterConfig()).eval()


def answer_logp(examples: Examples, i: int, family: str = "qwen2") -> Tensor:
    """(N,) log-probabilities of the answer tokens of an example, by the model's own forward over it alone."""
    model = tiny_models.make(family)
    ids = torch.from_numpy(examples.tokens[examples.offsets[i] : examples.offsets[i + 1]].astype(np.int64))
    logp = model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
    return logp[range(len(ids) - 1), ids[1:]][int(examples.prompts[i]) - 1 :].detach()


def test_statistics_of_the_global_batch(policy, one_rank):
    examples = tiny_models.examples()
    groups = [np.array([3, 0]), np.array([4]), np.array([], dtype=np.int64)]
    micro = [MicroBatch(group, collate(examples, group), {}) for group in groups]
    statistics = batch_statistics(CayleyDEFT(), policy, StepBatch(np.array([4, 0, 3]), micro, 99), CPU)
    logps = {i: answer_logp(examples, i) for i in (0, 3, 4)}
    context = statistics.context(micro[0])
    assert context["batch_p"].item() == pytest.approx(torch.cat(list(logps.values())).exp().mean().item(), rel=1e-5)
    assert context["batch_nll"].tolist() == pytest.approx([-logp.mean().item() for logp in logps.values()], rel=1e-5)
    assert context["sequence_nll"].tolist() == pytest.approx([-logps[i].mean().item() for i in (3, 0)], rel=1e-5)
    assert statistics.context(micro[2])["sequence_nll"].tolist() == [0]
    assert batch_statistics(SFT(), policy, StepBatch(np.array([4]), micro, 99), CPU).context(micro[0]) == {}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wider Qwen2 over the same tokens, whose output layer is padded to eight more."""
    folder = tmp_path_factory.mktemp("teacher")
    config = toy_task.model_config()
    config.update({"hidden_size": 2 * config.hidden_size, "vocab_size": config.vocab_size + 8})
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    toy_task.tokenizer().save_pretrained(folder)
    return folder


def with_teacher(checkpoint: Path, rows: Path, teacher: Path, tmp_path: Path, **keys) -> Config:
    config = make(checkpoint, rows, tmp_path, "iw_sft", micro_batch_tokens=64)
    return replace(config, reference=ReferenceConfig(str(teacher)), **keys)


def logits(model: PreTrainedModel, examples: Examples, i: int) -> tuple[Tensor, Tensor]:
    """(N, V) float64 logits over the tokenizer's tokens that predict the answer of an example, and (N,) its tokens."""
    ids = torch.from_numpy(examples.tokens[examples.offsets[i] : examples.offsets[i + 1]].astype(np.int64))
    start = int(examples.prompts[i])
    whole = model(input_ids=ids[None]).logits[0, start - 1 : -1].double()
    return whole[:, : toy_task.model_config().vocab_size], ids[start:]


@pytest.fixture
def examples(checkpoint: Path, rows: Path, tmp_path: Path) -> Examples:
    config = make(checkpoint, rows, tmp_path, "sft")
    tokeniser = Tokeniser(config.model, config.dataset, toy_task.tokenizer())
    return Examples.load(prepare(tokeniser, config.train, tmp_path / "cache"))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_teacher_of_another_size(checkpoint, rows, teacher, examples, tmp_path, one_rank, rank):
    """With all weights trained and with adapters, beside full logits of both models."""
    adapter = AdapterConfig(rank=rank, target_modules=["q_proj"] if rank else [])
    config = with_teacher(checkpoint, rows, teacher, tmp_path, adapter=adapter)
    policy = build(config, CPU, reference=True)
    group = np.array([2, 0, 5])
    batch = collate(examples, group)
    student, larger = (AutoModelForCausalLM.from_pretrained(path).double() for path in (checkpoint, teacher))
    logp, logq = (
        torch.cat([logits(model, examples, i)[0] for i in group]).log_softmax(-1).detach()
        for model in (student, larger)
    )
    for objective, terms in (
        (ForwardKL(), (logq.exp() * (logq - logp)).sum(-1)),
        (ReverseKL(), (logp.exp() * (logp - logq)).sum(-1)),
    ):
        out = policy(batch, objective, {})
        torch.testing.assert_close(out["terms"].double(), terms, rtol=1e-4, atol=1e-5)
        out["loss"].backward()
    assert all(p.grad is None for p in policy.frozen.parameters())
    assert any(p.grad is not None and p.grad.any() for p in policy.model.parameters())


def test_log_probabilities_of_another_reference_are_measured_alone(
    checkpoint, rows, teacher, examples, tmp_path, one_rank, monkeypatch
):
    monkeypatch.setattr(loop, "start", lambda config: CPU)  # this process is the worker
    config = with_teacher(checkpoint, rows, teacher, tmp_path)
    (tmp_path / "data").mkdir()
    examples.save(tmp_path / "data")
    file = tmp_path / "reference.npy"
    loop.measure_reference(config, str(tmp_path / "data"), str(file))
    trainer = loop.Trainer(config, examples, tmp_path, file, CPU)
    assert trainer.policy.frozen is None
    known = Reference.of(IWSFT(), file, trainer.inference, examples).context(np.array([3, 1]))
    larger = AutoModelForCausalLM.from_pretrained(teacher).double()
    pairs = [logits(larger, examples, i) for i in (3, 1)]
    expected = torch.cat([z.log_softmax(-1)[range(len(ids)), ids] for z, ids in pairs]).detach()
    torch.testing.assert_close(known["reference_logp"].double(), expected, rtol=1e-4, atol=1e-4)


def test_the_teachers_largest_log_probabilities_are_kept(
    checkpoint, rows, teacher, examples, tmp_path, one_rank, monkeypatch
):
    """The loss of each token is that of the teacher beside the policy, which is not there."""
    monkeypatch.setattr(loop, "start", lambda config: CPU)
    config = with_teacher(checkpoint, rows, teacher, tmp_path)
    target = "losslab.objectives.top_k_kl.{}"
    both = [replace(config, loss={"_target_": target.format(name), "top_k": 3}) for name in ("TopKKL", "StoredTopKKL")]
    (tmp_path / "data").mkdir()
    examples.save(tmp_path / "data")
    file, group = tmp_path / "reference.npy", np.array([3, 0, 4])
    loop.measure_reference(both[1], str(tmp_path / "data"), str(file))
    assert [path.name for path in tmp_path.glob("reference*")] == ["reference-top3.npy"]
    terms, gradients = [], []
    for each in both:
        trainer = loop.Trainer(each, examples, tmp_path, file, CPU)
        assert (trainer.policy.frozen is None) == (each is both[1])
        out = trainer.policy(collate(examples, group), each.objective, trainer.reference.context(group))
        out["loss"].backward()
        terms.append(out["terms"])
        gradients.append([p.grad for p in trainer.policy.model.parameters() if p.grad is not None])
    torch.testing.assert_close(*terms, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    larger = AutoModelForCausalLM.from_pretrained(teacher).double()
    top = logits(larger, examples, 3)[0].log_softmax(-1).topk(3)
    context = trainer.reference.context(np.array([3]))
    assert torch.equal(context["reference_top_token"], top.indices.int())
    torch.testing.assert_close(context["reference_top_logp"].double(), top.values.detach(), rtol=1e-5, atol=1e-5)
    assert trainer.reference.context(np.array([], dtype=np.int64))["reference_top_logp"].shape == (0, 3)


def test_kto_is_that_of_trl(checkpoint, rows, tmp_path, one_rank):
    """One batch, whose answers to other questions are the same in both, against another reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)  # which TRL would import
        import trl
    other = tmp_path / "other"
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(toy_task.model_config()).save_pretrained(other)
    lines, tokenizer = read_lines(rows), toy_task.tokenizer()
    tokenizer.save_pretrained(other)
    options = {"max_steps": 1, "per_device_train_batch_size": len(lines), "learning_rate": 0.0, "use_cpu": True}
    options |= {"report_to": [], "bf16": False, "gradient_checkpointing": False, "max_length": None}
    options |= {"output_dir": str(tmp_path), "train_sampling_strategy": "sequential", "disable_tqdm": True}
    data = [
        {"prompt": f"<|user|>{row['problem']}<|end|><|assistant|>", "completion": row["solution"]}
        | {"label": row["reward"] == 1}
        for row in lines
    ]
    theirs = trl.KTOTrainer(
        AutoModelForCausalLM.from_pretrained(other),
        AutoModelForCausalLM.from_pretrained(checkpoint),
        args=trl.KTOConfig(**options, logging_steps=1, desirable_weight=1.5),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    )
    theirs.train()
    config = make(other, rows, tmp_path, "nft", micro_batch_tokens=64)
    config.loss = {"_target_": "losslab.objectives.kto.KTO", "right_weight": 1.5}
    config.reference, config.train.batch_size = ReferenceConfig(str(checkpoint)), len(lines)
    tokeniser = Tokeniser(config.model, config.dataset, tokenizer)
    examples = Examples.load(prepare(tokeniser, config.train, tmp_path / "cache"))
    examples.save(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "start", lambda config: CPU)
        loop.measure_reference(config, str(tmp_path), str(tmp_path / "reference.npy"))
    trainer = loop.Trainer(config, examples, tmp_path, tmp_path / "reference.npy", CPU)
    batch, sums = trainer.forward_backward(0)
    assert len(batch.micro_batches) > 3 and len(batch.mismatched) > 3
    kl = (
        batch_statistics(config.objective, trainer.policy, batch, CPU)
        .context(batch.micro_batches[0])["mismatched_kl"]
        .item()
    )
    logged = theirs.state.log_history[0]
    assert kl > 0.1 and logged["kl"] == pytest.approx(kl, rel=1e-4)
    assert logged["loss"] == pytest.approx((sums.loss / sums.terms).item(), rel=1e-4)
    assert sums.terms == len(lines)


def test_answers_to_other_questions():
    """The nearest before, of another prompt; cut at the longest; refused where there is none."""
    tokens, offsets = np.array([1, 1, 9, 1, 1, 8, 8, 2, 7, 3, 3, 6]), np.array([0, 3, 7, 9, 12])
    examples = Examples(tokens, offsets, np.array([2, 2, 1, 2]), "", {})
    others = mismatched(examples)
    assert others.tokens.tolist() == [1, 1, 6, 1, 1, 6, 2, 8, 8, 3, 3, 7] and others.offsets.tolist() == [
        0,
        3,
        6,
        9,
        12,
    ]
    assert others.answers.tolist() == [1, 1, 2, 1]
    first = mismatched(replace(examples, tokens=tokens[:9], offsets=offsets[:4], prompts=examples.prompts[:3]))
    assert first.tokens.tolist() == [1, 1, 7, 1, 1, 7, 2, 8, 8]
    with pytest.raises(ValueError, match="all rows have one prompt"):
        mismatched(replace(examples, tokens=tokens[:7], offsets=offsets[:3], prompts=examples.prompts[:2]))
    with pytest.raises(ValueError, match="rows with several trained turns"):
        mismatched(replace(examples, trained=np.ones(12, dtype=bool)))


@pytest.mark.parametrize("objective", ["forward_kl.ForwardKL", "top_k_kl.StoredTopKKL"])
def test_a_student_resumes_bit_by_bit(checkpoint, rows, teacher, examples, tmp_path, one_rank, monkeypatch, objective):
    monkeypatch.setattr(loop, "start", lambda config: CPU)
    config = replace(
        with_teacher(checkpoint, rows, teacher, tmp_path),
        loss={"_target_": f"losslab.objectives.{objective}"},
        optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=1e-3, arguments={"fused": True}),
    )
    (tmp_path / "data").mkdir()
    examples.save(tmp_path / "data")
    places = str(tmp_path / "reference.npy")
    if objective.endswith("StoredTopKKL"):
        loop.measure_reference(config, str(tmp_path / "data"), places)

    def train(cell: str) -> tuple[dict[str, Tensor], list[dict]]:
        loop.train(config, str(tmp_path / "data"), str(tmp_path / cell), places)
        kept = [
            {k: row[k] for k in ("step", "loss", "gradient_norm")}
            for row in read_lines(tmp_path / cell / "metrics.jsonl")
        ]
        return load_file(tmp_path / cell / "model/model.safetensors"), kept

    weights, metrics = train("whole")
    update = loop.Trainer.update

    def asked(trainer, step, *rest):
        if step == 0:
            os.kill(os.getpid(), signal.SIGUSR1)  # seen in the next step
        return update(trainer, step, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop.Trainer, "update", asked)
        train("cell")
    assert len(list((tmp_path / "cell/checkpoints").iterdir())) == 1 and not (tmp_path / "cell/model").exists()
    resumed, again = train("cell")
    assert again == metrics and len(metrics) == 3
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())


def test_a_reference_with_other_tokens_or_of_another_family_is_refused(checkpoint, rows, teacher, tmp_path):
    config = with_teacher(checkpoint, rows, teacher, tmp_path)
    check_vocabulary(config.model, config.reference_model)
    with pytest.raises(ValueError, match="has logits of [0-9]+ tokens and the model of [0-9]+: choose another"):
        check_vocabulary(config.reference_model, config.model)
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    about = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(about | {"model_type": "llama"}))
    with pytest.raises(ValueError, match="is a llama and the model a qwen2: choose a reference of the same family"):
        check_vocabulary(config.model, replace(config.reference_model, path=str(other)))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="has another vocabulary than the model, such as for '[12]'"):
        check_vocabulary(config.model, replace(config.reference_model, path=str(other)))


def test_a_reference_is_part_of_the_identity_by_its_content(checkpoint, rows, teacher, tmp_path):
    config = with_teacher(checkpoint, rows, teacher, tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    names = {identity(replace(config, reference=ReferenceConfig(path))) for path in (None, str(teacher), str(moved))}
    assert len(names) == 2


def test_the_plan_counts_a_teacher_by_its_size(checkpoint, rows, teacher, tmp_path):
    config = with_teacher(checkpoint, rows, teacher, tmp_path, loss={"_target_": "losslab.objectives.jsd.JSD"})
    small, large = (AutoModelForCausalLM.from_pretrained(path).num_parameters() for path in (checkpoint, teacher))
    size, speed = cost.Size(small, 1000, 6.0 * small), cost.Speed(1e15, 1e14)
    parts = [cost.of(replace(config, loss=loss), size, speed).training for loss in (SFT_LOSS, config.loss)]
    assert parts[1] / parts[0] == pytest.approx((6 * small + 2 * large) / (6 * small))
    architecture = describe(config)
    own = replace(config, loss={"_target_": "losslab.objectives.asft.ASFT"}, reference=ReferenceConfig())
    own = replace(own, machine=replace(own.machine, recompute=Recompute.none))
    other = replace(own, reference=config.reference)
    difference = on_device(other, architecture, small) - on_device(own, architecture, small)
    assert difference == pytest.approx(FRAGMENTS * 4 * (large - small))
    # In bfloat16 the weight of its output layer, twice as wide, is also held in float32.
    both = [replace(each, train=replace(each.train, precision=Precision.bf16)) for each in (own, other)]
    mine, its = (on_device(each, architecture, small) for each in both)
    wider = 4 * architecture.vocab_size * architecture.hidden_size
    assert its - mine == pytest.approx(FRAGMENTS * (2 * (large - small) + wider))
