"""Tiny random models of the decoders that transformers has, with what makes each of them special switched on.

`judge` says whether losslab trains such a model as it is defined: the cross-entropy and the gradient of a step beside
each sequence alone, unpadded, eager attention, full logits, float32.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from losslab.config.schema import AdapterConfig, Precision
from losslab.data import toy_task
from losslab.data.batches import collate
from losslab.data.examples import Examples
from losslab.models import attention
from losslab.models.loading import quiet
from losslab.models.policy import Policy
from losslab.objectives.sft import SFT
from losslab.training.packing_check import check

VOCABULARY = 97
WINDOW = 8  # tokens, less than the sequences have
LENGTHS, PROMPTS = [9, 14, 30, 14, 22], [3, 5, 9, 2, 8]  # of the sequences that the models are tried on
PACKED, SEPARATE, REFUSED, SILENT = "packed", "one length at a time", "refused", "wrong"
# Encoders, models with an encoder, and those whose configuration knows no small size.
LEFT_OUT = set(
    "bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small blt camembert cohere_compass_text "
    "cpmant ctrl data2vec-text dbrx electra emu3 ernie fuyu gemma3n gemma4_assistant gemma4_unified_assistant git "
    "got_ocr2 marian mbart megatron-bert mllama moshi musicgen musicgen_melody mvp pegasus phi4_multimodal plbart "
    "prophetnet qwen4_exp qwen4_exp_text reformer rembert roberta roberta-prelayernorm roc_bert roformer trocr whisper "
    "xlm xlm-roberta xlm-roberta-xl xlnet xmod".split()
)
# By the name that a configuration has for it; a family takes those that it knows.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_size": 32, "n_embd": 32, "d_model": 32,
    "intermediate_size": 48, "ffn_hidden_size": 48, "ffn_dim": 48, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "shared_intermediate_size": 16, "expert_ffn_hidden_size": 16,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128,
    "n_routed_experts": 4, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_head_dim": 8, "linear_num_heads": 4,
    "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 8, "mamba_dt_rank": 4,
    "state_size": 8, "ssm_state_size": 8, "chunk_size": 8, "time_step_rank": 4,
}  # fmt: skip
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
LATENT = {"num_key_value_heads": 4}  # multi-head latent attention has keys for every head
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
MAMBA = {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
ROPES = {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
ROPES["sliding_attention"] = ROPES["full_attention"]
# What a family needs to be small, or has that others have not.
SPECIAL: dict[str, dict[str, Any]] = {
    "axk1": LATENT,
    "axk2": LATENT,
    "afmoe": WINDOWED | {"global_attn_every_n_layers": 2},
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "cohere2": WINDOWED,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "deepseek_v4": {"o_groups": 2, "o_lora_rank": 16, "index_topk": 4, "index_head_dim": 8, "index_n_heads": 2,
                    "sliding_window": WINDOW, "num_key_value_heads": 1, "num_nextn_predict_layers": 0},
    "deepseek_v32": LATENT | {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 2},
    "dots1": {"n_shared_experts": 1},
    "exaone4": WINDOWED,
    "falcon_h1": {"mamba_d_ssm": 64, "lm_head_multiplier": 0.5, "key_multiplier": 0.7},
    "gemma2": WINDOWED | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "gemma3_text": WINDOWED | {"query_pre_attn_scalar": 8},
    "gemma3": {"vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
               "num_attention_heads": 2, "image_size": 28, "patch_size": 14}, "mm_tokens_per_image": 4},
    "gemma3n_text": WINDOWED | {"num_hidden_layers": 2, "intermediate_size": [48, 48], "num_kv_shared_layers": 0,
                     "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97, "laurel_rank": 4,
                     "activation_sparsity_pattern": [0.5, 0.0], "final_logit_softcapping": 3.0},
    "gemma4_text": WINDOWED
    | {"vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8, "global_head_dim": 8},
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT | {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 2},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_oss": WINDOWED,
    "gptj": {"rotary_dim": 4},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.5, "residual_multiplier": 0.5},
    "granitemoehybrid": MIXED,
    "hyperclovax": {"logits_scaling": 0.25},
    "inkling_text": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "d_rel": 4,
                     "layer_types": ["hybrid_sliding", "hybrid"], "sliding_window_size": WINDOW},
    "jamba": MAMBA,
    "kimi_linear": MIXED | {"num_experts_per_token": 2, "q_lora_rank": None, "num_key_value_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 16}},
    "llama4_text": {"attention_chunk_size": WINDOW, "intermediate_size_mlp": 48, "num_experts_per_tok": 1,
                    "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]},
    "longcat_flash": LATENT | {"zero_expert_num": 2, "moe_topk": 2},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "minicpm3": LATENT | {"dim_model_base": 8},
    "minimax": MIXED | {"block_size": 8},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"sliding_window": WINDOW},
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1,
                   "moe_shared_expert_intermediate_size": 16},
    "olmo3": WINDOWED,
    "olmo_hybrid": MIXED,
    "openai-gpt": {"afn": "gelu"},
    "opt": {"word_embed_proj_dim": 32},
    "phi3": {"sliding_window": WINDOW},
    "qwen2": WINDOWED | {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3_5_moe_text": MIXED,
    "qwen3_5_text": MIXED,
    "qwen3_next": MIXED,
    "qwen4_exp_text": MIXED,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": WINDOW, "lru_width": 32,
                        "logits_soft_cap": 3.0, "num_key_value_heads": 1},
    "starcoder2": {"sliding_window": WINDOW},
    "vaultgemma": WINDOWED | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "xglm": {"num_layers": 2},
    "youtu": LATENT,
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
              "attention_head_dim": 16, "attention_hidden_size": 64, "num_key_value_heads": 4, "n_mamba_heads": 2},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
               "n_mamba_heads": 4, "mamba_headdim": 16, "num_key_value_heads": 4, "num_mem_blocks": 1,
               "attention_hidden_size": 64, "attention_head_dim": 16, "adapter_rank": 8, "hybrid_layer_ids": [1, 2]},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16, "layer_types": ["hybrid", "hybrid"]},
}  # fmt: skip


def configuration(family: str) -> PretrainedConfig:
    """A configuration of two layers of a family, transformers' `model_type`."""
    default = AutoConfig.for_model(family)
    values = _small(default) | SPECIAL.get(family, {})
    if getattr(default, "text_config", None) is not None:
        values |= {"text_config": _small(default.text_config) | SPECIAL.get(f"{family}_text", {})}
    return AutoConfig.for_model(family, **values)


