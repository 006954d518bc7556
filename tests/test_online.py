"""Training on the model's own answers: a model that guesses a digit, a verifier that knows which one, and teachers."""

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import families
import pytest
import tiny_models
import torch
import warm
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from tokenizers import normalizers
from transformers import AutoModelForCausalLM

from losslab.cells import training
from losslab.cells.training import train_model
from losslab.composition.compose import read
from losslab.config.machine import MachineConfig
from losslab.config.paths import CONF
from losslab.config.schema import (
    AdapterConfig,
    Config,
    DatasetConfig,
    ModelConfig,
    Names,
    OptimizerConfig,
    Precision,
    ReferenceConfig,
    SchedulerConfig,
    Shape,
    TrainConfig,
)
from losslab.data import toy_task
from losslab.data.prompts import encode, render
from losslab.distributed import fork_server
from losslab.distributed.signals import Interrupted
from losslab.grading.graders import Grader
from losslab.models.loading import load_tokenizer
from losslab.online import questions, trainers, worker
from losslab.online.advantages import generalised_advantages, value_terms
from losslab.online.verifier import Verifier
from losslab.planning import memory, plan
from losslab.records.identity import identity

STEPS, DIGITS, RIGHT = 8, "0123", "2"


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """The server that workers are forked from, with TRL imported: each of them would take seconds for it."""
    forkserver._forkserver._stop()
    fork_server.start([*warm.PRELOAD, "losslab.online.worker", "losslab.online.ppo", "losslab.online.distillation"])


@pytest.fixture(scope="module")
def guesser(checkpoint, tmp_path_factory) -> Path:
    r"""A model that answers every question by \boxed{d}, with a random d out of four."""
    tokenizer, model = toy_task.tokenizer(), AutoModelForCausalLM.from_pretrained(checkpoint)
    texts = [f"<|user|>{i}+{i}=?<|end|><|assistant|>\\boxed{{{digit}}}<|end|>" for i in range(4) for digit in DIGITS]
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    start = ids[0].tolist().index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < start, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("guesser")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sums(tmp_path_factory) -> Path:
    """Questions whose true answer is always the same digit, whatever their solution says; one has no true answer."""
    file = tmp_path_factory.mktemp("sums") / "sums.jsonl"
    rows = [{"problem": f"{i}+{j}=?", "solution": "\\boxed{7}", "answer": RIGHT} for i in range(8) for j in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"problem": "?", "answer": ""}]))
    return file


def make(guesser: Path, sums: Path, results: Path, loss: str, parameters: dict | None = None, **machine) -> Config:
    target = f"losslab.objectives.online.{loss.upper()}"
    return Config(
        model=ModelConfig(path=str(guesser)),
        dataset=DatasetConfig(path=str(sums), gold_column="answer", max_broken=0.1),
        loss={"_target_": target, "max_new_tokens": 8, **(parameters or {})},
        optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=2e-3, arguments={"betas": [0.9, 0.95]}),
        scheduler=SchedulerConfig(shape=Shape.constant, warmup_ratio=0),
        train=TrainConfig(batch_size=8, max_length=32, precision=Precision.fp32, max_steps=STEPS),
        machine=MachineConfig(results=str(results), device="cpu", threads=1, micro_batch_tokens=512, **machine),
        names=Names(model="guesser", dataset="sums", loss=loss, eval=""),
        seed=3,
    )


