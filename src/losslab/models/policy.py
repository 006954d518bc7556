"""The model under training: load, lay out, run to a loss, export."""

import inspect
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import PreTrainedModel

from losslab.config.messages import under_key
from losslab.config.schema import AdapterConfig, Config, ModelConfig, Precision
from losslab.data.batches import Batch
from losslab.models import attention, layout, lora
from losslab.models.compute_weights import ComputeWeights
from losslab.models.cpu_products import install as install_cpu_products
from losslab.models.decoder import body, decoder, layers
from losslab.models.fused_loss import Head, HeadOutput, objective_loss, target_logprobs, top_logprobs
from losslab.models.loading import fill, load_config, load_model, quiet, structure
from losslab.models.output_layer import OutputForm
from losslab.objectives import Context, Objective


class Policy(nn.Module):
    """A causal language model whose forward goes from a micro-batch to an objective's loss, never to full logits.

    The whole computation is one forward, so that FSDP gathers the output weight (the embedding, when tied) once.
    """

    def __init__(
        self, model: PreTrainedModel, precision: Precision, published: torch.dtype, adapters: AdapterConfig
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.published = published  # the dtype of the weights on disk, in which they are exported too
        self.adapters = adapters
        self.source: ModelConfig | None = None  # the model whose processor is exported too
        self.frozen: PreTrainedModel | None = None  # for objectives that need its distribution
        self.output_form = self.frozen_form = OutputForm.of(model)
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]  # of the distributions
        self.packed = attention.implementation(model) == attention.NAME  # else sequences of one length at a time
        self.told = False  # whether recurrent and convolutional layers receive the boundaries of the sequences in a row
        self.trains_vision = False  # whether a vision tower is among what is trained
        self.compute_weights: ComputeWeights | None = None  # on one GPU that FSDP2 does not hold

    def forward(
        self, batch: Batch, objective: Objective | None, context: dict[str, Tensor], top_k: int | None = None
    ) -> dict[str, Tensor]:
        """Fields of `HeadOutput`. Without an objective only logp (N,), or with `top_k` those of `top_logprobs` (N, k).

        `context` adds to `Context`.
        """
        self.begin_forward()
        reference = None
        if objective is not None and "reference_distribution" in objective.needs:
            reference = self.reference(batch)
        hidden, head = self.hidden(self.model, batch), self.head(self.model)
        if top_k is not None:
            logp, tokens = top_logprobs(hidden, head, top_k)
            return {"logp": logp, "token": tokens}
        if objective is None:
            return {"logp": target_logprobs(hidden, head, batch.targets)}
        # A rank may have less to do than another: then its row holds no answer and is not a sequence of the objective.
        sequences = len(batch.packing.lengths) if len(batch.targets) else 0
        full = Context(sequence=batch.sequence, sequences=sequences, **context)
        result: HeadOutput = objective_loss(objective, hidden, head, batch.targets, full, reference=reference)
        return vars(result)  # a dict, since FSDP looks for the tensors of an output in containers that it knows

    @torch.no_grad()
    def target_logp(self, batch: Batch) -> Tensor:
        """(N,) float32 log-probabilities of the answer tokens. Called on every rank."""
        logp = self(batch, None, {})["logp"]
        self.end_backward()
        return logp

    @torch.no_grad()
    def top_logp(self, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        """(N, k) float32 the largest log-probabilities at the answer tokens, and (N, k) int32 their tokens.

        Called on every rank.
        """
        out = self(batch, None, {}, top_k=k)
        self.end_backward()
        return out["logp"], out["token"].int()

    def begin_forward(self) -> None:
        """Swap in the weights of the compute dtype, where they are separate, until `end_backward`."""
        if self.compute_weights is not None:
            self.compute_weights.enter()

    def end_backward(self) -> None:
        """Swap the master weights back in."""
        if self.compute_weights is not None:
            self.compute_weights.leave()

    @torch.no_grad()
    def reference(self, batch: Batch) -> tuple[Tensor, Head]:
        """Hidden states and head of the reference: a frozen model, or this one without its adapters."""
        model = self.frozen or self.model
        with lora.switched_off(model) if model is self.model else nullcontext():
            return self.hidden(model, batch), self.head(model)

    def head(self, model: PreTrainedModel) -> Head:
        """The output layer of the model or of the reference, over the policy's vocabulary."""
        head = (self.output_form if model is self.model else self.frozen_form).head(model)
        if head.weight.shape[0] == self.vocabulary:
            return head
        # The larger models of a family may be padded to more.
        bias = None if head.bias is None else head.bias[: self.vocabulary]
        return replace(head, weight=head.weight[: self.vocabulary], bias=bias)

    def hidden(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """(N, D) last hidden states at the positions that predict an answer token."""
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self.precision == Precision.bf16):
            if self.packed:
                states = packed_states(model, batch, self.told)
            else:
                states = separate_states(model, batch)
            states = states.index_select(0, batch.predictors)
        if batch.images is None and self.trains_vision:
            # Every rank has a gradient of every parameter, since those of all ranks are added up.
            states = states + 0.0 * sum(
                parameter.flatten()[0] for parameter in towers(model) if parameter.requires_grad
            )
        return states.bfloat16() if self.precision == Precision.bf16 else states

    def plain_logits(self, tokens: Tensor, kept: Tensor, images: dict[str, Tensor] | None = None) -> Tensor:
        """(N, V) of the model's own forward over one sequence (1, T), at the positions `kept` (N,).

        `images` are what it reads of images, by the names of its arguments.
        """
        selects = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        options = (images or {}) | ({"logits_to_keep": kept} if selects else {})
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.precision == Precision.bf16):
            logits = self.model(tokens, use_cache=False, **options).logits[0]
        return logits if selects else logits[kept]

    def attend(self, implementation: str) -> None:
        """Let the models compute attention as one of transformers' implementations does; `packed` packs rows.

        With `attention.TOLD` their other layers receive the boundaries of the sequences. Raises ValueError where they
        cannot.
        """
        self.told = implementation == attention.TOLD
        implementation = attention.NAME if self.told else implementation
        for model in (self.model, self.frozen):
            if model is not None and attention.implementation(model) != implementation:
                with quiet():
                    attention.attend(model, implementation)
        self.packed = attention.implementation(self.model) == attention.NAME


