"""The methods at real scale on a tiny random model of each architecture: a step of training, a batch of samples."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from losslab.cells.run import run
from losslab.cells.sampling import build
from losslab.composition.compose import read
from losslab.config.paths import CONF, EXPERIMENTS
from losslab.config.schema import BASE, Config, Engine, Stage
from losslab.evaluation import engines
from losslab.planning import plan
from losslab.records.record import Cell

REAL = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(EXPERIMENTS.glob("*.yaml"))}
REAL = {name: own for name, own in REAL.items() if not name.startswith("demo") and not own["sweep"].get("needs")}
del REAL["table4"]  # images: test_table4.py
YAMLS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "model").glob("*.yaml"))}
YAMLS = {name: own for name, own in YAMLS.items() if "architecture" in own and not own["path"].startswith("embedded")}
YAMLS = {name: own for name, own in YAMLS.items() if "vision_config" not in own["architecture"]}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Special tokens (the first ones are BOS, where there is one, and EOS) and the scaling of the rotations, by model.
QWEN: dict[str, Any] = {"special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "eos": "<|endoftext|>"}
LLAMA: dict[str, Any] = {
    "special": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
    "bos": "<|begin_of_text|>",
    "eos": "<|end_of_text|>",
}
SCALING = {"rope_type": "llama3", "rope_theta": 5e5, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALING |= {"original_max_position_embeddings": 8192}
DEEPSEEK = {"special": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], "bos": "<｜begin▁of▁sentence｜>"}
FACTS: dict[str, dict[str, Any]] = {
    "qwen2.5-math-1.5b": QWEN,
    "qwen2.5-math-7b": QWEN,
    "qwen2.5-3b": QWEN,
    "qwen2.5-coder-3b": QWEN,
    "qwen2.5-coder-7b": QWEN,
    "llama-3.2-3b": LLAMA | {"rope": SCALING | {"factor": 32.0}},
    "llama-3.1-8b": LLAMA | {"rope": SCALING | {"factor": 8.0}},
    "deepseekmath-7b": DEEPSEEK | {"eos": "<｜end▁of▁sentence｜>"},
}
ANSWER, WRONG = "It is \\boxed{2}.", "It is \\boxed{3}."  # to every question
ROWS = 8
FAMILIES = ["qwen2.5-math-1.5b", "llama-3.2-3b", "deepseekmath-7b"]  # and with them tied embeddings and not


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Bytes as tokens, the family's special tokens and chat template, and its BOS before every text."""
    facts = FACTS[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(facts["special"])
    if bos := facts.get("bos"):
        begin = [(bos, core.token_to_id(bos))]
        core.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=begin)
    result = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=facts["eos"])
    result.chat_template = CHATML if facts is QWEN else None
    return result


def make_checkpoint(name: str, folder: Path) -> None:
    """The architecture of a model's YAML with its share of heads per key-value head, of 32 dimensions; two layers."""
    own, letters = dict(YAMLS[name]["architecture"]), tokenizer(name)
    share = own["num_attention_heads"] // own["num_key_value_heads"]
    kv = 1 if share > 1 else 2
    small = {"num_key_value_heads": kv, "num_attention_heads": kv * share, "hidden_size": 32 * kv * share}
    small |= {"intermediate_size": 64 * kv * share, "num_hidden_layers": 2, "vocab_size": len(letters)}
    small |= {"bos_token_id": letters.bos_token_id, "eos_token_id": letters.eos_token_id}
    small |= {"rope_parameters": FACTS[name]["rope"]} if "rope" in FACTS[name] else {}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**own | small), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    letters.save_pretrained(folder)