def rows(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def whole(guesser, sums, tmp_path_factory) -> Path:
    """The cell of an undisturbed run of GRPO."""
    results = tmp_path_factory.mktemp("whole")
    train_model(make(guesser, sums, results, "grpo", export_steps=4), results / "cell")
    return results / "cell"


def test_grpo_learns_the_answer_that_is_rewarded(whole, guesser):
    found = rows(whole)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    assert 0.05 < found[0]["reward"] < 0.5 and found[-1]["reward"] > 0.9
    assert all(3.5 < row["completion_length"] < 4.5 and row["truncated"] < 0.1 for row in found)
    assert all(row["lr"] == 2e-3 and row["seconds"] > 0 for row in found) and found[0]["gradient_norm"] > 0
    padding = json.loads((whole / "padding.json").read_text())  # the check that it began with
    assert padding["logp"] < 1e-6 and padding["tokens"] > 0
    assert json.loads((whole / "data.json").read_text()) == {
        "version": 1,
        "rows": 65, "without_gold": 1, "repeated_questions": 0, "questions": 64, "overlong_dropped": 0,
        "prompts": 64, "steps": STEPS,
    }  # fmt: skip
    assert not (whole / "checkpoints").exists()


def test_the_model_is_exported_as_it_was_published(whole, guesser):
    for name in ("config.json", "generation_config.json"):
        assert json.loads((whole / "model" / name).read_text()) == json.loads((guesser / name).read_text())
    before, between, after = (weights(f) for f in (guesser, whole / "steps/00000004", whole / "model"))
    assert set(before) == set(after) and any(not torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(between[name], after[name]) for name in after)
    tokenizer = toy_task.tokenizer()
    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    prompt = tokenizer("<|user|>9+9=?<|end|><|assistant|>", return_tensors="pt")
    assert tokenizer.decode(model.generate(**prompt, do_sample=False)[0][-4:]) == f"\\boxed{{{RIGHT}}}<|end|>"


def test_a_run_that_was_asked_to_leave_ends_with_the_same_weights(whole, guesser, sums, tmp_path):
    config, cell = make(guesser, sums, tmp_path, "grpo", export_steps=4), tmp_path / "cell"

    def ask() -> None:
        while len(rows(cell)) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Interrupted):
        train_model(config, cell)
    done = len(rows(cell))
    assert 2 <= done < STEPS and not (cell / "model").exists()
    assert [path.name for path in cell.glob("checkpoints/*")] == [f"step-{done:08d}"]
    train_model(config, cell)
    mine, theirs = weights(cell / "model"), weights(whole / "model")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in rows(cell)] == [
        {k: v for k, v in row.items() if k not in drop} for row in rows(whole)
    ]


def test_ppo_learns_it_too_on_two_ranks(guesser, sums, tmp_path):
    train_model(make(guesser, sums, tmp_path, "ppo", workers=2), tmp_path / "cell")
    found = rows(tmp_path / "cell")
    assert 0.05 < found[0]["reward"] < 0.5 and found[-1]["reward"] > 0.9
    # The first values are zero, so the first loss of the value model is half the mean squared reward, over tokens.
    assert found[0]["value_loss"] == pytest.approx(found[0]["reward"] / 2, abs=0.02)
    assert found[-1]["value_loss"] < found[0]["value_loss"]


def test_adapters_two_updates_and_a_divergence(guesser, sums, tmp_path):
    config = make(guesser, sums, tmp_path, "grpo", {"kl": 0.01})
    config.adapter = AdapterConfig(rank=4, alpha=8, target_modules=["q_proj"])
    config.train.max_steps, config.train.updates, config.optimizer.lr = 4, 2, 1e-2
    train_model(config, tmp_path / "cell")
    found, before, after = rows(tmp_path / "cell"), weights(guesser), weights(tmp_path / "cell/model")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if "q_proj.weight" in name
    }
    assert found[0]["reward"] == found[1]["reward"] and found[0]["kl"] == 0 < found[-1]["kl"]


@pytest.fixture
def train_here(one_rank, monkeypatch) -> Callable[[Config, Path], list[dict]]:
    """Train in this process, its only worker; returns the rows of the metrics."""
    monkeypatch.setattr(worker, "start", lambda config: torch.device("cpu"))

    def train(config: Config, cell: Path) -> list[dict]:
        data, *_ = questions.prepare(config, load_tokenizer(config.model), Path(config.machine.results) / "cache")
        worker.train(config, str(data), str(cell))
        return rows(cell)

    return train


def test_questions_are_not_those_of_another_tokenizer_with_the_same_vocabulary(guesser, sums, tmp_path):
    """Of one whose normaliser makes every prompt too long, and of one that the last call has set to cut texts."""
    config, tokenizer = make(guesser, sums, tmp_path, "grpo"), load_tokenizer(ModelConfig(str(guesser)))
    folder, report, _ = questions.prepare(config, tokenizer, tmp_path)
    assert report["prompts"] == 64
    tokenizer("a", truncation=True, max_length=5)
    assert questions.prepare(config, tokenizer, tmp_path)[0] == folder
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("=", "=" * 40)
    with pytest.raises(ValueError, match="every prompt of .* has more than the 24 tokens"):
        questions.prepare(config, tokenizer, tmp_path)


