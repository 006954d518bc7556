"""Finds the parts of a causal language model of any family: its decoder, and the decoder's layers."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel


def decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part from token ids to the last hidden states; in a multimodal model, that of the language model.

    Raises ValueError for a model without such a part, such as an encoder-decoder.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} is an encoder-decoder: choose a decoder-only language model")
    for candidate in (model.get_decoder(), body(model).get_decoder(), body(model)):
        if isinstance(candidate, PreTrainedModel) and candidate is not model:
            return candidate
    raise ValueError(f"{type(model).__name__} has no decoder separate from its output layer: choose another model")


def body(model: PreTrainedModel) -> PreTrainedModel:
    """A model without its output layer; in a multimodal model, including its encoders."""
    if model.base_model is not model:
        return cast(PreTrainedModel, model.base_model)
    parts = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if len(parts) != 1:
        raise ValueError(f"{type(model).__name__} has no body separate from its output layer: choose another model")
    return parts[0]


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers, first to last; empty if some share weights and cannot be separated.

    Each layer is sharded, recomputed and compiled as one unit.
    """
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder(model).children():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            inside = {id(parameter) for parameter in module.parameters()}
            shared = any(id(model.get_parameter(name)) in inside for name in model.all_tied_weights_keys)
            return nn.ModuleList() if shared else module
    return nn.ModuleList()
