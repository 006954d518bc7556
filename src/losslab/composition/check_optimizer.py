"""Checks that an optimizer works in the training loop, by taking a step on two small parameters."""

import inspect
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from losslab.config.messages import among, first_line
from losslab.config.paths import CONF
from losslab.config.schema import OptimizerConfig

OURS = {"params": "the model's weights", "lr": "optimizer.lr", "weight_decay": "optimizer.weight_decay"}


def check_optimizer(optimizer: OptimizerConfig) -> None:
    """Raise ValueError for a class that is not an optimizer or does not work in the loop, and for invalid arguments.

    The files of conf/optimizer are tried by a test instead of each time, since torch takes seconds to import.
    """
    for key, ours in OURS.items():
        if key in optimizer.arguments:
            raise ValueError(f"optimizer.arguments.{key} is set by {ours}: leave it out")
    if (optimizer._target_, optimizer.arguments) not in _shipped():
        step_once(optimizer)


@cache
def _shipped() -> list[tuple[str, dict[str, Any]]]:
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in Path(CONF / "optimizer").glob("*.yaml")]
    return [(file.get("_target_", ""), file.get("arguments", {})) for file in files if isinstance(file, dict)]


def step_once(optimizer: OptimizerConfig) -> None:
    """Take one step with the optimizer on a matrix and a vector. Raises ValueError as `check_optimizer` does."""
    import torch

    target = optimizer._target_
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except Exception:
        raise ValueError(f"optimizer._target_={target} cannot be imported: check it") from None
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ValueError(
            f"optimizer._target_={target} is not a torch.optim.Optimizer: give one, or choose optimizer=adamw"
        )
    accepted = set(inspect.signature(cls).parameters)
    if optimizer.weight_decay and "weight_decay" not in accepted:
        raise ValueError(f"optimizer._target_={target} has no weight decay: set optimizer.weight_decay=0")
    accepted -= set(OURS)
    for key in set(optimizer.arguments) - accepted:
        raise ValueError(f"unknown key optimizer.arguments.{key}{among(key, sorted(accepted))}")
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    groups = [{"params": [weight], "weight_decay": optimizer.weight_decay} for weight in weights]
    try:
        make: Any = cls
        make(groups, lr=optimizer.lr, **optimizer.arguments).step()  # as in losslab.training.loop
    except Exception as error:
        raise ValueError(
            f"optimizer._target_={target} cannot train with optimizer.arguments={optimizer.arguments} "
            f"({first_line(error)}): change them, or choose optimizer=adamw"
        ) from None