@pytest.mark.parametrize("loss", ["grpo", "ppo"])
def test_the_loss_has_no_factor_of_the_engine_that_generates(guesser, sums, tmp_path, train_here, monkeypatch, loss):
    made = []

    def stop(parts, callbacks):
        made.append(trainers.trainer(parts, callbacks))
        raise Interrupted

    monkeypatch.setattr(worker, "trainer", stop)
    with pytest.raises(Interrupted):
        train_here(make(guesser, sums, tmp_path, loss), tmp_path / "cell")
    (of_run,) = made
    assert of_run.args.vllm_importance_sampling_correction is False
    assert of_run.vllm_importance_sampling_correction is False  # which the trainer reads


def divergence(logp: torch.Tensor, logq: torch.Tensor, beta: float) -> torch.Tensor:
    """Of the policy's p and the teacher's q, from full distributions (T, V)."""
    p, q = logp.exp(), logq.exp()
    if beta == 1:
        return (p * (logp - logq)).sum()
    m = (beta * q + (1 - beta) * p).log()
    return (beta * q * (logq - m) + (1 - beta) * p * (logp - m)).sum()


@pytest.mark.parametrize("loss", ["opd", "opsd"])
def test_distillation_on_policy_is_the_divergence_of_full_logits(whole, guesser, sums, tmp_path, train_here, loss):
    """Its first step, of two micro-batches, beside each answer alone; the teacher of OPSD has read the solution."""
    from losslab.online import distillation

    config = make(guesser, sums, tmp_path, loss, {"samples": 2})
    config.machine.micro_batch_tokens = 256
    config.train.max_steps, config.reference = 2, ReferenceConfig(str(whole / "model") if loss == "opd" else None)
    taken, plain = [], distillation.OPDTrainer.compute_loss

    def compute_loss(trainer, model, inputs, **options):
        taken.append(inputs)
        return plain(trainer, model, inputs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation.OPDTrainer, "compute_loss", compute_loss)
        first = train_here(config, tmp_path / "cell")[0]
    models = [
        AutoModelForCausalLM.from_pretrained(path).double() for path in (guesser, config.reference.path or guesser)
    ]
    total, count, read, asked = 0.0, 0, 0, set()
    for batch in taken[: len(taken) // 2]:
        for row in range(len(batch["prompt_ids"])):
            prompt, answer = (
                batch[f"{name}_ids"][row][batch[f"{name}_mask"][row].bool()] for name in ("prompt", "completion")
            )
            informed = batch["teacher_ids"][row][batch["teacher_mask"][row].bool()] if loss == "opsd" else prompt
            contexts = [torch.cat([context, answer]) for context in (prompt, informed)]
            with torch.no_grad():
                logp, logq = (
                    model(input_ids=ids[None]).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
                    for model, ids in zip(models, contexts, strict=True)
                )
            total += divergence(logp, logq, 1.0 if loss == "opd" else 0.5).item()
            count, read = count + len(answer), read + len(contexts[1])
            asked.add(tuple(prompt.tolist()))
            text = toy_task.tokenizer().decode(informed)
            assert text.endswith("?\n\n\\boxed{7}<|end|><|assistant|>" if loss == "opsd" else "?<|end|><|assistant|>")
    assert len(asked) == 8 and len(taken) == 2 * 2  # of 16 answers two micro-batches in each step
    assert first["loss"] == pytest.approx(total / count, rel=1e-4) and first["teacher_tokens"] == read
    assert first["completion_length"] == pytest.approx(count / 16)


def test_a_student_learns_of_its_teacher_and_resumes_with_the_same_weights(
    whole, guesser, sums, tmp_path, train_here, monkeypatch
):
    """The teacher knows the answer that is right, of which the student is told nothing else."""
    limits: list[float] = []
    monkeypatch.setattr(
        worker, "Grader", lambda count, seconds, **options: limits.append(seconds) or Grader(count, seconds, **options)
    )
    config = make(guesser, sums, tmp_path, "opd", grading_seconds=7.5)
    config = replace(config, reference=ReferenceConfig(str(whole / "model")))
    whole_rows, cell = train_here(config, tmp_path / "undisturbed"), tmp_path / "cell"
    assert limits == [7.5]
    assert whole_rows[0]["reward"] < 0.7 < 0.9 < whole_rows[-1]["reward"]
    assert whole_rows[-1]["loss"] < 0.3 * whole_rows[0]["loss"]
    assert all(row["truncated"] < 0.2 and row["teacher_seconds"] > 0 for row in whole_rows)

    reward = Verifier.__call__

    def ask(*given):
        if len(rows(cell)) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return reward(*given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Verifier, "__call__", ask)
        train_here(config, cell)
    assert len(rows(cell)) == 3 and not (cell / "model").exists()
    drop = {"seconds", "teacher_seconds"}
    again, before = (
        [{k: v for k, v in row.items() if k not in drop} for row in each]
        for each in (train_here(config, cell), whole_rows)
    )
    assert again == before
    mine, theirs = weights(cell / "model"), weights(tmp_path / "undisturbed/model")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_reward_is_for_a_right_answer_that_ended():
    tokenizer = toy_task.tokenizer()
    texts = [
        "1+1+0=2\n\\boxed{2}<|end|>",
        "\\boxed{3}<|end|>",
        "\\boxed{2}",
        "\\boxed{2.0}<|end|>",
        "It is 2.<|end|>",
        "\\boxed{2}<|user|>",
        "\\boxed{2}<|assistant|>",
        "It is 21",
    ]
    with Grader(1) as grader:
        ends = tokenizer.convert_tokens_to_ids(["<|end|>", "<|user|>", "1"])  # no special token need be one
        verifier = Verifier(grader, tokenizer, ends)
        ids = [tokenizer(text)["input_ids"] for text in texts]
        assert verifier.reward(completion_ids=ids, gold=["2"] * 8, prompts=[]) == [1, 0, 0, 1, 1, 1, 0, 1]
        seen = verifier.seen
        assert (seen.answers, seen.reward, seen.ended, seen.tokens) == (8, 5, 6, sum(map(len, ids)))
        assert verifier([[]], ["2"]) == [0]


@pytest.mark.usefixtures("one_rank")
def test_rewards_of_verdicts_that_ran_out_of_time_are_counted():
    """Of answers that ended, and are not right all the same; the share is in the metrics of a step."""
    right, late = (SimpleNamespace(corrected=right, timed_out=not right) for right in (True, False))
    verdicts = [right, late, late, SimpleNamespace(corrected=True, timed_out=True)]
    grader = SimpleNamespace(submit=lambda _, text, *__, **___: SimpleNamespace(result=lambda: verdicts[int(text)]))
    tokenizer = SimpleNamespace(batch_decode=lambda ids, **_: [str(i) for i in range(len(ids))])
    verifier = Verifier(grader, tokenizer, [9])
    assert verifier([[1, 9], [1, 9], [1, 1], [1, 9]], ["2"] * 4) == [1, 0, 0, 1]
    assert (verifier.seen.answers, verifier.seen.ended, verifier.seen.timed_out) == (4, 3, 1)
    written: list[dict] = []
    steps = SimpleNamespace(record=lambda row, text: written.append(row), end=lambda *_: None)
    around = worker.AroundSteps(None, None, verifier, SimpleNamespace(asked=0), steps, 0)
    around.on_log(None, None, None, logs={"loss": 0.5})
    assert (written[0]["reward"], written[0]["truncated"], written[0]["timed_out"]) == (0.5, 0.25, 0.25)


def test_the_limit_of_a_verdict_is_part_of_a_cell_that_learns_from_it():
    def keys(loss: str) -> list[str]:
        made = [make(Path("m"), Path("d"), Path("r"), loss, grading_seconds=s) for s in (3.0, 3, 7.5)]
        return [identity(config) for config in made]

    for loss in ("grpo", "ppo"):
        default, same, other = keys(loss)
        assert default == same != other
    assert len(set(keys("opd"))) == 1  # whose rewards are only measured


def test_a_stop_ends_an_answer_as_an_eos_does(whole, guesser, sums, tmp_path):
    """The same guesses, rewards and gradients, with an EOS that the guesser never learned, and its own end a stop."""
    shutil.copytree(guesser, tmp_path / "model")
    (tmp_path / "model/generation_config.json").unlink()
    tokenizer = toy_task.tokenizer()
    tokenizer.eos_token = "<|system|>"
    tokenizer.save_pretrained(tmp_path / "model")
    config = make(tmp_path / "model", sums, tmp_path, "grpo")
    config.train.max_steps, config.model.stop = 1, ["<|end|>", "no token"]
    train_model(config, tmp_path / "cell")
    drop = {"seconds"}
    mine, theirs = ({k: v for k, v in rows(cell)[0].items() if k not in drop} for cell in (tmp_path / "cell", whole))
    assert mine == theirs and mine["reward"] > 0.05 and mine["truncated"] < 0.1


def test_advantages_and_values_by_hand():
    rewards, mask = torch.tensor([1.0, 1.0]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    values = torch.tensor([[0.2, 0.4, 0.7], [0.5, 0.1, 0.0]])

    def advantages(decay: float) -> torch.Tensor:
        return generalised_advantages(rewards, values, mask, decay)

    torch.testing.assert_close(advantages(1.0), torch.tensor([[0.8, 0.6, 0.3], [0.5, 0.9, 0.0]]))
    torch.testing.assert_close(advantages(0.0), torch.tensor([[0.2, 0.3, 0.3], [-0.4, 0.9, 0.0]]))
    torch.testing.assert_close(advantages(0.5), torch.tensor([[0.425, 0.45, 0.3], [0.05, 0.9, 0.0]]))
    # A value that has moved away from its target counts in full, one that has come near only as far as the clip.
    now, before, target = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 1.0]])
    torch.testing.assert_close(value_terms(now, before, target, 0.2), torch.tensor([[0.5 * 0.09, 0.5 * 0.81]]))


