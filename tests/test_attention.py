"""Packed sequences against each one alone."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from losslab.config.schema import DatasetConfig, ModelConfig, TrainConfig
from losslab.data import toy_task
from losslab.data.batches import collate
from losslab.data.examples import Examples, prepare
from losslab.data.packing import Packing
from losslab.data.tokenise import Tokeniser
from losslab.models import attention


def test_runs_join_neighbours_of_equal_length():
    packing = Packing.of([5, 3, 3, 2, 3])
    assert packing.runs() == [(1, 5), (2, 3), (1, 2), (1, 3)]
    assert packing.boundaries.tolist() == [0, 5, 8, 11, 13, 16]


def test_packed_row_equals_each_sequence_alone_under_the_librarys_attention(tmp_path):
    tokenizer = toy_task.tokenizer()
    pairs = [("1+1=?", "2"), ("12+30=?", "42"), ("21+30=?", "51"), ("7", "7 7 7 7 7 7")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"problem": problem, "solution": text}) + "\n" for problem, text in pairs))
    data = prepare(Tokeniser(ModelConfig(), DatasetConfig(path=str(file)), tokenizer), TrainConfig(), tmp_path)
    examples = Examples.load(data)
    config = toy_task.model_config()
    config.num_key_value_heads = config.num_attention_heads // 2  # grouped queries
    torch.manual_seed(0)
    library = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="sdpa").double()
    packed = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).double()
    packed.load_state_dict(library.state_dict())

    batch = collate(examples, np.arange(4))
    got = packed(input_ids=batch.tokens, position_ids=batch.positions, packing=batch.packing, use_cache=False).logits[0]
    rows = [torch.from_numpy(examples.tokens[examples.offsets[i] : examples.offsets[i + 1]]).long() for i in range(4)]
    expected = torch.cat([library(input_ids=row[None], use_cache=False).logits[0] for row in rows])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)

    got.square().sum().backward()
    expected.square().sum().backward()
    for (name, ours), theirs in zip(packed.named_parameters(), library.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)


LENGTHS = [5, 12, 12, 1, 9]
KINDS = {
    "plain": {},
    "window": {"sliding_window": 4},
    "softcap": {"softcap": 1.5},
    "sinks": {"s_aux": torch.linspace(-1, 2, 4).double()},
    "all": {"sliding_window": 4, "softcap": 1.5, "s_aux": torch.linspace(-1, 2, 4).double()},
}


def inputs() -> list[Tensor]:
    """Queries of 4 heads, keys and values of 2, the values narrower: a row of the sequences of LENGTHS."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 8), (2, 8), (2, 6)]
    total = sum(LENGTHS)
    return [
        torch.randn(1, heads, total, width, generator=generator, dtype=torch.float64).requires_grad_()
        for heads, width in shapes
    ]


def naive(query: Tensor, key: Tensor, value: Tensor, sliding_window=None, softcap=None, s_aux=None) -> Tensor:
    """(1, T, H, E), one score after another."""
    rows, start = [], 0
    for length in LENGTHS:
        for i in range(length):
            first = start if sliding_window is None else max(start, start + i - sliding_window + 1)
            seen = slice(first, start + i + 1)
            heads = []
            for head in range(4):
                scores = key[0, head // 2, seen] @ query[0, head, start + i] / 8**0.5
                scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
                weights = scores.exp() / (scores.exp().sum() + (0 if s_aux is None else s_aux[head].exp()))
                heads.append(weights @ value[0, head // 2, seen])
            rows.append(torch.stack(heads))
        start += length
    return torch.stack(rows)[None]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_scores_equals_the_naive_version(kind):
    tensors, packing = inputs(), Packing.of(LENGTHS)
    expected = naive(*tensors, **KINDS[kind])
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((expected * direction).sum(), tensors)
    got, _ = attention.packed_attention(nn.Identity(), *tensors, None, packing, scaling=8**-0.5, **KINDS[kind])
    # The softmax of soft caps and sinks is float32, as in transformers.
    precise = {"rtol": 0, "atol": 1e-12} if kind in ("plain", "window") else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(got, expected, **precise)
    for ours, theirs in zip(torch.autograd.grad((got * direction).sum(), tensors), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **precise)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_a_row_equal_its_runs(kind):
    """What a GPU computes for soft caps and sinks, without its compiler; a CPU has no gradients of it."""
    query, key, value = (tensor.detach().float() for tensor in inputs())
    tensors = query, key, torch.nn.functional.pad(value, (0, 2))
    chosen, packing = KINDS[kind], Packing.of(LENGTHS)
    sinks = chosen["s_aux"].float() if "s_aux" in chosen else None
    scores = attention.Scores(8**-0.5, chosen.get("sliding_window"), chosen.get("softcap"), sinks)
    expected, got = (way(*tensors, packing, scores) for way in (attention.by_runs, attention.by_blocks))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"position_bias": torch.zeros(1)}, "has position_bias, so packed"),
        ({"indices": torch.zeros(1), "block_indices": torch.zeros(1)}, "has indices, block_indices, so packed rows"),
        ({"is_causal": False}, "looks ahead"),
        ({"dropout": 0.1}, "has dropout"),
        ({"attention_mask": torch.zeros(1, 1, 39, 39)}, "has a mask of its own"),
        ({"packing": None}, "is not told where the sequences of a row lie"),
    ],
)
def test_what_packed_rows_do_not_compute_is_refused(keywords, message):
    chosen = {"attention_mask": None, "packing": Packing.of(LENGTHS)} | keywords
    with pytest.raises(ValueError, match=f"^the attention of Identity {message}"):
        attention.packed_attention(nn.Identity(), *inputs(), **chosen)


def test_keywords_that_say_nothing_about_scores_are_taken():
    neutral = {"position_ids": torch.zeros(1, 39), "use_cache": False, "indices": None, "output_router_logits": True}
    packing = Packing.of(LENGTHS)
    got, _ = attention.packed_attention(nn.Identity(), *inputs(), None, packing, **neutral)
    expected, _ = attention.packed_attention(nn.Identity(), *inputs(), None, packing, scaling=8**-0.5)
    assert torch.equal(got, expected)


def test_the_backward_of_runs_writes_a_gradient_once():
    """That of a slice would fill a whole row with zeros for each run."""

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.overloadpacket.__name__)
            return function(*args, **kwargs or {})

    names: list[str] = []
    packing = Packing.of([3, 5, 2, 2, 7])
    query, key, value = (torch.randn(1, heads, 19, 8, requires_grad=True) for heads in (4, 2, 2))
    out = attention.by_runs(query, key, value, packing, attention.Scores(1.0, None, None, None))
    with Calls():
        out.sum().backward()
    assert names.count("slice_backward") == 0 and names.count("select_backward") == 3