def make_guesser(checkpoint: Path, folder: Path) -> None:
    """A checkpoint that says 2 or ends, whatever it is asked: by the first dimension, which all tokens share."""
    letters, model = AutoTokenizer.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 1
        model.get_output_embeddings().weight[:, 0] = 1
        model.get_output_embeddings().weight[[letters.convert_tokens_to_ids("2"), letters.eos_token_id], 0] = 3
    model.save_pretrained(folder)
    letters.save_pretrained(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with checkpoints, YAML files that name them, rows, a benchmark of two problems, and own answers."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "conf/model").mkdir(parents=True)
    (folder / "benchmarks").mkdir()

    def keep(file: str, rows: list[dict[str, Any]]) -> None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))

    rows = [{"problem": f"{i}-{i}+2=?", "solution": ANSWER, "short": "2"} for i in range(ROWS)]
    for row in rows:  # the columns of another data set, which hold messages
        row["prompt"] = [{"role": "system", "content": "Think."}, {"role": "user", "content": row["problem"]}]
        row["target"] = [{"role": "assistant", "content": row["solution"]}]
    keep("rows.jsonl", rows)
    keep("benchmarks/math500.jsonl", rows[:2])
    samples = [
        {"text": text, "corrected": text == ANSWER, "finish_reason": "stop", "timed_out": False}
        for text in (ANSWER, WRONG)
    ]
    own, _ = build([{"index": i, "question": row["problem"], "samples": samples} for i, row in enumerate(rows)], 2, 0)
    for name, published in YAMLS.items():
        make_checkpoint(name, folder / "models" / name)
        tiny = published | {"path": str(folder / "models" / name)}
        (folder / f"conf/model/tiny-{name}.yaml").write_text(yaml.safe_dump(tiny))
        for kind, answers in own.items():
            keep(f"results/sampled/tiny-{name}-numinamath_cot/{kind}.jsonl", answers)
    return folder


def overrides(place: Path) -> list[str]:
    return [
        f"hydra.searchpath=[file://{place}/conf]",
        "train.max_steps=1",
        "benchmark=[math500]",
        "benchmark.math500.rows=2",
        f"eval.data={place}/benchmarks",
        "eval.samples=2",
        "eval.max_new_tokens=8",
        f"machine.results={place}/results",
        "machine.device=cpu",
        "machine.threads=1",
        "tracker=none",
    ]


def configurations() -> list[Any]:
    """(turn, experiment, method, loss): each method and loss once, and each experiment at least once.

    Methods that differ in learning rate or batch size alone take the same step.
    """
    chosen: list[tuple[str, str, str]] = []
    taken = set()
    for experiment, file in REAL.items():
        swept = [file["hydra"]["sweeper"]["params"].get(group, "").split(",") for group in ("method", "loss")]
        mine = [(experiment, method, loss) for method, loss in product(*swept) if loss != BASE]
        new = {(step(method), loss): (experiment, method, loss) for _, method, loss in reversed(mine)}
        chosen += [choice for key, choice in reversed(new.items()) if key not in taken] or mine[:1]
        taken |= new.keys()
    return [pytest.param(turn, *choice, id="-".join(filter(None, choice))) for turn, choice in enumerate(chosen)]


def step(method: str) -> str:
    """What a method's file decides of a step."""
    own = yaml.safe_load((CONF / f"method/{method}.yaml").read_text()) if method else {}
    own.get("optimizer", {}).pop("lr", None)
    own.get("train", {}).pop("batch_size", None)
    return json.dumps({group: keys for group, keys in own.items() if keys})


def make(*arguments: str) -> Config:
    composed = compose("config", list(arguments), return_hydra_config=True)
    return read(composed, composed.hydra.runtime.choices)


def trained(config: Config) -> Cell:
    run(config)
    cell = Cell.of(config)
    assert cell.state()["state"] == "trained", cell.state()
    return cell


