"""The check at the start of every training: what it finds, what it falls back to, and that training is exact then."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import torch.distributed as dist
from test_training import make, trained

from losslab.config.choices import Recompute
from losslab.config.schema import AdapterConfig, Precision
from losslab.data import toy_task
from losslab.data.examples import Examples
from losslab.models import attention
from losslab.models.policy import Policy
from losslab.training import packing_check


@pytest.fixture
def alone(tmp_path):
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def policy(family: str) -> Policy:
    model = tiny_models.make(family)
    model.set_attn_implementation(attention.NAME)
    return Policy(model, Precision.fp32, torch.float32, AdapterConfig())


def test_state_that_passes_between_sequences_is_found_by_its_gradient(alone):
    checked = policy("lfm2")
    result = packing_check.check(checked, tiny_models.examples(), torch.device("cpu"))
    assert list(result.failed) == ["packed", "packed, layers told"]  # told in vain: the kernel needs a GPU
    assert all("state from one sequence to the next" in reason for reason in result.failed.values())
    assert (result.packed, result.attention, checked.packed) == (False, "sdpa", False)
    assert result.agreement.leak == 0 and result.agreement.tokens == 39  # the shortest and the longest
    assert result.agreement.logp < 1e-6 and result.agreement.gradient < 1e-5 and result.seconds > 0
    assert "processed one length at a time" in result.sentence()


def convolution_by_sequence(function: Callable) -> Callable:
    """What causal-conv1d's kernel does with `seq_idx`: the convolution of each sequence alone."""

    def kernel(
        states: torch.Tensor, *weights: torch.Tensor, seq_idx: torch.Tensor | None = None, **options: Any
    ) -> Any:
        if seq_idx is None:
            return function(states, *weights, **options)
        parts = states.split(torch.bincount(seq_idx[0]).tolist(), dim=2)
        return torch.cat([function(part, *weights, **options) for part in parts], 2)

    return kernel


def recurrence_by_sequence(function: Callable) -> Callable:
    """What flash-linear-attention's kernel does with `cu_seqlens`: the recurrence of each sequence alone."""

    def kernel(
        *tensors: torch.Tensor, g: Any, beta: Any, cu_seqlens: torch.Tensor | None = None, **options: Any
    ) -> Any:
        if cu_seqlens is None:
            return function(*tensors, g=g, beta=beta, **options)
        parts = zip(*(tensor.split(cu_seqlens.diff().tolist(), dim=1) for tensor in (*tensors, g, beta)), strict=True)
        return torch.cat([function(*rest, g=g, beta=beta, **options)[0] for *rest, g, beta in parts], 1), None

    return kernel


@pytest.mark.parametrize("family", ["lfm2", "qwen3_next"])
def test_layers_whose_kernels_know_of_sequences_are_told_where_they_lie(alone, monkeypatch, family):
    """The kernels need a GPU: functions that do the same stand in for them."""
    checked = policy(family)
    module = sys.modules[type(checked.model).__module__]
    monkeypatch.setattr(module, "causal_conv1d_fn", convolution_by_sequence(module.causal_conv1d_fn))
    if family == "qwen3_next":
        rule = recurrence_by_sequence(module.torch_chunk_gated_delta_rule)
        monkeypatch.setattr(module, "torch_chunk_gated_delta_rule", rule)
    result = packing_check.check(checked, tiny_models.examples(), torch.device("cpu"))
    assert (result.packed, result.attention, checked.told) == (True, "packed, layers told", True)
    assert result.agreement.leak == 0 and result.agreement.gradient < 1e-5 and result.sentence() is None


def test_a_packed_model_says_nothing_and_computes_in_its_own_precision_afterwards(alone):
    checked = policy("qwen2")
    checked.precision = Precision.bf16
    result = packing_check.check(checked, tiny_models.examples(), torch.device("cpu"))
    assert (result.packed, result.precision, checked.precision) == (True, Precision.fp32, Precision.bf16)
    assert result.failed == {} and result.sentence() is None and checked.packed
    assert all(p.grad is None for p in checked.parameters())


def test_what_no_way_of_running_reproduces_is_refused(alone):
    checked = policy("qwen2")
    checked.output_form = replace(checked.output_form, scale=1.01)
    message = "^Qwen2ForCausalLM cannot be trained exactly: compared with its own forward over each"
    with pytest.raises(ValueError, match=message):
        packing_check.check(checked, tiny_models.examples(), torch.device("cpu"))


def test_bfloat16_shows_a_leak_too(alone):
    checked = policy("lfm2")
    for parameter in checked.parameters():
        parameter.data = parameter.data.bfloat16()
    checked.precision = Precision.bf16
    result = packing_check.check(checked, tiny_models.examples(), torch.device("cpu"))
    assert "state from one sequence" in result.failed["packed"] and result.precision == Precision.bf16


def test_the_sequences_are_long_enough_for_the_windows_that_the_data_cross(alone):
    data = tiny_models.examples()
    checked = policy("qwen2")
    affordable = packing_check.limit(checked, data, torch.device("cpu"))
    assert affordable == packing_check.LONGEST  # of a tiny model
    config = {"sliding_window": 4096, "use_sliding_window": True, "rope": {"original_max_position_embeddings": 8192}}
    assert packing_check.thresholds(config | {"hidden_size": 64, 0: 3}) == [4096, 8192]
    checked.model.config.sliding_window = 5000
    long = Examples(np.ones(6010, np.int32), np.array([0, 10, 6010]), np.array([2, 5]), "", {})
    assert packing_check.limit(checked, long, torch.device("cpu")) == 5000 + packing_check.SHORTEST
    batch = packing_check.two_sequences(long, 5024)
    assert batch.packing.lengths == [10, 5014]
    assert len(batch.targets) == 8 + packing_check.ANSWERS
    assert packing_check.two_sequences(long, 24).packing.lengths == [8, 16]


@pytest.mark.parametrize("family", ["lfm2", "stablelm"])
def test_a_family_that_is_not_packed_learns_the_same_whatever_the_ranks_and_micro_batches(family, rows, tmp_path):
    """Its passes are as many on all ranks, also where a rank has fewer lengths of sequences than another."""
    checkpoint = tmp_path / family
    size = len(toy_task.tokenizer())
    model = tiny_models.make(family)
    model.resize_token_embeddings(size)
    model.save_pretrained(checkpoint)
    toy_task.tokenizer().save_pretrained(checkpoint)
    layouts: list[dict] = [
        {"micro_batch_tokens": 32},
        {"workers": 2, "micro_batch_tokens": 96, "recompute": Recompute.full},
    ]
    found = []
    for i, machine in enumerate(layouts):
        cell = tmp_path / str(i) / "cell"
        found.append(trained(make(checkpoint, rows, tmp_path / str(i), "sft", **machine), cell))
        record = json.loads((Path(cell) / "packing.json").read_text())
        assert (record["packed"], list(record["failed"])) == (False, ["packed", "packed, layers told"])
        assert record["agreement"]["leak"] == 0
    (weights, metrics), (other, again) = found
    np.testing.assert_allclose([r["loss"] for r in again], [r["loss"] for r in metrics], rtol=1e-6)
    np.testing.assert_allclose([r["gradient_norm"] for r in again], [r["gradient_norm"] for r in metrics], rtol=1e-6)
    for name, tensor in weights.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-6, msg=name)
