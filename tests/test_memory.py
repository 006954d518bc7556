"""The plan's memory against the peak of real training processes."""

import json
from dataclasses import replace

import pytest
from test_training import make, trained
from transformers import AutoModelForCausalLM, Qwen2Config

from losslab import memory, world
from losslab.schema import OptimizerConfig, Precision

ROW = {"problem": "12+30=?", "solution": "2+0+0=2, " * 100 + "\\boxed{42}"}


@pytest.mark.parametrize(
    "shape",
    [
        {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8},  # activations
        {"vocab_size": 48_000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2},  # weights
    ],
)
def test_the_peak_is_within_15_percent_of_the_plan(shape, tmp_path):
    architecture = Qwen2Config(
        **shape, num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=2048,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(architecture)
    model.save_pretrained(tmp_path / "model")
    world.tokenizer().save_pretrained(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps(ROW) + "\n") * 16)
    config = make(tmp_path / "model", rows, tmp_path, "dft", micro_batch_tokens=4096, workers=1)
    adam = OptimizerConfig("torch.optim.AdamW", 1e-5, arguments={"fused": True})
    own = replace(config.train, batch_size=4, max_steps=2, max_length=1024, precision=Precision.fp32)
    config = replace(config, optimizer=adam, train=own)
    _, metrics = trained(config, tmp_path / "cell")
    planned = memory.on_device(config, architecture, sum(p.numel() for p in model.parameters()))
    assert metrics[-1]["peak_memory"] / planned == pytest.approx(1, abs=0.15)