@pytest.mark.parametrize(("turn", "experiment", "method", "loss"), configurations())
def test_every_configuration_plans_and_trains_a_step(place, turn, experiment, method, loss):
    """On the model whose turn it is."""
    name = list(YAMLS)[turn % len(YAMLS)]
    chosen = {"experiment": experiment, "method": method, "loss": loss}
    own = [f"{group}={choice}" for group, choice in chosen.items() if choice]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        real = make(f"model={name}", *own, "plan=true")
        online, answers = real.names.loss in ("grpo", "ppo"), real.dataset.source is not None
        tiny = [f"model=tiny-{name}", *own, *overrides(place), f"seed={turn}", "stage=train"]  # no cell is there yet
        # The weight of a long answer, a product of probabilities, is 0 for a random model.
        column = "short" if loss == "dft_sequence" else "solution"
        rows = {"path": f"{place}/rows.jsonl", "prompt_column": "problem", "answer_column": column}
        tiny += [] if answers else [f"dataset.{key}={value}" for key, value in rows.items()]
        tiny += [f"~dataset.keep.{column}" for column in real.dataset.keep]  # of columns that these rows lack
        if online:  # a random model is never right, and nothing would be learned
            make_guesser(place / "models" / name, place / "guessers" / name)
            tiny += [f"model.path={place}/guessers/{name}", f"train.batch_size={ROWS}", "loss.max_new_tokens=8"]
        config = make(*tiny)
    planned = plan.make(real, {"nodes": 1, "gpus_per_node": 8})
    assert planned.parameters > 1.5e9
    if answers:  # how many there will be, nobody knows
        assert (planned.steps, planned.tokens, planned.hours) == (None, None, None)
    else:
        assert planned.steps > 100 and planned.tokens > 1e7 and planned.hours > 0

    cell = trained(config)
    (row,) = [json.loads(line) for line in cell.metrics.read_text().splitlines()]
    tokens = ROWS * (len("2" if loss == "dft_sequence" else ANSWER) + 1)  # one for each byte, and EOS
    assert row["gradient_norm"] > 0
    if online:
        assert 0 < row["reward"] < 1 < row["completion_length"] <= 8
    else:
        graded = real.dataset.rejected_column or real.dataset.reward_column  # right and wrong ones
        assert row["answer_tokens"] == (2 * tokens if graded else tokens)
        assert row["cross_entropy"] == pytest.approx(
            math.log(len(tokenizer(name))), rel=0.1
        )  # of random weights and few tokens
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (config.model.path, cell.model))
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {k: (v.shape, v.dtype) for k, v in before.items()}
    assert any(not torch.equal(after[key], before[key]) for key in before)
    if config.machine.probabilities:
        found = json.loads(cell.probabilities.read_text())
        assert found["before"]["tokens"] == found["after"]["tokens"] == sum(found["after"]["counts"]) == tokens
    else:
        assert not cell.probabilities.exists()


def test_every_family_is_sampled_with_its_own_prompt_and_stops(place):
    own = ["experiment=table1", "loss=dft", f"dataset.path={place}/rows.jsonl", *overrides(place)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [make(f"model=tiny-{name}", *own, "stage=train") for name in FAMILIES]
    found = [trained(config) for config in configs]
    for config in configs:
        run(replace(config, stage=Stage.score))
    for name, cell, config in zip(FAMILIES, found, configs, strict=True):
        assert cell.state()["state"] == "done"
        scores = json.loads((cell.scores(config) / "scores.json").read_text())
        assert scores["engine"] == str(engines.choose(Engine.auto))
        assert scores["benchmarks"]["math500"]["problems"] == 2 and scores["generation"]["samples"] == 4
        protocol = yaml.safe_load((cell.scores(config) / "protocol.yaml").read_text())
        assert protocol["prompt"] == YAMLS[name]["eval_prompt"]
        letters = tokenizer(name)
        special = {
            letters.convert_tokens_to_ids(stop) for stop in YAMLS[name]["stop"] if stop in FACTS[name]["special"]
        }
        assert protocol["stop_ids"] == sorted(special | {letters.eos_token_id})
        assert protocol["stop"] == [stop for stop in YAMLS[name]["stop"] if stop not in FACTS[name]["special"]]
