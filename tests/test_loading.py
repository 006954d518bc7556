"""What is loaded is whole: weights, tokenizers and adapters that are not a model's are refused in one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_training import make
from transformers import AutoModelForCausalLM

from losslab.cells.training import train_model
from losslab.config.schema import ModelConfig
from losslab.data import hub_datasets
from losslab.data.hub_datasets import check_model
from losslab.models import loading, merged_adapters, weight_files
from losslab.models.loading import (
    check_checkpoint,
    check_tokens,
    check_unquantised,
    load_model,
    load_tokenizer,
    structure,
)

LOST = "model.layers.1.mlp.down_proj.weight"


def edited(checkpoint: Path, folder: Path, edit) -> Path:
    """A copy of a checkpoint whose weights `edit` has changed in place."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


EDITS = {
    f"lack weights of the model: {LOST}; take a whole": lambda w: w.pop(LOST),
    f"lack weights of the model: {LOST} and 1 more": lambda w: (w.pop(LOST), w.pop(LOST.replace("1.mlp", "2.mlp"))),
    "hold weights that the model has no place for: model.extra.weight": lambda w: w.update(
        {"model.extra.weight": torch.ones(3)}
    ),
    "hold weights of other shapes than the model's: model.norm.weight": lambda w: w.update(
        {"model.norm.weight": torch.ones(3)}
    ),
}


@pytest.mark.parametrize("message", EDITS)
def test_weights_that_are_not_the_models_are_refused(checkpoint, tmp_path, message):
    model = ModelConfig(path=str(edited(checkpoint, tmp_path / "edited", EDITS[message])))
    for read in (load_model, check_checkpoint):
        with pytest.raises(ValueError, match=message) as caught:
            read(model)
        assert "\n" not in str(caught.value)


def test_a_tied_weight_may_be_there_twice(checkpoint, tmp_path):
    def twice(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    model = ModelConfig(path=str(edited(checkpoint, tmp_path / "twice", twice)))
    check_checkpoint(model)
    expected = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load_model(model).state_dict().items())


@pytest.mark.parametrize("workers", [1, 2])
def test_quantised_weights_are_scored_and_not_trained(checkpoint, rows, tmp_path, workers):
    """FP8 codes have the shapes of the weights, so that they would be read as weights; their scales lie beside them."""
    name = "model.layers.0.mlp.up_proj.weight"

    def quantise(weights: dict[str, torch.Tensor]) -> None:
        weights[name] = (weights[name] / 0.001).to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = torch.full((1, 1), 0.001)

    coded = edited(checkpoint, tmp_path / "coded", quantise)
    about = json.loads((coded / "config.json").read_text())
    quantisation = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    (coded / "config.json").write_text(json.dumps(about | {"quantization_config": quantisation}))
    message = "holds quantised weights \\(fp8\\), which can be scored and not trained: name a checkpoint in bfloat16"
    with pytest.raises(ValueError, match=message):
        train_model(make(coded, rows, tmp_path, "sft", workers=workers), tmp_path / "cell")
    assert not (tmp_path / "cell/data.json").exists()  # before anything is prepared
    for read in (structure, load_model):
        with pytest.raises(ValueError, match=message):
            read(ModelConfig(path=str(coded)))
    (coded / "config.json").write_text(json.dumps(about | {"quantization_config": {"quant_method": "mxfp4"}}))
    check_unquantised(ModelConfig(path=str(coded)))  # which transformers turns into bfloat16


def test_a_model_that_is_loaded_without_a_weight_is_not_trained(checkpoint, one_rank, monkeypatch):
    """As one whose library gives the weights of its layers other names, such as those of an adapter's base."""
    model = ModelConfig(path=str(checkpoint))
    policy = load_model(model)
    whole = load_model(model)
    whole.model.layers[1].mlp.down_proj = torch.nn.Sequential(whole.model.layers[1].mlp.down_proj)
    monkeypatch.setattr(loading, "weight_files", lambda model: [])
    monkeypatch.setattr(loading, "load_model", lambda model: whole)
    names = {name: name for name in policy.state_dict() if name != "lm_head.weight"}
    with pytest.raises(ValueError, match=f"is loaded without the weight {LOST}: name a whole checkpoint"):
        loading.fill(policy, names, model)


def half_of(weights: dict[str, torch.Tensor]) -> None:
    for value in weights.values():
        value.div_(2)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("other", ["aaa.safetensors", "model.fp16.safetensors", "zzz.safetensors"])
def test_other_files_beside_the_weights_are_not_read(checkpoint, tmp_path, one_rank, sharded, other):
    """Such as shards left over, a copy in another precision or the original format, with the same names."""
    folder = tmp_path / "model"
    size = "100KB" if sharded else "1GB"
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(folder, max_shard_size=size)
    assert (folder / "model.safetensors").is_file() != sharded
    shutil.copy(edited(checkpoint, tmp_path / "edited", half_of) / "model.safetensors", folder / other)
    model = ModelConfig(path=str(folder))
    expected = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    empty = structure(model).to_empty(device="cpu")
    loading.fill(empty, {name: name for name in expected if name != "lm_head.weight"}, model)
    assert all(torch.equal(value, expected[name]) for name, value in load_model(model).state_dict().items())
    found = empty.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected if name != "lm_head.weight")


