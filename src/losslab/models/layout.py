"""How a policy is laid out over the ranks of a run, and what it computes twice to save memory.

The order is that of torch's own trainers: activation checkpointing inside torch.compile inside FSDP.
"""

import os
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
import torch._functorch.config
import torch.distributed as dist
import torch.nn.attention.varlen  # it defines the operator that KEPT names
import torch.utils.deterministic
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from losslab.config.choices import Device, Recompute, Sharding
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, Precision

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
    config: Config,
    device: torch.device,
    backend: str = "inductor",
) -> None:
    """Wrap the decoder layers of every stack, and the policy around them, in place. Called on every rank.

    `backend` is that of torch.compile.
    """
    machine = config.machine
    for layers in stacks:
        for name, layer in layers.named_children():
            if machine.recompute != Recompute.none:
                layer = checkpoint_wrapper(layer, **_recompute(machine.recompute))
                layers.register_module(name, layer)
            if machine.compile:
                layer.compile(dynamic=True, backend=backend)
    if sharded(config, device):
        _shard(policy, stacks, machine, config.train.precision, mesh(machine, device))


def set_up(machine: MachineConfig) -> None:
    """Settings of torch in this process that must be there before a GPU is used.

    The allocator grows its segments in place, which leaves less memory unused where the sizes of micro-batches differ.
    It is set here and not in the environment, which an inference engine would inherit; what the user's environment
    says has precedence.
    """
    if machine.device != Device.cpu and torch.cuda.is_available() and "PYTORCH_ALLOC_CONF" not in os.environ:
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    # What a layer's products read in backward, such as the output of an activation, is computed again from what is kept
    # anyway: a quarter less memory, and hardly any time, since it is written once in either case.
    torch._functorch.config.ban_recompute_materialized_backward = False
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # two buffers: products add up in one order
        # Else all memory that is allocated is written, too.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True)


def before_micro_batch(policy: nn.Module, machine: MachineConfig, last: bool) -> None:
    """Before forward and backward of a micro-batch of a step: with `machine.reshard=false` gradients are reduced, and
    weights sharded again, after the last one alone."""
    if isinstance(policy, FSDPModule) and not machine.reshard:
        policy.set_requires_gradient_sync(last)
        policy.set_is_last_backward(last)
        policy.set_reshard_after_backward(last)


def abandon_backward(policy: nn.Module) -> None:
    """Let a step begin anew after an error within forward or backward. The gradients that are left mean nothing.

    FSDP2 ends a backward by a callback of the root; it is what puts all of its states back.
    """
    if isinstance(policy, FSDPModule):
        policy.set_requires_gradient_sync(True)
        policy.set_is_last_backward(True)
        policy.set_reshard_after_backward(True)
        state = policy._get_fsdp_state()
        state._root_post_backward_final_callback()
        state._state_ctx.iter_forward_root = None


def sharded(config: Config, device: torch.device) -> bool:
    """Whether FSDP2 holds the policy: for several ranks, and on one GPU for what it does beside sharding, which is to
    keep the weights in host memory, and to add up gradients in float32 for master weights in bfloat16."""
    more = config.machine.cpu_offload or (config.train.weights == Precision.bf16 and not config.adapter.rank)
    return dist.get_world_size() > 1 or (device.type != "cpu" and more)


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
            fully_shard(layer, **options, reshard_after_forward=bool(machine.reshard))
    fully_shard(policy, **options)
    if ranks.size() == 1:
        return
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    for layers in stacks:
        sequence = list(cast(Iterable[FSDPModule], layers))
        for now, after in pairwise(sequence):
            now.set_modules_to_forward_prefetch([after])


def mesh(machine: MachineConfig, device: torch.device) -> DeviceMesh:
    """All ranks in one row, or (nodes, ranks of a node) for `hybrid`: gathered within a node, summed across."""
    ranks, local_ranks = dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
    if machine.sharding == Sharding.full:
        return init_device_mesh(device.type, (ranks,))
    return init_device_mesh(device.type, (ranks // local_ranks, local_ranks), mesh_dim_names=("replicate", "shard"))
