"""How a policy is laid out over the ranks of a run, and what it computes twice to save memory.

The order is that of torch's own trainers: activation checkpointing inside torch.compile inside FSDP.
"""

import os
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.attention.varlen  # it defines the operator that KEPT names
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from losslab.config.schema import MachineConfig, Precision, Recompute, Sharding

# What `selective` keeps: the results of attention and of the matrix products, which are most of the time to compute.
# The rest of a layer (norms, activations, rotations, sums), which is most of the memory, is computed again.
KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.torch_attn._varlen_attn.default,
}


def lay_out(
    policy: nn.Module,
    stacks: list[nn.ModuleList],
    machine: MachineConfig,
    precision: Precision,
    device: torch.device,
) -> None:
    """Wrap the decoder layers of every stack, and the policy around them, in place. Called on every rank."""
    for layers in stacks:
        for name, layer in layers.named_children():
            if machine.recompute != Recompute.none:
                layer = checkpoint_wrapper(layer, **_recompute(machine.recompute))
                layers.register_module(name, layer)
            if machine.compile:
                layer.compile(dynamic=True)
    if sharded(device):
        _shard(policy, stacks, machine, precision, mesh(machine, device))


def sharded(device: torch.device) -> bool:
    """Whether FSDP2 holds the policy: always, but for a single process on a CPU."""
    return dist.get_world_size() > 1 or device.type != "cpu"


def _recompute(choice: Recompute) -> dict[str, Any]:
    if choice == Recompute.full:
        return {"preserve_rng_state": False}
    context = partial(create_selective_checkpoint_contexts, _keep)
    return {"preserve_rng_state": False, "context_fn": context}


def _keep(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def _shard(
    policy: nn.Module, stacks: list[nn.ModuleList], machine: MachineConfig, precision: Precision, ranks: DeviceMesh
) -> None:
    """FSDP2 on every decoder layer and on the rest; float32 reductions, sums over ranks and no mean."""
    mixed = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == Precision.bf16 else torch.float32,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    options: dict[str, Any] = {"mesh": ranks, "mp_policy": mixed}
    pinned = ranks.device_type != "cpu"  # memory is pinned for copies to an accelerator
    options["offload_policy"] = CPUOffloadPolicy(pin_memory=pinned) if machine.cpu_offload else OffloadPolicy()
    for layers in stacks:
        for layer in layers:
            fully_shard(layer, **options)
    fully_shard(policy, **options)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other


def mesh(machine: MachineConfig, device: torch.device) -> DeviceMesh:
    """All ranks in one row, or (nodes, ranks of a node) for `hybrid`: gathered within a node, summed across."""
    ranks, own = dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
    if machine.sharding == Sharding.full:
        return init_device_mesh(device.type, (ranks,))
    return init_device_mesh(device.type, (ranks // own, own), mesh_dim_names=("replicate", "shard"))
