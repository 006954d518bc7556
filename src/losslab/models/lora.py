"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, inside the model that they adapt.

The adapted weights are frozen and held in the dtype of the computation; only the adapters are trained. With the
adapters switched off the model is the one before training, which makes it its own reference.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from losslab.config.messages import among
from losslab.config.schema import AdapterConfig

NAME = "default"  # peft's for the one adapter there is
BASE = ".base_layer"  # what peft puts into the name of an adapted weight


def check(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Refuse, with ValueError, a name that is no linear layer of the decoder's blocks."""
    layers = cast(nn.ModuleList, model.base_model.layers)
    known = {name.split(".")[-1] for name, module in layers.named_modules() if isinstance(module, nn.Linear)}
    for name in config.target_modules:
        if name not in known:
            raise ValueError(
                f"adapter.target_modules: {name} is no linear layer of a block{among(name, sorted(known))}"
            )


def insert(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Freeze a model and put adapters beside the linear layers that the configuration names."""
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.target_modules))
    inject_adapter_in_model(lora, model, adapter_name=NAME)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()  # as masters are


def initial(model: PreTrainedModel, seed: int) -> dict[str, Tensor]:
    """First values of all adapters by name, float32 on the CPU: A random, B zero. The same whatever the sharding."""
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
    """The model before training, for as long as the block lasts."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer._disable_adapters = True  # `enable_adapters` would also touch requires_grad
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged(state: dict[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """The state of the plain model: each adapted weight W becomes W + alpha / rank * B A, in float32."""
    plain = {name.replace(BASE, ""): value for name, value in state.items() if ".lora_" not in name}
    for name, down in state.items():
        if ".lora_A." in name:
            up = state[name.replace(".lora_A.", ".lora_B.")]
            weight = name.split(".lora_A.")[0] + ".weight"
            plain[weight] = plain[weight].float() + config.alpha / config.rank * (up.float() @ down.float())
    return plain
