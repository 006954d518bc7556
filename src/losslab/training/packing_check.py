"""A check at the start of every training: does the model compute the same for a packed row as for each sequence alone?

Two sequences of the data are packed into one row and compared with the model's own forward over each of them, unpadded
and with full logits: log-probabilities of the answers, cross-entropy, and the gradient with respect to the token
embeddings. The gradient of one sequence's loss at the tokens of the other must be exactly 0, in any precision. A model
that fails with packed rows is run one sequence length at a time, which is slower; a model that fails this too is
refused.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from transformers import PreTrainedModel

from losslab.config.log import log
from losslab.config.messages import first_line
from losslab.config.schema import Precision
from losslab.data.batches import Batch, collate
from losslab.data.examples import Examples
from losslab.files.json_files import write_json
from losslab.models import attention
from losslab.models.decoder import body
from losslab.models.policy import Policy, with_types

ANSWERS = 256  # tokens of an answer that are compared, at most
FLOPS = {"cpu": 4e11, "cuda": 2e14}  # that the check may take
LONGEST, SHORTEST = 2048, 24  # tokens of both sequences
# Parts of configuration keys whose value is a number of tokens at which attention or positions change.
THRESHOLDS = (
    "window",
    "chunk_size",
    "original_max_position",
    "index_topk",
    "floor_scale",
    "rel_extent",
    "compress_rate",
)
# By precision: the mean difference of log-probabilities, over 1 + their mean size, and the relative one of gradients.
TOLERANCES = {Precision.fp32: (1e-4, 1e-3), Precision.bf16: (3e-2, 0.3)}


@dataclass(frozen=True)
class Agreement:
    """How one way to run a model agrees with its own forward over each of two sequences."""

    tokens: int  # of both sequences
    logp: float  # mean absolute difference of the answers' log-probabilities, over 1 + their mean size
    cross_entropy: float  # absolute difference over the second answer, nats a token
    gradient: float  # relative L2 difference at the embedded tokens of the second sequence
    leak: float  # the largest absolute gradient of the second sequence's loss at a token of the first

    def disagreement(self, precision: Precision) -> str | None:
        """Which tolerance is exceeded, None if none is."""
        logp, gradient = TOLERANCES[precision]
        if self.leak > 0:
            return "layers carry state from one sequence to the next (a recurrence or a convolution)"
        if not self.logp <= logp:  # NaN fails too
            return f"log-probabilities of answers differ by {self.logp:.1e}"
        return None if self.gradient <= gradient else f"gradients differ by {self.gradient:.1e}"


@dataclass(frozen=True)
class PackingCheck:
    """How a policy is run during training, and why: a part of a cell's record."""

    packed: bool
    attention: str  # transformers' name of the implementation; `packed` is ours
    precision: Precision  # of the comparison
    failed: dict[str, str]  # implementations that were tried before, and what was wrong
    agreement: Agreement
    seconds: float

    def sentence(self) -> str | None:
        """The message for the user; None if the model is packed."""
        if self.packed:
            return None
        reason = next(iter(self.failed.values()), "its family does not use transformers' attention interface")
        return f"sequences are not packed but processed one length at a time, which is slower: {reason}"


@dataclass(frozen=True)
class _Result:
    """The result of one way to run a model on two sequences, with the loss on the second."""

    logp: Tensor  # (N,) of the answer tokens of both
    gradient: Tensor  # (T, D) of the second sequence's loss at the embedded tokens of both


def run_exactly(policy: Policy, examples: Examples, device: torch.device, file: Path | None = None) -> None:
    """Check a policy before its first step, log how it will be run, and write that to a file of the cell's record.

    Called on every rank. Raises ValueError if no way of running the model is exact.
    """
    result = check(policy, examples, device)
    if dist.get_rank() == 0:
        if sentence := result.sentence():
            log.info(f"{type(policy.model).__name__}: {sentence}")
        if file is not None:
            write_json(file, asdict(result))


