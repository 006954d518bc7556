"""Every shipped YAML composes; every kind of mistake is one sentence; what makes a cell another cell."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from losslab.cells.sweep import Sweep
from losslab.composition.checks import check
from losslab.composition.compose import culprit, read
from losslab.composition.words import any_model
from losslab.config.messages import sentence
from losslab.config.paths import CONF
from losslab.config.schema import Config
from losslab.data.batches import Shard, micro_batches, micro_batches_of
from losslab.files.content import content
from losslab.planning import cost, memory, plan, sizing
from losslab.planning.plan_hours import short
from losslab.records.identity import identity, protocol
from losslab.records.record import Cell

GROUPS = {
    path.name: sorted(file.stem for file in path.glob("*.yaml"))
    for path in sorted(CONF.iterdir())
    if path.is_dir() and path.name not in ("hydra", "experiment")
}
NEEDED = {"model=custom": ["model.path=some/hub-id"], "dataset=file": ["dataset.path=some/hub-id"]}
NEEDED |= {"loss=dpo": ["dataset.rejected_column=rejected"], "loss=nft": ["dataset.reward_column=reward"]}
NEEDED |= {"loss=kto": ["dataset.reward_column=reward"]}
NEEDED |= {f"loss={name}": ["dataset.rejected_column=rejected"] for name in ("simpo", "orpo")}
NEEDED |= {
    f"loss={name}": ["reference.path=some/hub-id"]
    for name in ("forward_kl", "reverse_kl", "jsd", "top_k_kl", "stored_top_k_kl", "opd")
}
NEEDED |= {"loss=token_weights": ["dataset.weights_column=weights"]}
# What a model has not answered yet can be planned.
NEEDED |= {f"method={name}": ["plan=true"] for name in GROUPS["method"]} | {"dataset=self_correct": ["plan=true"]}
NEEDED["method=opd"] = ["plan=true", "reference.path=some/hub-id"]
NEEDED |= {
    f"dataset=self_{kind}": [f"loss={loss}", "plan=true"] for kind, loss in [("pairs", "dpo"), ("graded", "nft")]
}
SERVED = ("loss=base", "model=custom", "model.path=some-name", "machine.engine=api", "machine.api_url=http://host/v1")
LOSSES = ("base", "sft", "dft")  # of Table 1


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def make(*overrides: str) -> Config:
    cfg = compose("config", list(overrides), return_hydra_config=True)
    return read(cfg, cfg.hydra.runtime.choices)


@pytest.mark.parametrize("choice", [f"{group}={name}" for group, names in GROUPS.items() for name in names])
def test_every_shipped_file_composes(choice):
    group, name = choice.split("=")
    choice = f"{group}=[{name}]" if group == "benchmark" else choice
    make(choice, *NEEDED.get(choice, []))


def test_the_defaults_are_the_papers_recipe():
    config = make()
    assert config.model.path == "Qwen/Qwen2.5-Math-1.5B"
    assert (config.dataset.path, config.dataset.rows) == ("AI-MO/NuminaMath-CoT", 100_000)
    assert config.loss == {"_target_": "losslab.objectives.dft.DFT", "floor": 0.0}
    assert (config.optimizer._target_, config.optimizer.lr) == ("torch.optim.AdamW", 5e-5)
    assert (config.train.batch_size, config.train.max_length, config.train.epochs) == (256, 2048, 1)
    assert (config.scheduler.shape, config.scheduler.warmup_ratio, config.scheduler.floor) == ("cosine", 0.1, 0.0)
    assert (config.eval.samples, config.eval.temperature, config.eval.top_p) == (16, 1.0, 1.0)
    assert config.eval.max_new_tokens == 4096
    assert list(config.benchmark) == ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"]
    assert make("model=llama-3.1-8b").optimizer.lr == 2e-5


def test_the_plan_of_the_papers_recipe(tmp_path):
    here = [f"machine.results={tmp_path}", "machine.device=cpu"]
    paper = plan.make(make(*here))
    assert (paper.steps, paper.parameters, paper.state) == (391, 1_543_714_304, "to run")  # ceil(100000 / 256)
    assert paper.tokens == 391 * 256 * 2048 == 204_996_608
    assert plan.make(make("train.drop_last=true", *here)).steps == 390
    assert plan.make(make("train.epochs=3", *here)).steps == 1173
    base = plan.make(make("loss=base", *here))
    assert (base.steps, base.tokens, base.parameters) == (0, 0, 1_543_714_304)
    unknown = plan.make(make("dataset.rows=null", *here))
    assert (unknown.steps, unknown.tokens) == (None, None)


def test_what_saves_memory_saves_it_in_the_plan(tmp_path):
    here = (f"machine.results={tmp_path}", "machine.workers=1", "machine.device=cpu")

    def gib(*overrides: str) -> float:
        return plan.make(make(*here, *overrides)).memory / memory.GIB / memory.FRAGMENTS

    plain = gib()
    assert plain > gib("machine.recompute=selective") > gib("machine.recompute=full")
    weights = 1.543714304e9 / memory.GIB
    # Two bytes in place of four for the weight and two moments, and in a checkpoint's copy of these; no copy of weights
    # in the dtype of the computation. A step's gradients are added up in float32 either way.
    assert plain - gib("train=official", "train.micro_batch=2") == pytest.approx((6 + 6 + 2) * weights, rel=0.01)
    assert plain - gib("machine.cpu_offload=true") == pytest.approx(16 * weights, rel=0.01)
    assert gib("adapter=lora") < plain / 2


def test_a_run_that_cannot_fit_is_warned_of(tmp_path, monkeypatch, capsys):
    """Before it begins, and with plan=true: on two workers of a CPU, and not where it is trained already."""
    cells = [make(f"loss={loss}", f"machine.results={tmp_path}", "machine.workers=2", "machine.device=cpu")
             for loss in ("base", "dft")]  # fmt: skip
    needed = 2 * plan.make(cells[1]).memory
    monkeypatch.setattr(plan, "room", lambda gpu: needed + 1)
    assert plan.warn(cells) is None
    monkeypatch.setattr(plan, "room", lambda gpu: needed - 1)
    about = f"warning: training will need about {needed / memory.GIB:.1f} GiB, and this machine has free"
    assert plan.warn(cells).startswith(about)
    plan.show(cells)
    assert about in " ".join(capsys.readouterr().out.split())
    assert plan.warn(cells[:1]) is None
    composed = compose("config", ["loss=dft", f"machine.results={tmp_path}", "machine.workers=2"], True)
    Sweep()._start([read(composed, composed.hydra.runtime.choices)], composed)
    assert "warning: training will need about" in capsys.readouterr().out
    Cell.of(cells[1]).model.mkdir(parents=True)
    assert plan.warn(cells) is None


def test_the_memory_of_a_job(tmp_path):
    """The copy of a checkpoint, shared by the nodes, an export, and the processes; by half more than that."""
    here = f"machine.results={tmp_path}"
    small, large = 1.543714304e9, 8.030261248e9

    def gb(*overrides: str, gpus: int = 8, nodes: int = 1) -> float:
        return sizing.of_node(make(here, *overrides), {"gpus_per_node": gpus, "nodes": nodes}) / 1e9

    assert gb(gpus=1) == pytest.approx(1.5 * (4 + (12 + 6) * small / 1e9))
    assert gb("model=llama-3.1-8b") == pytest.approx(1.5 * (8 * 4 + (12 + 6) * large / 1e9))
    assert gb("model=llama-3.1-8b", nodes=2) == pytest.approx(1.5 * (8 * 4 + (6 + 6) * large / 1e9))
    assert gb("model=llama-3.1-8b", "adapter=lora") == pytest.approx(1.5 * (8 * 4 + 6 * large / 1e9))
    offload = gb("model=llama-3.1-8b", "machine.cpu_offload=true") - gb("model=llama-3.1-8b")
    assert offload == pytest.approx(1.5 * 16 * large / 1e9)
    assert gb(*SERVED) == gb(*SERVED, gpus=0) == memory.CELL / 1e9  # of a model that is nowhere here


def test_a_batch_need_not_be_a_multiple_of_the_workers():
    """Every rank gets as many micro-batches, some of them empty, and each unit is in one."""
    assert make("machine.workers=3").train.batch_size == 256
    units, lengths = np.arange(256), np.arange(256) % 50 + 1
    for split in (
        lambda shard: micro_batches(units, lengths, 512, shard),
        lambda shard: micro_batches_of(units, 8, shard),
    ):
        shares = [split(Shard(rank, 3)) for rank in range(3)]
        assert len({len(share) for share in shares}) == 1
        assert sorted(np.concatenate([unit for share in shares for unit in share])) == units.tolist()


def test_what_table1_takes_by_hand(tmp_path):
    """The parameters are those of the published checkpoints; every other number is written out."""
    models = {
        "qwen2.5-math-1.5b": 1_543_714_304,
        "qwen2.5-math-7b": 7_615_616_512,
        "llama-3.2-3b": 3_212_749_824,
        "llama-3.1-8b": 8_030_261_248,
        "deepseekmath-7b": 6_910_365_696,
    }
    cells = [make(f"model={name}", f"loss={loss}", "machine.device=cpu") for name in models for loss in LOSSES]
    plans = [plan.make(cell) for cell in cells]
    assert [p.parameters for p in plans] == [size for size in models.values() for _ in LOSSES]
    total = sum(models.values())
    assert total == 27_312_707_584
    found = cost.total(p.time.cost for p in plans)
    steps = 391  # 100,000 rows by 256
    assert {(p.steps, p.tokens) for p in plans} == {(0, 0), (steps, steps * 256 * 2048)}
    # 6 operations a weight and token, without embeddings that are not tied to the output layer, and 12 of each
    # dimension of each head for each of 1,024 tokens; SFT and DFT, at 94% of 51.3% of the peak.
    looked_up = 152_064 * 3584 + 128_256 * 4096 + 102_400 * 4096
    heads = 128 * (28 * 12 + 28 * 28 + 28 * 24 + 32 * 32 + 30 * 32)
    operations = 6 * (total - looked_up) + 12 * heads * 1024
    peak = 989e12
    assert found.training == pytest.approx(2 * operations * steps * 256 * 2048 / (0.94 * 0.513 * peak) / 3600)
    assert found.training == pytest.approx(38.42, abs=0.01)
    # 2 operations, for base, SFT and DFT, at a tenth of the peak: 16 samples of 4096 tokens of 500 + 272 + 675 + 30 +
    # 40 problems.
    assert found.scoring == pytest.approx(2 * total * 3 * 16 * 4096 * 1517 / (0.1 * peak) / 3600)
    assert found.scoring == pytest.approx(45.76, abs=0.01)
    # 109 GB, and 289 GB of the 8B model: two checkpoints stay, and a third one is being written.
    assert (found.disk, found.checkpoints) == (2 * 2 * total, 3 * 12 * 8_030_261_248)


def test_the_plan_of_a_job_is_for_its_gpus_and_not_those_of_the_login_node():
    sizes = ("machine.micro_batch_tokens=4096", "machine.recompute=none", "machine.reshard=true")
    layout = (*sizes, "machine.compile=true")
    cell = make("model=llama-3.1-8b", "loss=sft", *layout)
    one, eight = (plan.make(cell, {"nodes": 1, "gpus_per_node": gpus}) for gpus in (1, 8))
    pair = plan.make(cell, {"nodes": 2, "gpus_per_node": 8})
    # 16 bytes a parameter are sharded; what is gathered and the activations are the same on each. One GPU gathers
    # nothing: it has copies of all weights in bfloat16, and not of the outermost and two of 32 layers alone.
    copies = 2 * (one.parameters - 2 * 128_256 * 4096) * (1 - 2 / 32)
    assert one.memory - eight.memory == pytest.approx(7 / 8 * 16 * one.parameters + copies)
    assert eight.memory - pair.memory == pytest.approx(1 / 16 * 16 * one.parameters)
    hybrid = make("model=llama-3.1-8b", "loss=sft", "machine.sharding=hybrid", *layout)
    assert plan.make(hybrid, {"nodes": 2, "gpus_per_node": 8}).memory == eight.memory
    operations = 6 * (8_030_261_248 - 128_256 * 4096) + 12 * 32 * 32 * 128 * 1024
    training = operations * 391 * 256 * 2048 / (0.94 * 0.513 * 989e12) / 3600
    scoring = 2 * 8_030_261_248 * 16 * 4096 * 1517 / 98.9e12 / 3600
    assert one.hours == pytest.approx(training + scoring)
    assert pair.hours == pytest.approx(training / 16 + scoring / 8)  # scoring takes one node
    on_cpu = make("model=llama-3.1-8b", "loss=sft", "machine.device=cpu", "machine.workers=2")
    assert memory.Devices.of(on_cpu.machine, {"nodes": 2, "gpus_per_node": None}) == memory.Devices(2, 2, gpu=False)
    with pytest.raises(ValueError, match="machine.workers=2, but hydra.launcher.gpus_per_node=1: make them equal"):
        plan.make(make("machine.workers=2"), {"nodes": 1, "gpus_per_node": 1})


def test_the_plan_counts_both_answers_of_a_pair_and_the_rollouts_of_online_objectives():
    job = {"nodes": 1, "gpus_per_node": 8}
    pairs = plan.make(make("loss=dpo", "dataset.rejected_column=wrong"), job)
    assert (pairs.steps, pairs.tokens) == (391, 391 * 256 * 2 * 2048)
    grpo = make("method=grpo")
    planned, size = plan.make(grpo, job), 1_543_714_304
    tokens = 390 * 256 * 4 * 2048  # four answers to each question; the last, partial batch of questions is left out
    assert (planned.steps, planned.tokens) == (390, tokens) and planned.memory > 16 * size  # nothing is sharded
    found, speed = planned.time.cost, 0.526 * 11_718 / 43_143 * 989e12  # TRL's
    operations = 6 * size + 12 * 28 * 12 * 128 * 1024
    assert found.training == pytest.approx(operations * tokens / speed / 3600)
    assert found.rollouts == pytest.approx(2 * size * tokens * 0.75 / 98.9e12 / 3600)  # a quarter is left to the prompt
    assert planned.hours == pytest.approx((found.training + found.rollouts + found.scoring) / 8)
    ppo = plan.make(make("method=ppo"), job)
    assert ppo.time.cost.training / ppo.tokens == pytest.approx(2 * found.training / tokens)  # with its value model
    unknown = plan.make(make("method=rft", "plan=true"), job)
    assert (unknown.steps, unknown.tokens, unknown.hours) == (None, None, None)


def test_passes_without_gradients_are_a_third_of_training():
    """2 operations for each parameter and token beside 6: of the data once, of every batch, or of every third one."""
    hours = {}
    for loss in ("sft", "iw_sft", "asft", "talr", "psft"):
        own = ["train.updates=3"] if loss == "psft" else []
        cell = make(f"loss={loss}", "train.epochs=2", *own)
        hours[loss] = cost.of(cell, cost.Size(1000, 4_000_000, 6000.0), cost.Speed(1e15, 1e14)).training
    shares = {loss: hours[loss] / hours["sft"] for loss in hours}
    expected = {"sft": 1, "iw_sft": 1 + 1 / 6, "asft": 4 / 3, "talr": 4 / 3, "psft": 1 + 1 / 9}
    assert shares == pytest.approx(expected)


def test_the_launchers_settings_reach_the_plan(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    overrides = ["loss=sft", "plan=true", "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=8"]
    cfg = compose("config", overrides, return_hydra_config=True)
    OmegaConf.set_readonly(cfg, False)
    cfg.hydra.overrides.task, cfg.hydra.job.config_name = overrides[:2], "config"
    with pytest.raises(SystemExit) as end:
        Sweep().on_multirun_start(cfg)
    printed = capsys.readouterr().out
    assert end.value.code == 0 and "workers of a cell: 8 in a job, on 1 node" in printed
    cell = make(*overrides[:2])
    expected = plan.make(cell, {"nodes": 1, "gpus_per_node": 8})
    row = next(line for line in printed.splitlines() if "qwen2.5-math-1.5b" in line)
    assert f"{expected.memory / memory.GIB:.1f} GiB" in row and short(expected.hours) in row


def test_a_plan_counts_the_scores_under_every_prompt(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    one, other = (make("loss=sft", "plan=true", *more) for more in ([], ["prompt=boxed"]))
    scoring = plan.make(one).time.cost.scoring
    assert plan.show([one, other]) == 0
    printed = capsys.readouterr().out
    assert "2 times, by other prompts or protocols" in printed
    assert f"{2 * scoring:,.1f} of scoring" in printed


def test_numbers_of_a_plan_are_short():
    numbers = [None, 0, 391, 9_999, 10_000, 999_499, 999_500, 204_996_608, 999_500_000, 1_543_714_304]
    expected = ["?", "0", "391", "9999", "10k", "999k", "1M", "205M", "1B", "1.54B"]
    assert [plan.number(value) for value in numbers] == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lrr=1"], "unknown key optimizer.lrr; did you mean lr?"),
        (["+train.epoch=2"], "unknown key train.epoch; did you mean epochs?"),
        (["+loss.gama=2", "loss=focal"], "unknown key loss.gama; did you mean gamma?"),
        (
            ["model.template_arguments={enable_thinking: false}"],
            "unknown key model.template_arguments.enable_thinking; to add it, write "
            "'+model.template_arguments={enable_thinking: VALUE}'",
        ),
        (
            ["dataset.keep={prompt: first}"],
            "unknown key dataset.keep.prompt; to add it, write '+dataset.keep={prompt: VALUE}'",
        ),
        (["loss=idft", "loss.low=3"], "loss.low=3.0 is not below loss.high=2.0: exchange or change them"),
        (["loss=focal", "loss.gamma=high"], "loss.gamma: value 'high' of type 'str' could not be converted to Float"),
        (["train.precision=fp8"], "train.precision: invalid value 'fp8', expected one of [bf16, fp32]"),
        (["train.batch_size=many"], "train.batch_size: value 'many' of type 'str' could not be converted to Integer"),
        (["train.batch_size=0"], "train.batch_size is 0: set it to 1 or more"),
        (["dataset=file"], "dataset.path has no value: set it"),
        (["machine.workers=0"], "machine.workers is 0: set it to 1 or more"),
        (["eval.top_p=1.5"], "eval.top_p is 1.5: set it between 1e-06 and 1"),
        (["eval.temperature=-1"], "eval.temperature is -1.0: set it between 0 and 100"),
        (["optimizer._target_=torch.optim.Adamw"], "optimizer._target_=torch.optim.Adamw cannot be imported: check it"),
        (["+optimizer.arguments.beta=1"], "unknown key optimizer.arguments.beta; did you mean betas?"),
        (["model=custom", "model.path=/no/where"], "model.path=/no/where is not a folder: check the path"),
        (["dataset=file", "dataset.path=none.jsonl"], "dataset.path=none.jsonl names no file: check the path"),
        (
            ["dataset=embedded", "dataset.split=train"],
            "dataset.split=train does not exist: set it to one of corpus, demonstrations",
        ),
        (["dataset=embedded", "dataset.rows=null"], "dataset.rows has no value: the embedded data set is made on the"),
        (
            ["dataset=embedded", "loss=dpo", "dataset.rejected_column=bad"],
            "embedded has no column 'bad' but ['problem', 'solution', 'answer']: set dataset.rejected_column",
        ),
        (
            ["dataset=embedded_pictures", "model=tiny_vision", "dataset.images_column=picture"],
            "embedded has no column 'picture' but ['problem', 'solution', 'answer', 'image']: set dataset.images_",
        ),
        (
            ["dataset=embedded", "dataset.images_column=image"],
            "embedded has no column 'image' but ['problem', 'solution', 'answer']: set dataset.images_column",
        ),
        (["benchmark=[math50]"], "benchmark=math50 does not exist; did you mean math500?"),
        (["optimizer.learning_rate=1"], "unknown key optimizer.learning_rate; there are _target_, lr, weight_decay"),
        (["loss=ddft"], "loss=ddft does not exist; did you mean dft? There are "),
        (["model.eval_prompt=hello"], "model.eval_prompt must be `chat` or a text that contains {problem}"),
        (["loss=dpo"], "loss=dpo needs pairs of answers: set dataset.rejected_column"),
        (
            ["dataset.rejected_column=bad"],
            "loss=dft does not use dataset.rejected_column: leave it out",
        ),
        (["loss=jsd"], "loss=jsd learns from another model: set reference.path to a teacher"),
        (
            ["loss=dft", "reference.path=some/hub-id"],
            "loss=dft does not use reference.path: leave it out",
        ),
        (["loss=asft", "reference.path=/not/there"], "reference.path=/not/there is not a folder: check the path"),
        (
            ["loss=jsd", "reference.path=embedded_large"],
            "reference.path=embedded_large teaches the embedded task: set model=tiny",
        ),
        (["loss=asft", "reference.path=embedded"], "reference.path=embedded is the base of model=tiny: leave it out"),
        (
            ["loss=label_smoothing", "train.normaliser=kept_tokens"],
            "train.normaliser=kept_tokens counts weights of target tokens, and loss=label_smoothing acts on others too",
        ),
        (["loss=token_weights"], "loss=token_weights needs a weight of each token: set dataset.weights_column"),
        (
            ["loss=dft", "dataset.weights_column=w"],
            "loss=dft does not use dataset.weights_column: leave it out",
        ),
        (["loss=nft"], "loss=nft needs answers with rewards: set dataset.reward_column, or dataset=self_graded"),
        (
            ["loss=nft", "dataset.reward_column=reward", "train.normaliser=weights"],
            "train.normaliser=weights does not go with reward, whose weights cancel: choose another",
        ),
        (
            ["dataset.reward_column=reward"],
            "loss=dft does not use dataset.reward_column: leave it out",
        ),
        (
            ["method=rft"],
            "results/sampled/qwen2.5-math-1.5b-numinamath_cot/correct.jsonl is not there yet: "
            "losslab sample model=qwen2.5-math-1.5b dataset=numinamath_cot makes it",
        ),
        (
            ["model=custom", f"model.path={CONF}"],
            f"model.path={CONF} holds no config.json or adapter_config.json: name the folder of a checkpoint",
        ),
        (["train.updates=4"], "loss=dft takes one step on each batch: leave train.updates at 1"),
        (
            ["loss=dpo", "dataset.rejected_column=bad", "train.normaliser=weights"],
            "train.normaliser=weights does not go with pairs, whose weights cancel: choose another",
        ),
        (
            ["adapter.target_modules=[q_proj]"],
            "adapter.target_modules is for adapters, and adapter.rank=0 trains all weights: set adapter.rank, or leave "
            "adapter.target_modules out",
        ),
        (["adapter.alpha=32"], "adapter.alpha is for adapters, and adapter.rank=0 trains all weights"),
        (["loss=asft", "reference.revision=main"], "reference.revision is for another model: set reference.path too"),
        (
            ["scheduler=constant", "scheduler.floor=0.1"],
            "scheduler.floor is where the learning rate ends, and scheduler.shape=constant keeps it: leave one out",
        ),
        (["scheduler.decay_ratio=0.1"], "scheduler.decay_ratio is for scheduler.shape=wsd: set that too"),
        (
            ["scheduler.warmup_steps=10", "scheduler.warmup_ratio=0.05"],
            "scheduler.warmup_steps takes the place of scheduler.warmup_ratio: leave one out, or set the ratio to its "
            "default, 0.1, where a file sets it",
        ),
        (
            ["model.pretrain_seed=null"],
            "model.pretrain_seed is for the embedded models, and model.path=Qwen/Qwen2.5-Math-1.5B is not made here",
        ),
        (["loss=base", "model.pretrain_rows=64"], "model.pretrain_rows is for the embedded models, and model.path="),
        (
            ["dataset.success_rate_column=rate"],
            "dataset.success_rate_column is for answers with rewards: set dataset.reward_column too, or leave it out",
        ),
        (
            ["loss=grpo", "train.drop_last=true"],
            "loss=grpo leaves out a last batch that is not full in any case: leave train.drop_last out",
        ),
        (
            ["benchmark=[forgetting]", "benchmark.ifeval.instruction=Think."],
            "benchmark ifeval is a task of lm_eval, whose prompt is its own: leave instruction out",
        ),
        (
            ["benchmark=[forgetting]", *SERVED],
            "benchmark ifeval is a task of lm_eval, which needs the model itself: leave machine.engine=api out",
        ),
        (["los=dft"], "unknown key los; did you mean loss?"),
        (["optimzer.lr=1"], "unknown key optimzer; did you mean optimizer?"),
        (["loss.flor=1"], "unknown key loss.flor; did you mean floor?"),
        (["benchmark.math500.row=3"], "unknown key benchmark.math500.row; did you mean rows?"),
        (["hydra/launcher=slrum"], "hydra/launcher=slrum does not exist; did you mean slurm? There are "),
        (
            ["hydra/launcher=slurm", "hydra.launcher.partion=x"],
            "unknown key hydra.launcher.partion; did you",
        ),
        (["experiment=tabel1"], "experiment=tabel1 does not exist; did you mean table1? There are "),
        (["loss=[dft]"], "loss takes one name: write loss=NAME"),
        (["plan"], "plan cannot be read: write key=value"),
        (["scheduler.decay_ratio=1" + "0" * 400], "scheduler.decay_ratio: int too large to convert to float"),
        (
            ["dataset.path=a,b.csv"],
            "dataset.path=a,b.csv has several values: add -m to run a cell for each, or quote one with commas, as in "
            "'dataset.path=\"a,b.csv\"'",
        ),
        (
            ["loss._target_=losslab.objectives.dft.DTF"],
            "loss=dft: losslab.objectives.dft has no DTF; did",
        ),
        (["loss._target_=math.sqrt"], "loss=dft: math.sqrt is not a dataclass that derives from Objective"),
        (["loss._target_=losslab.objectives.none.X"], "loss=dft: losslab.objectives.none.X cannot be imported"),
    ],
)
def test_a_mistake_is_one_sentence(overrides, message):
    with pytest.raises(Exception) as caught:
        make(*overrides)
    text = sentence(caught.value)
    assert text.startswith(message) and "\n" not in text


def test_identity_is_the_science_and_not_the_machine(tmp_path):
    config = make()
    key = identity(config)
    same = ["machine.workers=8", "machine.micro_batch_tokens=99", "eval=greedy", "tracker=none", "force=true"]
    assert {identity(make(override)) for override in same} == {key}
    other = ["seed=1", "loss=sft", "optimizer.lr=1e-4", "train.epochs=2", "dataset.rows=9", "model=qwen2.5-math-7b"]
    assert len({key, *(identity(make(override)) for override in other)}) == 1 + len(other)
    base = identity(make("loss=base"))
    assert base == identity(make("loss=base", "optimizer.lr=1", "dataset=openr1_math", "train.epochs=3"))
    assert base != identity(make("loss=base", "seed=1"))


def test_what_the_file_of_an_embedded_model_sets_is_not_refused_with_another_path(checkpoint):
    assert make("model=tiny", f"model.path={checkpoint}").model.pretrain_rows == 51200


def test_a_method_names_a_row_and_not_a_cell():
    row, plain = make("experiment=demo", "method=iw_sft"), make("experiment=demo", "loss=iw_sft")
    assert (row.names.method, row.names.loss, plain.names.method) == ("iw_sft", "iw_sft", None)
    assert (row.optimizer.lr, row.optimizer.arguments["betas"], row.scheduler.warmup_ratio) == (1e-5, [0.9, 0.95], 0.05)
    assert (row.train.batch_size, row.dataset.path) == (64, "embedded")  # of the experiment
    assert Cell.of(make("method=dft")) == Cell.of(make("loss=dft"))


def test_methods_on_a_models_own_answers(tmp_path):
    """Table 2's settings; after an experiment, whose data set they replace; and what they sample from is no science."""
    rft, dft, iw_sft, dpo, nft = (
        make("experiment=demo", f"method={name}", "plan=true", "dataset.source=embedded")
        for name in ("rft", "dft_offline", "iw_sft_offline", "dpo", "nft")
    )
    assert [Path(config.dataset.path).name for config in (rft, dft, iw_sft, dpo, nft)] == [
        *3 * ["correct.jsonl"], "pairs.jsonl", "graded.jsonl",
    ]  # fmt: skip
    assert {Path(config.dataset.path).parent for config in (rft, dpo, nft)} == {Path("results/sampled/tiny-embedded")}
    assert (rft.optimizer.lr, dft.optimizer.lr, iw_sft.optimizer.lr) == (2e-4, 2e-4, 1e-5)
    assert (dpo.optimizer.lr, dpo.train.batch_size, dpo.scheduler.warmup_ratio) == (1e-6, 128, 0.05)
    assert (nft.optimizer.lr, nft.train.normaliser) == (1e-6, "kept_tokens")
    assert make("method=rft", "plan=true").optimizer.lr == 5e-5
    assert plan.rows_of(rft) is None
    assert make("experiment=demo", "dataset.source=embedded").dataset.path == "embedded"  # of no use, and no harm
    tiny = make("experiment=demo", "method=embedded/dpo", "plan=true", "dataset.source=embedded")
    assert (tiny.names.method, tiny.optimizer.lr, tiny.dataset.path) == ("dpo", 1e-4, dpo.dataset.path)
    tiny = make("experiment=demo", "method=embedded/nft", "plan=true", "dataset.source=embedded")
    assert (tiny.names.method, tiny.optimizer.lr, tiny.dataset.path) == ("nft", 2e-4, nft.dataset.path)

    (tmp_path / "sampled/tiny-embedded").mkdir(parents=True)
    rows = tmp_path / "sampled/tiny-embedded/correct.jsonl"
    rows.write_text('{"problem": "1+1=?", "solution": "2"}\n')
    here = make("experiment=demo", "method=rft", "dataset.source=embedded", f"machine.results={tmp_path}")
    assert plan.rows_of(here) == 1
    named = make("experiment=demo", "loss=sft", "dataset=file", f"dataset.path={rows}")
    assert identity(here) == identity(named) != identity(rft)