def family(name: str, folder: Path) -> Path:
    """A tiny model of a family, with the toy task's tokenizer."""
    tokenizer = toy_task.tokenizer()
    config = tiny_models.configuration(name)
    config.vocab_size, config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_without_a_value_model_is_refused_before_it_is_loaded(sums, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "launch", lambda *given, **options: pytest.fail("a worker was started"))
    config = make(family("olmo2", tmp_path / "model"), sums, tmp_path, "ppo")
    message = "loss=ppo needs a value model, and transformers has none for olmo2: choose loss=grpo or another model"
    with pytest.raises(ValueError, match=message):
        train_model(config, tmp_path / "cell")
    assert not (tmp_path / "cell/data.json").exists()


def test_the_value_model_of_a_family_that_calls_its_output_a_classifier(tmp_path):
    """Its values are zero at first, and one for each token."""
    model = ModelConfig(path=str(family("gpt_neox", tmp_path / "model")))
    trainers.check_value_model(Config(model=model))
    value = trainers.value_model(model)
    values = value(input_ids=torch.tensor([[3, 4, 5]])).logits
    assert values.shape == (1, 3, 1) and not values.any() and not hasattr(value, "score")
    values.sum().backward()
    assert value.classifier.weight.grad.abs().sum() > 0


def test_questions_that_leave_no_room_are_left_out(guesser, sums, tmp_path):
    config, tokenizer = make(guesser, sums, tmp_path, "grpo"), toy_task.tokenizer()
    prompts, report = questions.ask(config, 8, tokenizer)
    assert prompts[0] == {"prompt": "<|user|>0+0=?<|end|><|assistant|>", "gold": RIGHT} and len(prompts) == 64
    assert report["overlong_dropped"] == 0
    with pytest.raises(ValueError, match="every prompt of .* has more than the 7 tokens"):
        questions.ask(config, 7, tokenizer)
    config.dataset.gold_column = None
    assert {row["gold"] for row in questions.ask(config, 8, tokenizer)[0]} == {"7"}  # the solution's box