def check(policy: Policy, examples: Examples, device: torch.device) -> PackingCheck:
    """Find the fastest exact way to run the policy, and leave the policy in it. Called on every rank.

    Raises ValueError if no way of running the model is exact.
    """
    began = time.perf_counter()
    batch = two_sequences(examples, limit(policy, examples, device)).to(device)
    asked, failed = policy.precision, dict[str, str]()
    policy.begin_forward()
    if not isinstance(policy, FSDPModule) and all(p.dtype == torch.float32 for p in policy.parameters()):
        policy.precision = Precision.fp32  # shows smaller differences
    if isinstance(policy, FSDPModule):
        register_fsdp_forward_method(policy, "plain_logits")
    try:
        with torch.compiler.set_stance("force_eager"):
            start = attention.implementation(policy.model)
            if batch.images is not None and looks_ahead(policy.model) and start == attention.NAME:
                failed[start], start = "a token of an image attends to those of the image behind it", "sdpa"
            policy.attend("eager")
            expected = _plain(policy, batch)
            told = [attention.TOLD] * (start == attention.NAME)
            for way in dict.fromkeys([start, *told, "sdpa", "eager"]):
                agreement, reason = _try(policy, way, batch, expected)
                if reason is None:
                    assert agreement is not None
                    seconds = round(time.perf_counter() - began, 3)
                    return PackingCheck(policy.packed, way, policy.precision, failed, agreement, seconds)
                failed[way] = reason
    finally:
        policy.precision = asked
        policy.end_backward()
        attention.forget()  # what training runs follows
    raise ValueError(
        f"{type(policy.model).__name__} cannot be trained exactly: compared with its own forward over each sequence, "
        f"{list(failed.values())[-1]}; choose another model"
    )


def _try(policy: Policy, way: str, batch: Batch, expected: _Result) -> tuple[Agreement | None, str | None]:
    """How well an attention implementation agrees with the plain forward, and why it failed, if it did on any rank."""
    agreement, reason = None, None
    try:
        policy.attend(way)
        agreement = _compare(batch, expected, _run(policy, batch))
        reason = agreement.disagreement(policy.precision)
    except ValueError as error:
        reason = first_line(error)
    except Exception as error:  # of the family's own code
        reason = f"its modelling code fails ({type(error).__name__}: {first_line(error)})"
    wrong = torch.tensor(float(reason is not None), device=batch.tokens.device)
    dist.all_reduce(wrong)
    return agreement, reason or ("it differs on another rank" if wrong else None)


def _plain(policy: Policy, batch: Batch) -> _Result:
    """The model's own forward over each sequence."""
    logps, gradients, start = [], [], 0
    for i, length in enumerate(batch.packing.lengths):
        kept, targets = batch.predictors[batch.sequence == i] - start, batch.targets[batch.sequence == i]
        images = {} if batch.images is None else batch.images.of(i, i + 1)
        if batch.images is not None and images:
            images |= with_types(policy.model, batch.images.types[:, start : start + length])
        with torch.set_grad_enabled(i == 1), _embedded(policy.model) as embedded:
            logits = policy.plain_logits(batch.tokens[:, start : start + length], kept, images).float()
            logp = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
        logps.append(logp.detach())
        gradients.append(_gradient(logp, embedded) if i else torch.zeros(()))
        start += length
    second = gradients[1]
    return _Result(torch.cat(logps), torch.cat((second.new_zeros(batch.packing.lengths[0], second.shape[1]), second)))


def _run(policy: Policy, batch: Batch) -> _Result:
    """The forward of training."""
    with _embedded(policy.model) as embedded:
        logp = policy(batch, None, {})["logp"]
    return _Result(logp.detach(), _gradient(logp[batch.sequence == 1], embedded))


def _compare(batch: Batch, expected: _Result, result: _Result) -> Agreement:
    second, first = batch.sequence == 1, batch.packing.lengths[0]
    difference = result.logp - expected.logp
    gradient = torch.linalg.vector_norm((result.gradient - expected.gradient)[first:])
    return Agreement(
        tokens=sum(batch.packing.lengths),
        logp=float(difference.abs().mean() / (1 + expected.logp.abs().mean())),
        cross_entropy=float(difference[second].mean().abs()),
        gradient=float(gradient / torch.linalg.vector_norm(expected.gradient).clamp_min(1e-30)),
        leak=float(result.gradient[:first].abs().max()),
    )