def packed_states(model: PreTrainedModel, batch: Batch, told: bool = False) -> Tensor:
    """(T, D) last hidden states of a micro-batch in one pass, which keeps its sequences apart by itself.

    `told` passes on what the kernels of recurrent and convolutional layers need for that, by transformers' names; its
    layers without these kernels (flash-linear-attention, causal-conv1d, mamba-ssm) read none of it.
    """
    packing, more = batch.packing, dict[str, Any]()
    if told:
        ends = packing.boundaries
        more = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "seq_idx": packing.owners()}
        more |= {"max_length_q": packing.longest, "max_length_k": packing.longest}
    part = decoder(model)
    if batch.images is not None:
        part, more = body(model), more | batch.images.arrays
    row = {"input_ids": batch.tokens, "position_ids": batch.positions, "packing": packing}
    return part(**row, **more, use_cache=False).last_hidden_state[0]


def separate_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(T, D) last hidden states of a micro-batch in passes over sequences of one length, for any causal decoder.

    Every rank takes as many passes, since the layers of all ranks are gathered together. Called on every rank.
    """
    runs = batch.packing.runs()
    passes = torch.tensor(len(runs), device=batch.tokens.device)
    dist.all_reduce(passes, dist.ReduceOp.MAX)
    parts, first, start = [], 0, 0
    for count, length in runs:
        row = slice(start, start + count * length)
        tokens = batch.tokens[0, row].view(count, length)
        images = {} if batch.images is None else batch.images.of(first, first + count)
        part = decoder(model)
        if batch.images is not None and images:
            part = body(model)
            images |= with_types(part, batch.images.types[0, row].view(count, length))
        parts.append(part(input_ids=tokens, **images, use_cache=False).last_hidden_state.flatten(0, 1))
        first, start = first + count, row.stop
    for _ in range(int(passes) - len(runs)):
        parts.append(decoder(model)(input_ids=batch.tokens[:, :1], use_cache=False).last_hidden_state[0, :0])
    return torch.cat(parts)


def with_types(part: nn.Module, types: Tensor) -> dict[str, Tensor]:
    """The types of tokens under the names by which a model asks for them: for its positions, or for its attention."""
    asked = inspect.signature(part.forward).parameters
    return {name: types for name in ("mm_token_type_ids", "token_type_ids") if name in asked}


def towers(model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters of a multimodal model outside of its decoder and output layer: vision tower and projector."""
    text = {id(p) for part in (decoder(model), model.get_output_embeddings()) for p in part.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in text]


