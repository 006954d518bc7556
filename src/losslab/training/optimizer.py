"""The optimizer, its learning rate at each step, and the gradients that it is given."""

import math
from typing import Any

import torch
import torch.distributed as dist
from hydra.utils import get_class
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from losslab.config.schema import Decay, OptimizerConfig, SchedulerConfig, Shape


def make_optimizer(config: OptimizerConfig, policy: nn.Module) -> Optimizer:
    """The optimizer that `_target_` names. Each of its steps counts as a change of the weights for `ComputeWeights`."""
    optimizer: Optimizer = get_class(config._target_)(
        weight_decay_groups(config, policy), lr=config.lr, **config.arguments
    )
    optimizer.register_step_post_hook(_count_change)
    return optimizer


def _count_change(optimizer: Optimizer, *_: object) -> None:
    """Raise the version of each weight: torch's fused optimizers, and those that write to `.data`, leave it alone."""
    increment_version([parameter for group in optimizer.param_groups for parameter in group["params"]])


def weight_decay_groups(config: OptimizerConfig, policy: nn.Module) -> list[dict[str, Any]]:
    """The trained parameters with weight decay, and those without: it is on matrices alone unless `decay=all`."""
    decayed, rest = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            # Biases of fused experts have two dimensions.
            matrix = parameter.ndim >= 2 and not name.endswith("bias")
            (decayed if matrix or config.decay == Decay.all else rest).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def check_schedule(config: SchedulerConfig, steps: int) -> None:
    """Refuse, with ValueError, a warm-up after which no step is left, or that lasts into the decay of `wsd`."""
    key = "scheduler.warmup_ratio" if config.warmup_steps is None else "scheduler.warmup_steps"
    warmup, start = _warmup(config, steps), _start(config, steps)
    if warmup and warmup >= steps:
        raise ValueError(f"the warm-up of {warmup} steps is not over in the {steps} of this training: lower {key}")
    if warmup > start:
        raise ValueError(
            f"the learning rate would decay from step {start}, within the warm-up of {warmup} steps: lower {key} or "
            "scheduler.decay_ratio"
        )


def _warmup(config: SchedulerConfig, steps: int) -> int:
    return config.warmup_steps if config.warmup_steps is not None else round(config.warmup_ratio * steps)


def _start(config: SchedulerConfig, steps: int) -> int:
    """The step from which the learning rate goes down."""
    return steps - round(config.decay_ratio * steps) if config.shape == Shape.wsd else _warmup(config, steps)


def lr_factor(config: SchedulerConfig, step: int, steps: int) -> float:
    """Learning rate of a step (counted from 0) as a share of the peak: linear warm-up, then the shape down to floor."""
    warmup, start = _warmup(config, steps), _start(config, steps)
    if step < warmup:
        return (step if config.warmup_at_zero else step + 1) / warmup
    progress = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
    match config.shape:
        case Shape.constant:
            return 1.0
        case Shape.cosine:
            share = 0.5 * (1 + math.cos(math.pi * progress))
        case Shape.linear | Shape.wsd:
            share = 1 - progress
    return config.floor + (1 - config.floor) * share


class Sums:
    """The gradients of bfloat16 weights, added up in float32 over the micro-batches of a step: torch would add them up
    in the dtype of the weights, where 256 + 1 is 256. The gradient of each micro-batch is in bfloat16. If FSDP2
    reduces only after the last micro-batch, it gives one gradient for all of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights = [p for p in model.parameters() if p.requires_grad and p.dtype == torch.bfloat16]
        self.totals: dict[nn.Parameter, Tensor] = {}  # this rank's shards

    def add(self, last: bool) -> None:
        """Take the gradients of a micro-batch out of the model. A gradient stays there if its weight has none
        before the last micro-batch of a step.
        """
        for weight in self.weights:
            if weight.grad is None:
                continue
            if (total := self.totals.get(weight)) is None:
                if last:
                    continue
                self.totals[weight] = _local(weight.grad).float()
            else:
                total += _local(weight.grad)
            weight.grad = None

    def give_back(self) -> None:
        """Make the sums the gradients of the weights."""
        while self.totals:
            weight, total = self.totals.popitem()
            weight.grad = torch.empty_like(weight)
            _local(weight.grad).copy_(total)


class Gradients:
    """The accumulated gradients of a model: this rank's shards, taken out of DTensor, whose dispatch costs more."""

    def __init__(self, model: nn.Module, sums: Sums) -> None:
        self.sums = sums
        found = {p: sums.totals.get(p, p.grad) for p in model.parameters()}
        gradients = {weight: gradient for weight, gradient in found.items() if gradient is not None}
        sharded = [weight for weight in gradients if isinstance(weight, DTensor)]
        assert len(sharded) in (0, len(gradients))
        self.sharded = sharded[0] if sharded else None  # one of them: all have its mesh and placements
        self.local = [_local(gradient) for gradient in gradients.values()]

    def norm(self) -> Tensor:
        """Their global L2 norm, () float64, the same on every rank. Called on every rank."""
        squares = torch.stack(torch._foreach_norm(self.local, dtype=torch.float32)).double().square().sum()
        if self.sharded is not None:
            mesh = self.sharded.device_mesh
            for dimension, placement in enumerate(self.sharded.placements):
                if placement.is_shard() and mesh.size(dimension) > 1:  # where it is replicated, ranks have the same
                    dist.all_reduce(squares, group=mesh.get_group(dimension))
        return squares.sqrt()

    def scale(self, factor: Tensor) -> None:
        """Multiply all by a factor () in place, which is not rounded; they are the gradients of the weights then."""
        factor = factor.to(self.local[0].device, torch.float32)
        if wide := [gradient for gradient in self.local if gradient.dtype == torch.float32]:
            torch._foreach_mul_(wide, factor)
        for gradient in self.local:
            if gradient.dtype != torch.float32:
                gradient.copy_(gradient.float() * factor)
        if self.sums.totals:
            self.local.clear()  # so that each sum goes when its weight has the gradient
            self.sums.give_back()


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