@pytest.mark.parametrize("bos", ["", "<|user|>"])
def test_a_tokenizer_that_ends_prompts_is_refused(guesser, sums, tmp_path, bos):
    """Such as with add_eos_token; the chat template spells out the BOS, which the tokenizer would add again."""
    tokenizer = toy_task.tokenizer()
    tokenizer.bos_token = bos or None
    families.surrounded(tokenizer, bos, "<|end|>")
    config = make(guesser, sums, tmp_path, "grpo")
    with pytest.raises(ValueError, match=re.escape("the tokenizer puts '<|end|>' behind each prompt that TRL gives")):
        questions.ask(config, 8, tokenizer)
    if bos:
        rows, _ = questions.ask(config, 8, families.surrounded(tokenizer, bos))
        assert rows[0]["prompt"] == "0+0=?<|end|><|assistant|>"


@pytest.mark.parametrize("family", [families.chatml, families.llama, families.mistral, families.gemma])
def test_trl_gives_the_model_the_tokens_of_scoring(guesser, sums, tmp_path, family):
    tokenizer, config = family(), make(guesser, sums, tmp_path, "grpo")
    given = [row["prompt"] for row in questions.ask(config, 100, tokenizer)[0]]
    asked = [render("chat", problem, tokenizer) for problem in ("0+0=?", "0+1=?")]
    assert tokenizer(given[:2])["input_ids"] == encode(asked, tokenizer)


@pytest.fixture
def composed():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield compose_cell


