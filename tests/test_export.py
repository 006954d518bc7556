"""A trained model on disk ends its answers where training ended them, for whoever loads it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import families
import pytest
import tiny_models
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from test_conversations import FIRST, ONE, SECOND, TWO, examples
from test_training import make
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from losslab.config.choices import AnswerEnd, Overlong, Recompute, Turns
from losslab.config.schema import AdapterConfig, TrainConfig
from losslab.data import toy_task
from losslab.distributed import process_group
from losslab.models import merged_adapters
from losslab.models.export import export
from losslab.models.policy import build

TEXTS = [{"question": "2+2?", "answer": "4"}]
TURNS = [{"messages": [FIRST, ONE, SECOND, TWO]}]


@pytest.mark.parametrize(
    ("rows", "keys", "ends"),
    [
        (TEXTS, {}, ["<|endoftext|>"]),
        (TEXTS, {"answer_end": AnswerEnd.turn}, ["<|im_end|>"]),
        (TURNS, {}, ["<|im_end|>"]),
        (TURNS, {"turns": Turns.last}, ["<|im_end|>"]),
    ],
)
def test_the_tokens_in_which_trained_parts_end(tmp_path, rows, keys, ends):
    tokenizer = families.chatml(eos="<|endoftext|>")
    assert examples(rows, tokenizer, tmp_path, **keys).ends == tokenizer.convert_tokens_to_ids(ends)


def test_a_cut_answer_has_no_end(tmp_path):
    tokenizer, long = families.chatml(eos="<|endoftext|>"), [{"question": "2+2?", "answer": "4" * 50}]
    cut = TrainConfig(max_length=40, overlong=Overlong.truncate)
    assert examples(long, tokenizer, tmp_path, cut).ends == []


def exported(checkpoint: Path, config, folder: Path, ends: list[int]) -> GenerationConfig:
    config = replace(config, model=replace(config.model, path=str(checkpoint)))
    export(build(config, torch.device("cpu"), reference=False), toy_task.tokenizer(), folder, ends)
    return GenerationConfig.from_pretrained(folder)


def test_ranks_wait_for_the_export_longer_than_for_a_step(checkpoint, rows, tmp_path, one_rank, monkeypatch):
    waits: list[object] = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda group=None: waits.append(group))
    exported(checkpoint, make(checkpoint, rows, tmp_path, "sft"), tmp_path / "model", [3])
    (group,) = set(waits)
    assert group is not None and group is process_group._patient_group()


def test_they_are_stops_of_the_exported_model(checkpoint, rows, tmp_path, one_rank):
    config = make(checkpoint, rows, tmp_path, "sft")
    eos, seven = toy_task.tokenizer().convert_tokens_to_ids(["<|end|>", "7"])
    assert exported(checkpoint, config, tmp_path / "same", [eos]).eos_token_id == eos
    assert exported(checkpoint, config, tmp_path / "more", [seven, eos]).eos_token_id == [eos, seven]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "more")
    prompt = AutoTokenizer.from_pretrained(tmp_path / "more")("1+1", return_tensors="pt")["input_ids"]
    with torch.no_grad():  # it says nothing but 7
        model.lm_head.weight[seven] = 1e3 * model.model(prompt).last_hidden_state[0, -1]
    assert model.generate(prompt, max_new_tokens=5)[0].tolist() == [*prompt[0].tolist(), seven]


def test_a_generation_config_that_transformers_would_not_save_is_kept(checkpoint, rows, tmp_path, one_rank):
    shutil.copytree(checkpoint, tmp_path / "model")
    published = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 1}  # as of some models on the hub: no do_sample
    (tmp_path / "model/generation_config.json").write_text(json.dumps(published))
    kept = exported(tmp_path / "model", make(checkpoint, rows, tmp_path, "sft"), tmp_path / "out", [1, 5])
    assert (kept.temperature, kept.top_p, kept.do_sample, kept.eos_token_id) == (0.6, 0.9, None, [1, 5])


BIASES = [4.5, 4.501953125, 4.50390625, 4.505859375]  # all 4.5 in bfloat16


def router(folder: Path) -> tuple[PreTrainedModel, str]:
    """A model in bfloat16 whose router has biases in float32, as transformers publishes it, and their name."""
    model = AutoModelForCausalLM.from_config(tiny_models.configuration("deepseek_v3"), dtype=torch.bfloat16)
    model.model.layers[1].mlp.gate.e_score_correction_bias = torch.tensor(BIASES)
    model.save_pretrained(folder)
    toy_task.tokenizer().save_pretrained(folder)
    return model, "model.layers.1.mlp.gate.e_score_correction_bias"


def test_the_biases_of_a_router_stay_in_float32(checkpoint, rows, tmp_path, one_rank):
    _, name = router(tmp_path / "published")
    config, adapter = make(checkpoint, rows, tmp_path, "sft"), AdapterConfig(2, 4, target_modules=["o_proj"])
    recomputed = replace(config, machine=replace(config.machine, recompute=Recompute.full))
    before = load_file(tmp_path / "published/model.safetensors")
    for number, each in enumerate((config, recomputed, replace(config, adapter=adapter))):
        exported(tmp_path / "published", each, tmp_path / f"{number}", [2])
        weights = load_file(tmp_path / f"{number}/model.safetensors")
        assert weights[name].tolist() == BIASES
        assert {key: value.dtype for key, value in weights.items()} == {key: v.dtype for key, v in before.items()}
        assert all(torch.equal(value, before[key]) for key, value in weights.items())


def test_the_biases_of_a_router_stay_in_float32_in_a_merged_base(tmp_path):
    model, name = router(tmp_path / "published")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    merged_adapters._merge(str(tmp_path / "adapter"), str(tmp_path / "published"), None, tmp_path / "merged", False)
    weights, before = (load_file(tmp_path / folder / "model.safetensors") for folder in ("merged", "published"))
    assert weights[name].tolist() == BIASES
    assert {key: value.dtype for key, value in weights.items()} == {key: v.dtype for key, v in before.items()}
