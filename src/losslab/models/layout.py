"""Shards a policy over the ranks of a run, and sets up activation checkpointing and compilation.

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
import torch.nn.attention.varlen  # which defines an operator in KEPT
import torch.utils.deterministic
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from losslab.config.choices import Device, Recompute, Sharding
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, Precision
from losslab.models import flash_attention_4  # noqa: F401  which defines an operator in KEPT

# `selective` keeps the results of attention and matrix products, which take most of the time. The rest of a layer
# (norms, activations, rotations, sums), which takes most of the memory, is recomputed.
KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.torch_attn._varlen_attn.default,
    torch.ops.losslab.flash_attention_4.default,
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
    if machine.compile:
        # Where the embedding is frozen, the first layer would have a graph of its own, whose input needs no gradient.
        embedding = cast(PreTrainedModel, policy.model).get_input_embeddings()
        embedding.register_forward_hook(_require_gradient)
    if sharded(config, device):
        _shard(policy, stacks, machine, config.train.precision, mesh(machine, device))


def set_up(machine: MachineConfig) -> None:
    """Set torch options of this process that must precede the first use of a GPU.

    The allocator uses expandable segments, which waste less memory if the sizes of micro-batches differ. They are set
    here and not in the environment, which an inference engine would inherit; the user's environment has precedence.
    """
    if machine.device != Device.cpu and torch.cuda.is_available() and "PYTORCH_ALLOC_CONF" not in os.environ:
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    # Inputs of a layer's matrix products in backward, such as the output of an activation, are recomputed from tensors
    # that are kept anyway: this saves a quarter of the memory and costs hardly any time.
    torch._functorch.config.ban_recompute_materialized_backward = False
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # two buffers: matrix products sum in a fixed order
        # Otherwise all allocated memory is filled too.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True)


def before_micro_batch(policy: nn.Module, machine: MachineConfig, last: bool) -> None:
    """Call before forward and backward of a micro-batch: with `machine.reshard=false` gradients are reduced and weights
    resharded only after the last one of a step.
    """
    if isinstance(policy, FSDPModule) and not machine.reshard:
        policy.set_requires_gradient_sync(last)
        policy.set_is_last_backward(last)
        policy.set_reshard_after_backward(last)


def abandon_backward(policy: nn.Module) -> None:
    """Reset the policy after an error in forward or backward, so that a step can start again. Gradients are then
    invalid.

    FSDP2 resets all of its states in a callback of the root module that ends a backward.
    """
    if isinstance(policy, FSDPModule):
        policy.set_requires_gradient_sync(True)
        policy.set_is_last_backward(True)
        policy.set_reshard_after_backward(True)
        state = policy._get_fsdp_state()
        state._root_post_backward_final_callback()
        state._state_ctx.iter_forward_root = None


def sharded(config: Config, device: torch.device) -> bool:
    """Whether FSDP2 wraps the policy: for several ranks, and on one GPU for CPU offload or for float32 accumulation of
    the gradients of bfloat16 master weights.
    """
    more = config.machine.cpu_offload or (config.train.weights == Precision.bf16 and not config.adapter.rank)
    return dist.get_world_size() > 1 or (device.type != "cpu" and more)


def _require_gradient(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
    if torch.is_grad_enabled():
        output.requires_grad_()


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
    """Apply FSDP2 to every decoder layer and to the rest, with float32 reductions that sum over ranks."""
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
            module.set_force_sum_reduction_for_comms(True)  # gloo supports no other
    for layers in stacks:
        sequence = list(cast(Iterable[FSDPModule], layers))
        for now, after in pairwise(sequence):
            now.set_modules_to_forward_prefetch([after])


def mesh(machine: MachineConfig, device: torch.device) -> DeviceMesh:
    """The device mesh: all ranks in one dimension, or (nodes, ranks of a node) for `hybrid`, which shards within a
    node.
    """
    ranks, local_ranks = dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
    if machine.sharding == Sharding.full:
        return init_device_mesh(device.type, (ranks,))
    return init_device_mesh(device.type, (ranks // local_ranks, local_ranks), mesh_dim_names=("replicate", "shard"))