def test_models_of_one_name_have_folders_of_their_own_for_their_answers(tmp_path):
    def folder(*words: str) -> str:
        config = make("experiment=demo", "method=rft", "plan=true", "dataset.source=embedded", *words)
        assert config.names.sampled in Path(config.dataset.path).parent.name
        return Path(config.dataset.path).parent.name

    def by_path(path: str) -> list[str]:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "config.json").write_text("{}")
        return ["model=custom", f"model.path={tmp_path / path}"]

    one, two = folder(*by_path("org1/x")), folder(*by_path("org2/x"))
    assert one != two and one.startswith("x-") and one.endswith("-embedded")
    assert folder(*by_path("org1/x")) == one != folder(*by_path("org1/x"), "model.revision=abc")
    assert folder() == "tiny-embedded" != folder(f"model.path={tmp_path / 'org1/x'}")


@pytest.mark.parametrize(("path", "name"), [("*.jsonl", "rows"), ("part-*.jsonl", "part-"), ("a.jsonl", "a")])
def test_a_data_set_has_a_name(tmp_path, path, name):
    (tmp_path / "rows").mkdir()
    for file in ("a.jsonl", "part-1.jsonl"):
        (tmp_path / "rows" / file).write_text('{"problem": "1+1=?", "solution": "2"}\n')
    assert make("dataset=file", f"dataset.path={tmp_path}/rows/{path}").names.dataset == name