def build(config: Config, device: torch.device, reference: bool) -> Policy:
    """The policy on this rank, laid out over all of them.

    `reference` adds the reference model, frozen; without a `reference.path` it is the model before training, for which
    adapters need no copy.

    It is in evaluation mode: with dropout, a token would be weighted by the probability of another (perturbed) policy,
    and recomputation would not reproduce the first result. Called on every rank.
    """
    model, precision, adapters = config.model, config.train.precision, config.adapter
    published = load_config(model).dtype or torch.float32
    assert isinstance(published, torch.dtype)
    if device.type == "cpu" and precision == Precision.bf16:
        install_cpu_products()
    empty = device.type != "cpu" or layout.sharded(config, device)  # filled where it is laid out
    load = structure if empty else load_model
    # What is frozen needs no master weights.
    held = precision if adapters.rank else config.train.weights
    policy = Policy(load(model), precision, published, adapters)
    policy.source = model
    for parameter in towers(policy.model):
        parameter.requires_grad_(not config.train.freeze_vision)
    for parameter in policy.parameters():  # but not buffers: rotary frequencies need float32
        parameter.data = parameter.data.to(torch.bfloat16 if held == Precision.bf16 else torch.float32)
    if adapters.rank:
        lora.insert(policy.model, adapters)
    key = "model.path" if config.reference.path is None else "reference.path"
    if reference and (not adapters.rank or adapters.modules_to_save or config.reference.path is not None):
        with under_key(key):
            policy.frozen = load(config.reference_model)
        policy.frozen_form = OutputForm.of(policy.frozen)
        for parameter in policy.frozen.requires_grad_(False).parameters():
            parameter.data = parameter.data.to(torch.bfloat16 if precision == Precision.bf16 else torch.float32)
    parts = [part for part in (policy.model, policy.frozen) if part is not None]
    stacks = [layers(part) for part in parts]
    first: dict[str, Any] = lora.initial(policy.model, config.seed)
    layout.lay_out(policy, stacks, config, device)
    if empty:
        computed = {name: buffer.clone() for name, buffer in policy.named_buffers()}  # as the rotary frequencies
        policy.to_empty(device="cpu" if config.machine.cpu_offload else device)
        for name, buffer in policy.named_buffers():
            buffer.data = computed[name].to(device)
        for part in parts:
            part.tie_weights()
            names = {name: name.replace(lora.BASE, "") for name in own_names(part)}
            if part is policy.model:
                fill(part, names, model)
                continue
            with under_key(key):
                fill(part, names, config.reference_model)
    if adapters.rank:
        set_model_state_dict(policy.model, first, options=StateDictOptions(full_state_dict=True, strict=False))
    if empty and not layout.sharded(config, device):
        policy.compute_weights = ComputeWeights(
            policy, torch.bfloat16 if precision == Precision.bf16 else torch.float32
        )
    policy.trains_vision = any(parameter.requires_grad for parameter in towers(policy.model))
    return policy.eval()


def own_names(model: PreTrainedModel) -> list[str]:
    """Names of the weights that a checkpoint of the model holds: a tied one once, adapters not at all."""
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    return [name for name in model.state_dict() if ".lora_" not in name and name not in tied]