def _small(config: PretrainedConfig) -> dict[str, Any]:
    names, aliases = config.to_dict(), type(config).attribute_map
    return {name: value for name, value in SMALL.items() if name in names and name not in aliases}


def make(family: str) -> PreTrainedModel:
    """A model in float32, whose weights are larger than initial ones, so that what a layer does shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configuration(family), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    return model


@dataclass(frozen=True)
class Judgement:
    """What comes of a family, and the sentence that a user reads about it, if any."""

    result: str
    sentence: str
    cross_entropy: float = 0.0  # absolute difference, nats a token
    gradient: float = 0.0  # relative difference of the norms


def judge(family: str) -> Judgement:
    """Whether a step of SFT on a tiny model of a family is exact. Needs a process group."""
    model, data = make(family), examples()
    try:
        with quiet():
            model.set_attn_implementation(attention.NAME)
        policy = Policy(model, Precision.fp32, torch.float32, AdapterConfig())
        result = check(policy, data, torch.device("cpu"))
    except ValueError as error:
        return Judgement(REFUSED, str(error))
    batch = collate(data, np.arange(len(LENGTHS)))
    loss = policy(batch, SFT(), {})["loss"] / len(batch.targets)
    norm = _gradient_norm(model, loss)
    expected, expected_norm = reference(model, data)
    difference, ratio = abs(float(loss) - expected), abs(norm / expected_norm - 1)
    exact = difference < 1e-4 and ratio < 1e-3
    name = (PACKED if result.packed else SEPARATE) if exact else SILENT
    return Judgement(name, result.sentence() or "", difference, ratio)


def reference(model: PreTrainedModel, data: Examples) -> tuple[float, float]:
    """Cross-entropy of the answers and norm of its gradient, from each sequence alone."""
    with quiet():
        model.set_attn_implementation("eager")
    total = torch.zeros(())
    for i, prompt in enumerate(data.prompts):
        ids = torch.from_numpy(data.tokens[data.offsets[i] : data.offsets[i + 1]]).long()
        logits = model(ids[None], use_cache=False).logits[0, prompt - 1 : -1]
        total = total + cross_entropy(logits, ids[prompt:], reduction="sum")
    loss = total / int(data.answers.sum())
    return float(loss), _gradient_norm(model, loss)


def _gradient_norm(model: PreTrainedModel, loss: torch.Tensor) -> float:
    model.zero_grad()
    loss.backward()
    return float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def examples() -> Examples:
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, sum(LENGTHS)).astype(np.int32)
    return Examples(tokens, np.r_[0, np.cumsum(LENGTHS)], np.array(PROMPTS), "", {})


def random_toy_model(folder: Path, seed: int = 0) -> Path:
    """A checkpoint of the toy task's model with random weights, whose texts differ from prompt to prompt."""
    torch.manual_seed(seed)
    config = toy_task.model_config()
    config.initializer_range = 0.3
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    toy_task.tokenizer().save_pretrained(folder)
    return folder
