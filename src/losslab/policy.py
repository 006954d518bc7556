"""The model under training: load, shard, run to a loss, export."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from losslab import attention, world
from losslab.batches import Batch
from losslab.head import Head, HeadOutput, objective_loss, target_logprobs
from losslab.objectives import Context, Objective
from losslab.prompts import check_tokenizer
from losslab.schema import EMBEDDED, ModelConfig, Precision


class Policy(nn.Module):
    """A causal language model whose forward goes from a micro-batch to an objective's loss, never to full logits.

    The whole computation is one forward, so that FSDP gathers the output weight (the embedding, when tied) once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        precision: Precision,
        published: torch.dtype,
        frozen: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.published = published  # the dtype of the weights on disk, in which they are exported too
        self.frozen = None if frozen is None else frozen.requires_grad_(False)  # for objectives with its distribution

    def forward(self, batch: Batch, objective: Objective | None, context: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fields of `HeadOutput`, or only logp (N,) without an objective. `context` adds to `Context`."""
        hidden, head = self.hidden(self.model, batch), output_layer(self.model)
        if objective is None:
            return {"logp": target_logprobs(hidden, head, batch.targets)}
        reference = None
        if self.frozen is not None:
            with torch.no_grad():
                reference = self.hidden(self.frozen, batch), output_layer(self.frozen)
        full = Context(sequence=batch.sequence, sequences=len(batch.packing.lengths), **context)
        result: HeadOutput = objective_loss(objective, hidden, head, batch.targets, full, reference=reference)
        return vars(result)  # a dict, since FSDP looks for the tensors of an output in containers that it knows

    def hidden(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """(N, D) last hidden states at the positions that predict an answer token."""
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self.precision == Precision.bf16):
            states = model.base_model(
                input_ids=batch.tokens, position_ids=batch.positions, packing=batch.packing, use_cache=False
            ).last_hidden_state
        states = states[0, batch.predictors]
        return states.bfloat16() if self.precision == Precision.bf16 else states


def output_layer(model: PreTrainedModel) -> Head:
    """The output layer with what a few families do to its logits."""
    layer, config = model.get_output_embeddings(), model.config
    scale = getattr(config, "logit_scale", None) or 1.0 / getattr(config, "logits_scaling", 1.0)
    return Head(layer.weight, layer.bias, getattr(config, "final_logit_softcapping", None), scale)


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or folder, or the embedded one. Raises ValueError when there is none."""
    if model.path == EMBEDDED:
        return world.tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:
        raise ValueError(f"no tokenizer can be loaded from model.path={model.path}: {_reason(error)}") from error
    check_tokenizer(tokenizer, model.path)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {model.path} has no EOS token, so no answer could ever end: set one")
    return tokenizer


def load_config(model: ModelConfig) -> PretrainedConfig:
    """The architecture, without weights. Raises ValueError when it cannot be had."""
    if model.path == EMBEDDED:
        return world.model_config()
    try:
        return AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:
        raise ValueError(f"the model model.path={model.path} cannot be loaded: {_reason(error)}") from error


def structure(model: ModelConfig) -> PreTrainedModel:
    """The model on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            load_config(model), dtype=torch.float32, attn_implementation=attention.NAME
        )


def load_model(model: ModelConfig) -> PreTrainedModel:
    """The model in float32 on the CPU; the embedded one with random weights. ValueError when it cannot be loaded."""
    if model.path == EMBEDDED:
        return AutoModelForCausalLM.from_config(
            load_config(model), dtype=torch.float32, attn_implementation=attention.NAME
        )
    try:
        return AutoModelForCausalLM.from_pretrained(
            model.path,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=torch.float32,
            attn_implementation=attention.NAME,
        )
    except Exception as error:
        raise ValueError(f"the model model.path={model.path} cannot be loaded: {_reason(error)}") from error


def build(model: ModelConfig, precision: Precision, device: torch.device, frozen: bool = False) -> Policy:
    """The policy on this rank, sharded over all ranks when there are several; with a frozen copy where asked for.

    Only rank 0 reads the weights and hands them out, so a node never holds the model once per rank.
    """
    published = load_config(model).dtype
    assert published is None or isinstance(published, torch.dtype)

    def make(source: Callable[[ModelConfig], PreTrainedModel]) -> Policy:
        return Policy(source(model), precision, published or torch.float32, source(model) if frozen else None)

    if dist.get_world_size() == 1 and device.type == "cpu":
        return make(load_model)
    whole = make(load_model) if dist.get_rank() == 0 else None
    policy = make(structure)
    shard(policy, precision)
    policy.to_empty(device=device)
    state = whole.state_dict() if whole is not None else {}
    set_model_state_dict(policy, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    # Buffers outside the state dict, like the rotary frequencies, come from rank 0 as well.
    sources = dict(whole.named_buffers()) if whole is not None else {}
    for name, buffer in policy.named_buffers():
        if name in sources:
            buffer.copy_(sources[name])
        dist.broadcast(buffer, src=0)
    for part in (policy.model, policy.frozen):
        if part is not None:
            part.tie_weights()
    if whole is not None:
        policy.model.generation_config = whole.model.generation_config  # its stop tokens are exported too
    return policy


def shard(policy: Policy, precision: Precision) -> None:
    """FSDP2 on every decoder layer and on the rest; float32 masters and reductions, sums over ranks and no mean."""
    dtype = torch.bfloat16 if precision == Precision.bf16 else torch.float32
    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in (policy.model, policy.frozen):
        if part is not None:
            layers = part.base_model.layers
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                fully_shard(layer, mp_policy=mixed)
    fully_shard(policy, mp_policy=mixed)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other


def gradient_norm(policy: Policy) -> Tensor:
    """Global L2 norm of the accumulated gradients, () float32, the same on every rank."""
    norm = nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def export(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the model in Hugging Face format, in the dtype it was published in, with its tokenizer.

    The folder appears whole. Called on every rank.
    """
    dtype = policy.published
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = get_model_state_dict(policy, options=options)
    if dist.get_rank() == 0:
        temporary = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(temporary, ignore_errors=True)
        weights = {
            name.removeprefix("model."): tensor.to(dtype)
            for name, tensor in state.items()
            if isinstance(tensor, Tensor) and name.startswith("model.")
        }
        if policy.model.config.tie_word_embeddings:
            for tied in policy.model._tied_weights_keys or ():
                weights.pop(tied, None)
        policy.model.config.dtype = dtype
        policy.model.save_pretrained(temporary, state_dict=weights)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    dist.barrier()


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
