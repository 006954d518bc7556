"""The sizes and the parameter count of a model, from its configuration alone.

Common families are handled here without torch and transformers, whose imports take longer than the rest of a plan. Any
other model is built by transformers on the meta device.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losslab.config.messages import under_key
from losslab.config.schema import EMBEDDED_MODELS, Config, ModelConfig
from losslab.models import merged_adapters

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # dense decoders with gated MLPs and two norms in each layer


@dataclass(frozen=True)
class Architecture:
    """A dense decoder of one of `FAMILIES`; fields are named as in transformers' configuration."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool
    head_dim: int
    attention_bias: bool  # of all four projections; Qwen2 has biases on queries, keys and values whatever this says
    mlp_bias: bool

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Architecture | None":
        """From the content of a config.json; None for another family, or if a size is missing."""
        if facts.get("model_type") not in FAMILIES or not all(isinstance(facts.get(size), int) for size in SIZES):
            return None
        if not isinstance(facts.get("tie_word_embeddings"), bool) or facts["num_attention_heads"] < 1:
            return None
        head = facts.get("head_dim") or (
            128 if facts["model_type"] == "qwen3" else facts["hidden_size"] // facts["num_attention_heads"]
        )
        biases = [bool(facts.get(key, False)) for key in ("attention_bias", "mlp_bias")]
        sizes = [facts[size] for size in SIZES]
        values = (facts["model_type"], *sizes, facts["tie_word_embeddings"], head, *biases)
        return cls(*values)

    def get_text_config(self, **_: Any) -> "Architecture":
        """The language model's part of the configuration, as transformers' method of this name returns it."""
        return self

    @property
    def parameters(self) -> int:
        width, inner, head = self.hidden_size, self.intermediate_size, self.head_dim
        queries, keys = self.num_attention_heads * head, self.num_key_value_heads * head
        attention = width * (2 * queries + 2 * keys)
        if self.model_type == "qwen2":
            attention += queries + 2 * keys
        elif self.model_type in ("llama", "qwen3") and self.attention_bias:
            attention += queries + 2 * keys + width
        if self.model_type == "qwen3":
            attention += 2 * head  # norms of queries and keys
        mlp = 3 * width * inner
        if self.model_type == "llama" and self.mlp_bias:
            mlp += 2 * inner + width
        embeddings = self.vocab_size * width * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * (attention + mlp + 2 * width) + width


def describe(config: Config) -> "Architecture | PretrainedConfig":
    """The architecture of a cell's model. Raises ValueError if its configuration cannot be read."""
    facts = dict(config.model.architecture)
    if not facts:
        if (base := merged_adapters.base(config.model.path)) is None:
            return _local(config.model) or _loaded(config.model)
        model = replace(config.model, path=base[0], revision=base[1])
        with under_key(merged_adapters.BASE):
            return _local(model) or _loaded(model)
    if architecture := Architecture.of(facts):
        return architecture
    from transformers import AutoConfig

    return AutoConfig.for_model(**facts)


def _local(model: ModelConfig) -> Architecture | None:
    """The architecture of a model in a local folder; None if it is not one, or not of a family in FAMILIES."""
    file = Path(model.path) / "config.json"
    if model.path in EMBEDDED_MODELS or not file.is_file():
        return None
    from losslab.data.hub_datasets import check_model

    check_model(model)
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None  # transformers then raises the error
    return Architecture.of(facts) if isinstance(facts, dict) else None


def _loaded(model: ModelConfig) -> "PretrainedConfig":
    from losslab.models.loading import load_config

    return load_config(model)


def describe_reference(config: Config) -> "Architecture | PretrainedConfig | None":
    """The architecture of `reference.path`; None if the reference is the base model. Errors are those of `describe`."""
    if config.reference.path is None:
        return None
    with under_key("reference.path"):
        return describe(replace(config, model=config.reference_model))


def reference_parameters(config: Config) -> int | None:
    """The parameter count of `reference.path`; None if the reference is the base model."""
    if (architecture := describe_reference(config)) is None:
        return None
    with under_key("reference.path"):
        return count_parameters(architecture, config.reference_model.trust_remote_code)


def count_parameters(architecture: Any, trust_remote_code: bool = False) -> int:
    """The number of parameters of a model, from its architecture and, if it is trusted, the code that comes with it."""
    if isinstance(architecture, Architecture):
        return architecture.parameters
    import torch

    from losslab.models.loading import auto_class

    with torch.device("meta"):
        model = auto_class(architecture).from_config(architecture, trust_remote_code=trust_remote_code)
    return sum(p.numel() for p in model.parameters())