def compose_cell(*overrides: str) -> Config:
    cfg = compose("config", list(overrides), return_hydra_config=True)
    return read(cfg, cfg.hydra.runtime.choices)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["loss=grpo", "loss.samples=1"], "loss.samples is 1: set it to 2 or more"),
        (["loss=grpo", "+loss.value_clip=1"], "unknown key loss.value_clip"),
        (["loss=ppo", "loss.kl=-1"], "loss.kl is -1.0: set it to 0 or more"),
        (
            ["loss=grpo", "loss.max_new_tokens=2048"],
            "leaves no room for a question: set it below train.max_length=2048",
        ),
        (["loss=grpo", "train=official"], "loss=grpo does not know train.overlong=truncate: leave it at drop"),
        (["loss=ppo", "train.micro_batch=4"], "loss=ppo does not know train.micro_batch=4: leave it at null"),
        (["loss=grpo", "machine.cpu_offload=true"], "does not know machine.cpu_offload=true: leave it at false"),
        (["loss=grpo", "machine.recompute=selective"], "set it to none or full"),
        (["loss=grpo", "dataset.rejected_column=wrong"], "does not use dataset.rejected_column"),
        (["loss=opd"], "loss=opd learns from another model: set reference.path to a teacher"),
        (["loss=opsd", "loss.samples=0"], "loss.samples is 0: set it to 1 or more"),
        (["loss=opsd", "+loss.clip=0.2"], "unknown key loss.clip"),
        (["loss=opsd", "train.updates=2"], "loss=opsd takes one step on each batch: leave train.updates at 1"),
        (["loss=opsd", "loss.beta=2"], "loss.beta is 2.0: set it between 0 and 1"),
        (["loss=opsd", "loss.teacher_prompt=x"], "loss.teacher_prompt must be a text that contains {problem} and"),
        (["loss=grpo", "reference.path=some/id"], "loss=grpo does not use reference.path"),
        (
            ["loss=ppo", "loss.kl=0.1", "model.revision=abc"],
            "loss.kl=0.1 is the divergence from Qwen/Qwen2.5-Math-1.5B, which TRL would load without "
            "model.revision=abc: download that revision and set model.path to its folder",
        ),
    ],
)
def test_what_an_online_objective_cannot_do_is_one_sentence(composed, overrides, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        composed(*overrides)


def test_a_revision_is_honoured_without_a_reference_and_in_a_folder(composed, checkpoint):
    assert composed("loss=grpo", "model.revision=abc").model.revision == "abc"
    assert composed("loss=grpo", "loss.kl=0.1", "model.revision=abc", f"model.path={checkpoint}").loss["kl"] == 0.1


def test_without_trl_the_extra_is_named(composed, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(
        ValueError, match="loss=grpo needs TRL: install the extra, as in pip install -e '.\\[online\\]'"
    ):
        composed("loss=grpo")


def test_the_papers_online_methods(composed):
    grpo, ppo = composed("method=grpo"), composed("method=ppo")
    for config in (grpo, ppo):
        assert (config.optimizer.lr, config.train.batch_size, config.scheduler.warmup_ratio) == (1e-6, 256, 0.1)
        assert config.loss["samples"] == 4
    tiny = composed("experiment=toy_suite/table2", "method=embedded/ppo")
    assert (tiny.names.method, tiny.names.loss, tiny.optimizer.lr) == ("ppo", "ppo", 5e-4)
    assert plan.make(grpo).steps == 390  # of 100,000 rows
    assert plan.make(grpo).tokens == 390 * 256 * 4 * 2048
    # The value model of PPO has weights, gradients and two moments in float32, as the policy has, and is kept.
    more = memory.FRAGMENTS * (16 + 12) * plan.make(ppo).parameters
    assert plan.make(ppo).memory - plan.make(grpo).memory == pytest.approx(more, rel=1e-9)


def test_the_true_answers_and_stops_are_part_of_an_online_cell_alone(composed):
    golds = ["dataset=file", "dataset.path=some/hub-id", "dataset.gold_column=answer"]
    others = [*golds[:2], "dataset.gold_column=other"]
    assert identity(composed("loss=grpo", *golds)) != identity(composed("loss=grpo", *others))
    assert identity(composed("loss=sft", *golds)) == identity(composed("loss=sft", *others))
    assert identity(composed("loss=grpo")) != identity(composed("loss=grpo", "loss.samples=8"))
    assert identity(composed("loss=grpo")) == identity(composed("loss=grpo", "machine.workers=2"))
    assert identity(composed("loss=grpo")) != identity(composed("loss=grpo", "model.stop=[end]"))
    assert identity(composed("loss=sft")) == identity(composed("loss=sft", "model.stop=[end]"))
