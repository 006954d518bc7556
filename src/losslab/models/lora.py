"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, injected into the model.

The adapted weights are frozen and held in the dtype of the computation; only the adapters and the modules in
`modules_to_save` are trained. With the adapters disabled the model is the one before training, and so serves as its own
reference, unless other modules are trained too.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from losslab.config.messages import among
from losslab.config.schema import AdapterConfig
from losslab.models.decoder import decoder

NAME = "default"  # peft's name of the only adapter
BASE = ".base_layer"  # inserted by peft into the name of an adapted weight
ALL = "all-linear"  # peft's name for every linear layer of the decoder, experts included
WRAPPED = "._checkpoint_wrapped_module"  # inserted by activation checkpointing into names of modules


@dataclass(frozen=True)
class Targets:
    """The adapted parts of a model, by full names: peft would also match in the encoders of a multimodal model."""

    layers: list[str]  # linear layers
    parameters: list[str]  # three-dimensional weights of experts that are fused into one
    trained: list[str]  # modules that are trained whole beside the adapters

    @classmethod
    def of(cls, model: PreTrainedModel, config: AdapterConfig) -> "Targets":
        """The targets of a configuration. Raises ValueError for a name that matches no part of the model."""
        prefix = next(name for name, module in model.named_modules() if module is decoder(model))
        inner = {f"{prefix}.{name}": module for name, module in decoder(model).named_modules() if name}
        linear = [name for name, module in inner.items() if isinstance(module, nn.Linear | Conv1D)]
        fused = [
            f"{name}.{key}"
            for name, module in inner.items()
            for key, parameter in module.named_parameters(recurse=False)
            if parameter.ndim == 3 and "experts" in name
        ]
        modules = [name for name, module in model.named_modules() if name and list(module.parameters())]
        everything = ALL in config.target_modules
        names = [] if everything else config.target_modules
        choices = [ALL, *_last([*linear, *fused])]
        for name in names:
            if not _matching([*linear, *fused], [name]):
                raise ValueError(
                    f"adapter.target_modules: {name} is not a linear layer of the decoder{among(name, choices)}"
                )
        for name in config.modules_to_save:
            if not _matching(modules, [name]):
                raise ValueError(f"adapter.modules_to_save: the model has no {name}{among(name, _last(modules))}")
        trained = _matching(modules, config.modules_to_save)
        return cls(
            [name for name in (linear if everything else _matching(linear, names)) if name not in trained],
            fused if everything else _matching(fused, names),
            trained,
        )


def _matching(full: list[str], names: list[str]) -> list[str]:
    """The full names that equal one of `names` or end in one, as in peft."""
    return [name for name in full if any(f".{name}".endswith(f".{end}") for end in names)]


def _last(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names} - {str(i) for i in range(1000)})


def insert(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Freeze a model and put adapters beside the linear layers that the configuration names."""
    targets = Targets.of(model, config)
    whole = {f"{name}.{key}" for name in targets.trained for key, _ in model.get_submodule(name).named_parameters()}
    for tied in model.all_tied_weights_keys.items():  # which are one weight, by either name
        whole |= set(tied) if whole & set(tied) else set()
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=targets.layers,
        target_parameters=targets.parameters or None,
    )
    inject_adapter_in_model(lora, model, adapter_name=NAME)
    for name, parameter in model.named_parameters():
        if ".lora_" in name or name in whole:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()  # as masters are


def initial(model: PreTrainedModel, seed: int) -> dict[str, Tensor]:
    """Initial values of all adapters by name, float32 on the CPU: A random, B zero, independent of the sharding."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_A." in name:
            values[name] = torch.empty(parameter.shape)
            torch.nn.init.kaiming_uniform_(values[name], a=math.sqrt(5), generator=generator)
        elif ".lora_B." in name:
            values[name] = torch.zeros(parameter.shape)
    return values


@contextmanager
def switched_off(model: PreTrainedModel) -> Iterator[None]:
    """Disable the adapters in the block: the model is then the one before training."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer._disable_adapters = True  # `enable_adapters` would also touch requires_grad
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged(state: dict[str, Tensor], model: PreTrainedModel, config: AdapterConfig) -> dict[str, Tensor]:
    """The full `state` of an adapted model as that of a plain one: W becomes W + alpha / rank * B A, in float32."""
    plain = {name.replace(BASE, ""): value for name, value in state.items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        path = name.replace(WRAPPED, "")
        down, up = (state[f"{path}.lora_{side}.{NAME}.weight"].float() for side in "AB")
        parameter = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
        weight = f"{path.replace(BASE, '')}.{parameter}"
        plain[weight] = plain[weight].float() + config.alpha / config.rank * _product(module, down, up)
    return plain


def _product(module: LoraLayer, down: Tensor, up: Tensor) -> Tensor:
    """B A in the shape of the weight that a layer adapts."""
    if not isinstance(module, ParamWrapper) or module.num_experts == 1:
        product = up @ down
        return product.T if getattr(module, "fan_in_fan_out", False) else product
    experts = module.num_experts
    product = torch.einsum("ore,eri->eoi", up.reshape(len(up), -1, experts), down.reshape(experts, -1, down.shape[1]))
    swapped = getattr(module, "_did_swap_in_out_features", False)  # peft's word for weights (experts, out, in)
    return product if swapped else product.transpose(1, 2)
