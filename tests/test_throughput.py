"""What a step is said to take, against sums done by hand."""

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from losslab.training import throughput
from losslab.training.throughput import Speed, Work


@pytest.fixture
def model():
    """Two layers of width 8 with two heads of 4 dimensions, which share keys and values, and 11 tokens."""
    config = Qwen2Config(
        vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def test_flops_of_a_small_model_by_hand(model):
    # Each layer: queries and output 8x8, keys and values 8x4, gate, up and down 8x16; a product is two operations, once
    # forward and twice backward. A token and one that it sees meet in two products of 2 heads x 4 dimensions.
    weights = 2 * (2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16)
    found = Work.of(model)
    assert (found.per_token, found.per_answer, found.per_pair) == (6 * weights, 6 * 8 * 11, 2 * 2 * 6 * 8)
    seen = (10**2 + 4**2) / 2  # causal: half of all pairs of a sequence
    lengths = np.array([10, 4])
    assert found.flops(lengths, answers=5) == 14 * 6 * weights + 5 * 6 * 88 + seen * found.per_pair


def test_frozen_weights_have_no_gradient_to_compute(model):
    full = Work.of(model)
    model.requires_grad_(False)
    frozen = Work.of(model)
    assert frozen.per_token == full.per_token * 4 / 6 and frozen.per_answer == full.per_answer * 4 / 6


@pytest.mark.parametrize(("family", "biases"), [("qwen3_moe", False), ("gpt_oss", True)])
def test_experts_count_as_far_as_a_token_is_given_to_them(family, biases):
    """Two of four; width 32, four heads of 8 dimensions, two of them for keys and values; no bias is a product."""
    model = tiny_models.make(family)
    inner = 16 if family == "qwen3_moe" else 48
    shapes = {name: p.shape for name, p in model.named_parameters() if ".layers.0.mlp.experts." in name}
    assert shapes["model.layers.0.mlp.experts.down_proj"] in [(4, 32, inner), (4, inner, 32)]
    assert any(name.endswith("bias") for name in shapes) == biases
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 4 * 32 + 2 * (3 * 32 * inner)  # attention, router, experts
    assert Work.of(model).per_token == 6 * 2 * layer


def test_mfu_is_of_all_devices_together(model, monkeypatch):
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 1e6)
    lengths = np.array([10, 4])
    work = Work.of(model)
    row = Speed(work, torch.device("cpu"), ranks=2).measure(lengths, answers=5, seconds=0.5)
    assert row["mfu"] == pytest.approx(work.flops(lengths, 5) / 0.5 / 2e6, abs=5e-5)
    assert (row["tokens"], row["tokens_per_second"], row["answer_tokens_per_second"]) == (14, 28, 10)
    monkeypatch.undo()
    assert "mfu" not in Speed(work, torch.device("cpu"), ranks=2).measure(lengths, 5, 0.5)  # nobody knows its peak