def test_only_the_weights_are_downloaded_from_the_hub(tmp_path, one_rank, monkeypatch):
    asked = []

    def download(path: str, allow_patterns: list[str], local_files_only: bool = False, **_: object) -> str:
        asked.append((allow_patterns, local_files_only))
        return str(tmp_path)

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(weight_files, "snapshot_download", download)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    (tmp_path / "1.safetensors").touch()
    (tmp_path / "2.safetensors").touch()
    model = ModelConfig(path="org/model", revision="abc")
    assert weight_files.weight_files(model) == [tmp_path / "1.safetensors"]
    first, second = ["model.safetensors", "*.json"], ["1.safetensors"]
    assert asked == [(first, False), (first, True), (second, False), (second, True)]
    (tmp_path / "1.safetensors").unlink()
    assert weight_files.weight_files(model) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_training_of_half_a_checkpoint_fails_before_its_first_step(checkpoint, rows, tmp_path, workers):
    half = edited(checkpoint, tmp_path / "half", lambda weights: weights.pop(LOST))
    with pytest.raises(Exception, match=f"lack weights of the model: {LOST}"):
        train_model(make(half, rows, tmp_path, "sft", workers=workers), tmp_path / "cell")
    assert not (tmp_path / "cell/metrics.jsonl").exists()


def test_the_tokenizer_of_another_model_is_refused(checkpoint, rows, tmp_path):
    small = edited(checkpoint, tmp_path / "small", lambda w: w.update(
        {"model.embed_tokens.weight": w["model.embed_tokens.weight"][:20].clone()}
    ))  # fmt: skip
    about = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(about | {"vocab_size": 20}))
    for read in (load_tokenizer, check_checkpoint):
        with pytest.raises(ValueError, match="and the model has 20 embeddings: take the tokenizer that belongs to"):
            read(ModelConfig(path=str(small)))


def test_an_added_token_that_the_data_do_not_use_is_no_mistake(checkpoint):
    model = ModelConfig(path=str(checkpoint))
    tokenizer = load_tokenizer(model)
    rows = structure(model).get_input_embeddings().weight.shape[0]
    tokenizer.add_tokens([f"<{i}>" for i in range(rows - len(tokenizer) + 1)])
    check_tokens(rows - 1, tokenizer, model)
    with pytest.raises(ValueError, match=f"with the id {rows}, and the model has {rows} embeddings"):
        check_tokens(rows, tokenizer, model)


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), lora).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: name.replace("q_proj", "query"), "it lacks weights that its adapter_config.json declares"),
        (lambda name: name.replace("base_model.model.", ""), "it lacks weights .* and 11 more"),
    ],
)
def test_an_adapter_whose_weights_match_nothing_is_refused(adapter, tmp_path, rename, message):
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({rename(name): value for name, value in weights.items()}, other / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=message):
        merged_adapters.merged(str(other), tmp_path)
    assert not list(tmp_path.glob("merged/*/*.safetensors"))


def test_an_adapter_with_more_weights_than_its_configuration_is_refused(adapter, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    about = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(about | {"target_modules": ["q_proj"]}))
    with pytest.raises(ValueError, match="it has weights that do not fit the base .*v_proj"):
        merged_adapters.merged(str(other), tmp_path)


def test_an_adapter_of_a_model_with_added_tokens_is_merged(checkpoint, tmp_path):
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(checkpoint)
    rows = base.get_input_embeddings().weight.shape[0] + 3
    base.resize_token_embeddings(rows)
    lora = LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    adapted = get_peft_model(base, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(rows - 9, rows)[None]
    expected = adapted(ids).logits
    folder = merged_adapters.merged(str(tmp_path / "adapter"), tmp_path)
    got = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert np.allclose(got.detach(), expected.detach(), atol=1e-4) and got.shape[-1] == rows


@pytest.mark.parametrize("path", ["Ø\x10/", "a/b/c", "-x"])
def test_a_name_that_the_hub_cannot_have_is_refused_by_name(path):
    with pytest.raises(ValueError, match="model.path=.* is neither a local folder nor a hub id: Repo id"):
        check_model(ModelConfig(path=path))


def test_an_adapter_on_the_hub_is_refused(monkeypatch):
    """transformers would load its base and give the adapted weights other names."""
    files = [SimpleNamespace(rfilename=name) for name in ("config.json", "adapter_config.json", "a.safetensors")]
    monkeypatch.setattr(hub_datasets, "silence", lambda: None)
    monkeypatch.setattr(
        hub_datasets.hub.HfApi, "model_info", lambda self, path, **options: SimpleNamespace(siblings=files)
    )
    message = "model.path=org/adapter is an adapter: download it, and name its folder"
    with pytest.raises(ValueError, match=message):
        check_model(ModelConfig(path="org/adapter"))
    monkeypatch.setattr(hub_datasets.hub, "try_to_load_from_cache", lambda path, name, revision: f"/cache/{name}")
    with pytest.raises(ValueError, match=message):  # though it was downloaded
        check_model(ModelConfig(path="org/adapter"))


def test_the_hub_is_asked_in_a_process_that_has_loaded_nothing_else():
    """A plan loads no framework, and the hub's library imports its parts at their first use."""
    code = (
        "from losslab.config.schema import ModelConfig\n"
        "from losslab.data.hub_datasets import check_model\n"
        "check_model(ModelConfig(path='nobody/nothing'))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "ValueError: model.path=nobody/nothing is not a local folder and was not downloaded before" in done.stderr
