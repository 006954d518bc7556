"""Packed sequences against each one alone."""

import json
from copy import deepcopy

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from losslab.config.schema import DatasetConfig, ModelConfig, TrainConfig
from losslab.data import toy_task
from losslab.data.batches import collate
from losslab.data.examples import Examples, prepare
from losslab.data.packing import Packing
from losslab.models import attention


def test_runs_join_neighbours_of_equal_length():
    packing = Packing.of([5, 3, 3, 2, 3])
    assert packing.runs() == [(0, 1, 5), (5, 2, 3), (11, 1, 2), (13, 1, 3)]
    assert packing.boundaries.tolist() == [0, 5, 8, 11, 13, 16]


def test_packed_row_equals_each_sequence_alone_under_the_librarys_attention(tmp_path):
    tokenizer = toy_task.tokenizer()
    pairs = [("1+1=?", "2"), ("12+30=?", "42"), ("21+30=?", "51"), ("7", "7 7 7 7 7 7")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"problem": problem, "solution": text}) + "\n" for problem, text in pairs))
    data = prepare(DatasetConfig(path=str(file)), TrainConfig(), ModelConfig(), tokenizer, tmp_path)
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