def _gradient(logp: Tensor, embedded: list[Tensor]) -> Tensor:
    """(T, D) float32: gradient of the negative sum of log-probabilities at the embeddings of all calls, in order."""
    parts = torch.autograd.grad(-logp.sum(), embedded, materialize_grads=True)
    return torch.cat([part.flatten(0, 1) for part in parts]).float()


@contextmanager
def _embedded(model: nn.Module) -> Iterator[list[Tensor]]:
    """The token embeddings (B, L, D) of each forward call of a model in the block, as leaves of the graph."""
    leaves: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_(torch.is_grad_enabled()))
        return leaves[-1].clone()  # since a family may scale it in place

    embedding: Callable[[], nn.Module] = model.get_input_embeddings  # type: ignore[assignment]
    handle = embedding().register_forward_hook(keep)
    try:
        yield leaves
    finally:
        handle.remove()


def looks_ahead(model: PreTrainedModel) -> bool:
    """Whether a family lets the tokens of an image attend to each other, as Gemma 3 does: its forward asks for them."""
    ahead = getattr(model.config.get_text_config(decoder=True), "use_bidirectional_attention", None)
    return bool(ahead) or "token_type_ids" in inspect.signature(body(model).forward).parameters


def two_sequences(examples: Examples, tokens: int) -> Batch:
    """The shortest and the longest sequence of the data in one row, cut to `tokens` in all; where some have images,
    of these, and with their images whole."""
    parts, prompts, left, stored = [], [], tokens, examples.images
    among = np.arange(len(examples)) if stored is None else np.flatnonzero(np.diff(stored.starts))
    chosen = [int(among[choose(examples.lengths[among])]) for choose in (np.argmin, np.argmax)]
    for i, share in zip(chosen, (3, 1), strict=True):
        begin, end = examples.offsets[i], examples.offsets[i + 1]
        ids = np.asarray(examples.tokens[begin:end])
        least = 2
        if examples.image_inputs is not None:  # a token behind the last image, and one to predict from there
            least += int(np.flatnonzero(examples.image_inputs.types(ids))[-1]) + 1
        ids = ids[: max(least, left // share)]
        # Of a cut sequence the last quarter at least counts as an answer.
        prompts.append(max(1, len(ids) - ANSWERS, min(int(examples.prompts[i]), len(ids) * 3 // 4)))
        parts.append(ids)
        left -= len(ids)
    offsets = np.r_[0, np.cumsum([len(ids) for ids in parts])]
    images = None if stored is None else stored.select(chosen)
    pair = Examples(np.concatenate(parts), offsets, np.array(prompts), "", {}, images=images)
    return collate(replace(pair, image_inputs=examples.image_inputs), np.arange(2))


def limit(policy: Policy, examples: Examples, device: torch.device) -> int:
    """Tokens of both sequences: few enough to take seconds, but enough to exceed every window that the data exceed."""
    affordable = int(FLOPS[device.type] / (8 * sum(p.numel() for p in policy.parameters())))
    longest = int(examples.lengths.max())
    crossed = [n for n in thresholds(policy.model.config.get_text_config(decoder=True).to_dict()) if n < longest]
    return max([min(LONGEST, max(SHORTEST, affordable)), *(n + SHORTEST for n in crossed)])


def thresholds(config: dict[str, Any], inside: bool = False) -> list[int]:
    """Numbers of tokens in a configuration at which attention or positions change, such as a window size."""
    numbers: list[int] = []
    for key, value in config.items():
        named = inside or any(part in str(key) for part in THRESHOLDS)
        if isinstance(value, dict):
            numbers += thresholds(value, named)
        elif named and isinstance(value, int) and value > 1:
            numbers.append(value)
    return numbers
