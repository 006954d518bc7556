"""Adapters beside linear layers and fused experts: which, what they compute, and what is exported of them."""

from dataclasses import replace

import pytest
import tiny_models
import torch

from losslab.config.schema import AdapterConfig
from losslab.models import lora

ALL = AdapterConfig(rank=4, alpha=8, target_modules=[lora.ALL])


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("qwen2", ALL),
        ("gpt2", ALL),  # whose weights lie the other way round
        ("mixtral", ALL),  # experts in one parameter, (experts, out, in)
        ("gpt_oss", ALL),  # (experts, in, out)
        ("mixtral", replace(ALL, target_modules=["gate_up_proj", "q_proj"])),
        ("mixtral", replace(ALL, modules_to_save=["embed_tokens", "lm_head"])),
    ],
)
def test_the_plain_model_with_merged_weights_computes_what_the_adapted_one_does(family, config):
    model, plain = tiny_models.make(family), tiny_models.make(family)
    ids = torch.arange(3, 40)[None]
    before = plain(ids, use_cache=False).logits
    lora.insert(model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if ".lora_" in name:
                parameter.normal_(0, 0.2, generator=generator)
    adapted = model(ids, use_cache=False).logits
    with lora.switched_off(model):
        torch.testing.assert_close(model(ids, use_cache=False).logits, before, rtol=0, atol=1e-6)
    plain.load_state_dict(lora.merged(model.state_dict(), model, config))
    torch.testing.assert_close(plain(ids, use_cache=False).logits, adapted, rtol=1e-4, atol=1e-4)
    assert (adapted - before).abs().max() > 0.1


@pytest.mark.parametrize(
    ("family", "adapted", "experts"),
    [
        ("qwen2", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, set()),
        ("mixtral", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}, set()),
    ],
)
def test_all_linear_layers_are_those_of_the_decoder(family, adapted, experts):
    model = tiny_models.make(family)
    targets = lora.Targets.of(model, ALL)
    assert {name.rpartition(".")[2] for name in targets.layers} == adapted
    assert {name.rpartition(".")[2] for name in targets.parameters} == experts
    lora.insert(model, replace(ALL, modules_to_save=["lm_head"]))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # In GPT-2 it is the embedding.
    output = "transformer.wte.weight" if family == "gpt2" else "lm_head.weight"
    assert {name for name in trained if ".lora_" not in name} == {output}


def test_a_multimodal_models_towers_are_left_alone():
    targets = lora.Targets.of(tiny_models.make("gemma3"), replace(ALL, target_modules=["q_proj"]))
    assert targets.layers == [f"model.language_model.layers.{i}.self_attn.q_proj" for i in range(2)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(ALL, target_modules=["q_prj"]), "^adapter.target_modules: q_prj is not .*; did you mean q_proj"),
        (replace(ALL, target_modules=["experts"]), "experts is not a linear layer of the decoder; "),
        (replace(ALL, target_modules=["xyz"]), "there are all-linear, down_proj, gate_up_proj, k_proj, o_proj, q_p"),
        (replace(ALL, modules_to_save=["embed_token"]), "the model has no embed_token; did you mean embed_tokens"),
    ],
)
def test_a_name_that_the_model_does_not_have_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        lora.Targets.of(tiny_models.make("mixtral"), config)
