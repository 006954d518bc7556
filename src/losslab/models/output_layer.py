"""How a model turns the product of hidden states and output weight into logits, determined from its own forward.

Families divide, multiply or cap the logits, and the names in a configuration do not say which (`logits_scaling` divides
in Granite and multiplies in HyperCLOVA X). So the decoder's hidden states and the output layer's weight are replaced by
small random ones, and the logits of the model's forward are compared with candidate forms.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from losslab.models.decoder import body, decoder
from losslab.models.fused_loss import Head

STATES, TOKENS = 16, 31  # of the probe: hidden states, and rows of its output weight
TOLERANCE = 1e-4  # of the largest logit


@dataclass(frozen=True)
class OutputForm:
    """logits = cap(scale * (hidden @ weight.T) + bias_scale * bias), cap(x) = softcap * tanh(x / softcap)."""

    scale: float = 1.0
    softcap: float | None = None
    bias_scale: float = 1.0

    @classmethod
    def of(cls, model: PreTrainedModel) -> "OutputForm":
        """The form of a model's output layer; the weights may be on the meta device.

        Raises ValueError if the output layer does not have this form.
        """
        layer = _layer(model)
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(STATES, layer.weight.shape[1], generator=generator)
        weight = torch.randn(TOKENS, layer.weight.shape[1], generator=generator) / layer.weight.shape[1] ** 0.5
        bias = torch.randn(TOKENS, generator=generator) if layer.bias is not None else None
        with torch.no_grad(), _probe(model, weight, bias) as logits:
            try:
                return _fit(logits, states, weight, bias, model.config.get_text_config(decoder=True).to_dict())
            except Exception as error:  # also of the model's own code, which may read weights on the meta device
                raise ValueError(
                    f"the output layer of {type(model).__name__} cannot be reproduced, since it does more than "
                    "multiply hidden states by a weight, scale and cap: choose another model"
                ) from error

    def head(self, model: PreTrainedModel) -> Head:
        """The output layer of a model of this form, unsharded."""
        layer = _layer(model)
        bias = (
            layer.bias
            if self.bias_scale == self.scale or layer.bias is None
            else layer.bias * (self.bias_scale / self.scale)
        )
        return Head(layer.weight, bias, self.softcap, self.scale)

    def logits(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Logits (N, V) from hidden states (N, D), weight (V, D) and bias (V,)."""
        x = self.scale * (states @ weight.T) + (0 if bias is None else self.bias_scale * bias)
        return x if self.softcap is None else self.softcap * torch.tanh(x / self.softcap)


def _layer(model: PreTrainedModel) -> nn.Linear:
    layer = model.get_output_embeddings()
    if not isinstance(getattr(layer, "weight", None), Tensor) or layer.weight.ndim != 2:
        raise ValueError(f"{type(model).__name__} has no output layer with a weight: choose a causal language model")
    if not hasattr(layer, "bias"):
        layer.bias = None  # a family's own linear class may lack the attribute
    return layer


def _fit(logits: Any, states: Tensor, weight: Tensor, bias: Tensor | None, config: dict[str, Any]) -> OutputForm:
    """The form that reproduces `logits`, a function from hidden states to logits."""
    small, large = 1e-3, 1e5
    products = states @ weight.T
    at_zero = logits(torch.zeros_like(states))
    slope = (logits(small * states) - at_zero) / small
    scale = float((slope * products).sum() / products.square().sum())
    numbers = [1.0, *(float(v) for v in config.values() if isinstance(v, int | float) and v)]
    # A number from the configuration is exact, a measured one is not.
    exact = [c for v in numbers for c in (v, 1 / v) if abs(c - scale) <= TOLERANCE * abs(scale)]
    scale = exact[0] if exact else scale
    extreme = logits(large * states)
    linear = (extreme - large * scale * products).abs().max() <= 1e-2 * extreme.abs().max()
    cap = None if linear else float(extreme.abs().max())
    forms = [OutputForm(scale, cap, bias_scale) for bias_scale in dict.fromkeys([scale, 1.0])]
    for form in forms:
        errors = [(logits(h) - form.logits(h, weight, bias)).abs().max() for h in (states, 10 * states)]
        if max(errors) <= TOLERANCE * max(1.0, float(form.logits(10 * states, weight, bias).abs().max())):
            return form
    raise ValueError("not a scaled and capped product of hidden states and weight")


@contextmanager
def _probe(model: PreTrainedModel, weight: Tensor, bias: Tensor | None) -> Iterator[Any]:
    """A function from hidden states (N, D) to the model's own logits (N, V) under another weight and bias."""
    layer, parts = _layer(model), (body(model), decoder(model))  # some families call one, some the other
    chosen = {id(layer.weight): weight} | ({} if bias is None else {id(layer.bias): bias})
    values = {
        name: chosen[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in chosen
    }
    ids = torch.zeros(1, STATES, dtype=torch.int64)

    def logits(states: Tensor) -> Tensor:
        for part in parts:
            part.forward = lambda *_, **__: _Output(states[None])  # type: ignore[method-assign]
        result = functional_call(model, values, (), {"input_ids": ids, "use_cache": False})
        return result.logits[0].float()

    before = [part.__dict__.get("forward") for part in parts]
    try:
        yield logits
    finally:
        for part, forward in zip(parts, before, strict=True):
            part.__dict__.pop("forward", None)
            if forward is not None:  # of a library that wraps modules
                part.forward = forward  # type: ignore[method-assign]


class _Output(dict[str, Any]):
    """The output of a decoder: its last hidden states, and None for every other field."""

    def __init__(self, states: Tensor) -> None:
        super().__init__(last_hidden_state=states)

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        return (self["last_hidden_state"],)[key] if isinstance(key, int | slice) else super().__getitem__(key)