def test_identity_is_of_content_and_not_of_names(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("{}\n" * 10**6 + "{}\n" + "{}\n" * 10**6)
    two.write_text(one.read_text())
    same = identity(make("dataset=file", f"dataset.path={one}"))
    assert identity(make("dataset=file", f"dataset.path={two}")) == same
    pattern = identity(make("dataset=file", f"dataset.path={tmp_path}/*.jsonl"))
    two.write_text("{}\n" * 10**6 + "[]\n" + "{}\n" * 10**6)  # one digit in the middle
    assert identity(make("dataset=file", f"dataset.path={two}")) != same
    assert identity(make("dataset=file", f"dataset.path={tmp_path}/*.jsonl")) != pattern
    assert content("no/such/hub-id") == "no/such/hub-id"


def test_identity_of_an_objective_is_its_parameters_and_code(tmp_path, monkeypatch):
    assert identity(make("loss=focal", "loss.gamma=2")) == identity(make("loss=focal", "loss.gamma=2.0"))
    assert identity(make("loss=dft_floor")) == identity(make("loss=dft", "loss.floor=0.1")) != identity(make())
    source = (
        "from dataclasses import dataclass\nfrom losslab.objectives import Objective\n\n"
        "@dataclass(frozen=True)\nclass Mine(Objective):\n    def loss(self, t):\n        return -{} * t.logp\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = []
    for number, body in enumerate([source.format(1), source.format(1) + "# a remark\n", source.format(2)]):
        (tmp_path / f"mine{number}.py").write_text(body)
        keys.append(identity(make(f"loss._target_=mine{number}.Mine", "~loss.floor")))
    assert keys[0] == keys[1] != keys[2]


def test_protocol_is_what_decides_samples(tmp_path):
    key = protocol(make())
    same = ["loss=sft", "machine.engine=vllm", "eval.samples=4", "eval.verdict=corrected", "seed=1"]
    assert {protocol(make(override)) for override in same} == {key}
    assert protocol(make("eval.seed=7", "seed=7")) == protocol(make("eval.seed=7", "seed=1"))  # one row of a table
    other = ["eval.temperature=0.5", "eval.seed=7", "eval.max_new_tokens=9", f"eval.data={tmp_path}"]
    assert len({key, *(protocol(make(override)) for override in other)}) == 1 + len(other)


def test_objectives_outside_the_package_are_found(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom losslab.objectives import Objective\n\n"
        "@dataclass(frozen=True)\nclass Mine(Objective):\n    slope: float\n\n"
        "    def loss(self, t):\n        return -self.slope * t.logp\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = make()
    config.loss = {"_target_": "mine.Mine", "slope": 2}
    check(config)
    assert type(config.objective).__name__ == "Mine"
    config.loss = {"_target_": "mine.Mine"}
    with pytest.raises(ValueError, match="loss.slope has no value: set it"):
        check(config)


def test_the_launcher_composes():
    cfg = compose("config", ["hydra/launcher=slurm"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_.endswith("SlurmLauncher")
    assert (cfg.hydra.launcher.gpus_per_node, cfg.hydra.launcher.array_parallelism) == (1, 16)


def test_configuration_is_at_most_two_folders_deep():
    assert max(len(file.relative_to(CONF).parts) for file in CONF.rglob("*.yaml")) <= 3


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("model=tiny", ["model=tiny"]),
        ("model=tiny,qwen2.5-math-7b", ["model=tiny,qwen2.5-math-7b"]),
        ("model=Qwen/Qwen3-0.6B", ["model=custom", "model.path=Qwen/Qwen3-0.6B"]),
        ("model=a/b,/c/d", ["model=custom", "model.path=a/b,/c/d"]),
        ("model=Qwen/Qwen2.5-Math-1.5B", ["model=qwen2.5-math-1.5b"]),  # with the paper's prompt and stops
        ("model=Qwen/Qwen2.5-Math-1.5B,tiny", ["model=qwen2.5-math-1.5b,tiny"]),
        ("model=./tiny", ["model=custom", "model.path=./tiny"]),
        ("loss=dft", ["loss=dft"]),
    ],
)
def test_a_model_may_be_a_name_or_a_path(argument, expected):
    assert any_model(argument) == expected


def test_names_and_paths_of_models_do_not_mix():
    with pytest.raises(ValueError, match=r"run two sweeps \(Qwen/Qwen2.5-Math-7B is model=qwen2.5-math-7b\)$"):
        any_model("model=Qwen/Qwen2.5-Math-7B,/data/checkpoint")
    with pytest.raises(ValueError, match="model=tiny,a/b mixes names of conf/model with paths"):
        any_model("model=tiny,a/b")


@pytest.mark.parametrize("value", ["nan", "-inf", "1e5", "3", "true"])
def test_a_number_is_no_name_of_a_file(value):
    with pytest.raises(ValueError, match=f"^tracker={value} does not exist: choose a file of conf/tracker"):
        any_model(f"tracker={value}")


@pytest.mark.parametrize("wrong", ["++prompt.examples.x=1", "++benchmark.x=1"])
def test_an_override_is_named_where_the_library_names_none(wrong):
    with pytest.raises(HydraException) as raised:
        make("optimizer.lr=high")
    assert culprit(raised.value, ["optimizer.lr=high"]) is None
    words = ["seed=1", "model=custom", wrong, "loss=sft"]  # the model has no path yet, which is another mistake
    with pytest.raises((HydraException, ValueError)) as raised:
        make(*words)
    assert culprit(raised.value, words) == wrong
