"""Real rows without a hub: train on worked solutions, score on the five real benchmarks, with vLLM where it is."""

import json
import sys
from pathlib import Path

import pytest
import torch
import warm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2Tokenizer

from losslab.config.schema import Engine
from losslab.evaluation import engines

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
ROWS = {"math500": 500, "minerva_math": 272, "olympiadbench": 675, "aime24": 30, "amc23": 40}


@pytest.fixture(scope="module")
def checkpoint(shared, tmp_path_factory) -> Path:
    """A Qwen2 of random weights with a byte-level BPE of 1,000 merges learned from the real solutions."""
    folder = tmp_path_factory.mktemp("qwen2")
    rows = [json.loads(line) for line in (shared / "data/train/math_4500.jsonl").read_text().splitlines()[:500]]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1259, special_tokens=special, initial_alphabet=alphabet)
    core.train_from_iterator((row["problem"] + row["solution"] for row in rows), trainer)
    learned = json.loads(core.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=learned["vocab"], merges=merges, additional_special_tokens=special[1:])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_real_rows_from_file_to_table(root, shared, checkpoint, tmp_path):
    rows = (shared / "data/train/math_4500.jsonl").read_text().splitlines()[:61]
    planted = (shared / "data/benchmarks/math500.jsonl").read_text().splitlines()[100:103]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    with (tmp_path / "rows.jsonl").open("a") as file:  # three problems that the benchmark asks
        file.writelines(json.dumps({k: json.loads(p)[k] for k in ("problem", "solution")}) + "\n" for p in planted)
    arguments = [
        f"model={checkpoint}",
        "dataset=file",
        f"dataset.path={tmp_path}/rows.jsonl",
        "train.batch_size=16",
        "train.max_length=512",
        f"eval.data={shared}/data/benchmarks",
        "eval.samples=1",
        "eval.max_new_tokens=8",
        "machine.device=cpu",
        "tracker=none",
        "sweep.name=offline",
    ]
    done = warm.run([sys.executable, str(root / "train.py"), *arguments], tmp_path)
    assert done.returncode == 0, done.stderr
    (cell,) = tmp_path.glob("results/cells/*")
    about = json.loads(next(tmp_path.glob("results/cache/data/*/about.json")).read_text())["report"]
    assert (about["rows"], about["broken"]) == (64, 0) and about["examples"] + about["overlong_dropped"] == 64
    steps = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == -(-about["examples"] // 16)
    assert sum(step["answer_tokens"] for step in steps) == about["answer_tokens"]
    (scores,) = cell.glob("scores/paper-*/scores.json")
    found = json.loads(scores.read_text())
    assert {name: part["problems"] for name, part in found["benchmarks"].items()} == ROWS
    assert found["engine"] == str(engines.choose(Engine.auto))
    assert all(part["score"] < 5 for part in found["benchmarks"].values())  # eight tokens of noise solve nothing
    seen = {name: part["seen_exact"] for name, part in found["benchmarks"].items()}
    assert seen == dict.fromkeys(ROWS, 0) | {"math500": 3}
    assert "math500: the training data holds the question of 3 of 500 problems" in done.stderr
    assert (tmp_path / "results/tables/offline/table.md").exists()
