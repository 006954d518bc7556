"""The operator: hidden states, output weight and target tokens in; loss and target log-probabilities out.

It never holds the logits of all tokens. It walks over chunks of tokens, and for each takes logits, softmax, the
objective's coefficients and both gradients before the next chunk reuses the memory. This works because objectives act
on log-probabilities of target tokens: with w_t = -dloss/dlogp_t, dloss/dlogits_t = w_t (softmax_t - onehot_t).

    out = objective_loss(objective, hidden, Head(weight), targets, context)
    out.loss.backward()                                   # a SUM: divide gradients once, by the global batch
    logp = target_logprobs(hidden, Head(weight), targets) # (N,) float32, differentiable

The arithmetic runs in the dtype of `hidden`, whatever autocast says around it, so cast `hidden` to bfloat16 to get
bfloat16 products. Softmax, log-probabilities and the sum of the weight's gradient are float32 in any case.

Shapes: N answer tokens, D hidden width, V vocabulary, S sequences.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from losslab.objectives import Context, Objective, Targets

FLOAT32_LOGITS = {"cuda": 2**24, "cpu": 2**20}  # that eager code holds at once, twice


@dataclass(frozen=True)
class Head:
    """The output layer: logits = cap(scale * (hidden @ weight.T + bias)), cap(x) = softcap * tanh(x / softcap)."""

    weight: Tensor  # (V, D), unsharded; any float dtype
    bias: Tensor | None = None  # (V,)
    softcap: float | None = None  # Gemma 2
    scale: float = 1.0  # Cohere's logit_scale, 1 / Granite's logits_scaling


@dataclass(frozen=True)
class HeadOutput:
    """Loss of a micro-batch. Only `loss` carries a gradient."""

    loss: Tensor  # () float32, SUM of the terms
    terms: Tensor  # (N,) per token or (S/2,) per pair; their number is the objective's natural normaliser
    logp: Tensor  # (N,) float32 log-probability of the target
    weight: Tensor  # (N,) float32 -dloss/dlogp: 1 for SFT, p for DFT
    entropy: Tensor  # (N,) float32 entropy of the distribution, nats


def chunk_tokens(tokens: int, vocabulary: int, itemsize: int, device: str, buffers: int = 1) -> int:
    """The number of tokens whose logits, of `itemsize` bytes in each of `buffers` tensors, are held at once.

    On a GPU each chunk costs a pass over the float32 gradient of the weight, which takes as long as the products of
    some 240 tokens, whatever the shape. So chunks grow with the micro-batch, as its activations do: they take a quarter
    of its logits, but at least 1 GiB and at most 2. On a CPU they have 2^26 logits.
    """
    row = vocabulary * itemsize * buffers
    if device == "cuda":
        most, tile = min(max(tokens * row // 4, 2**30), 2**31) // row, 128
    else:
        most, tile = 2**26 // vocabulary, 1
    chunks = -(-tokens // max(1, most))
    return -(-tokens // (chunks * tile)) * tile if chunks > 1 else max(1, tokens)


def _cut(length: int, size: int) -> list[slice]:
    """Contiguous parts of `size`, the last may be shorter; one empty part for nothing."""
    return [slice(start, min(start + size, length)) for start in range(0, max(1, length), size)]


class _Walk:
    """The walk of one micro-batch over its chunks: buffers that chunks share, and the gradients that they add up."""

    def __init__(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        wanted: Sequence[bool],
        chunk: int | None,
        reference: tuple[Tensor, Head] | None = None,
    ) -> None:
        self.targets, self.wanted = targets, any(wanted)
        pairs = [(hidden, head)] if reference is None else [(hidden, head), reference]
        self.hidden = [states.to(hidden.dtype) for states, _ in pairs]  # of the policy, and of the reference
        self.heads = [each for _, each in pairs]
        self.weights = [each.weight.to(hidden.dtype) for each in self.heads]
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.kernels = _kernels(hidden.device) if self.dtype == torch.float32 else None
        tokens, vocabulary = len(hidden), len(head.weight)
        chunk = chunk or chunk_tokens(tokens, vocabulary, hidden.itemsize, hidden.device.type, len(pairs))
        self.chunks = _cut(tokens, chunk)
        self.block = max(1, FLOAT32_LOGITS["cuda" if hidden.is_cuda else "cpu"] // vocabulary)
        # Rows start at multiples of 64 elements, since matrix units and wide loads need 16 bytes.
        padded = -(-vocabulary // 64) * 64
        self.buffers = hidden.new_empty(len(pairs), min(chunk, tokens), padded)[..., :vocabulary]
        self.logp, self.entropy, self.statistic, self.reference_kl = hidden.new_zeros(4, tokens, dtype=self.dtype)
        # A sum over chunks is float32. A single product is rounded once, to what the weight has.
        once = torch.promote_types(head.weight.dtype, hidden.dtype)
        self.gradients = [
            torch.empty_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None,
            torch.empty_like(head.weight, dtype=self.dtype if len(self.chunks) > 1 else once) if wanted[1] else None,
            torch.zeros_like(head.bias, dtype=self.dtype) if wanted[2] and head.bias is not None else None,
        ]

    @cached_property
    def scratch(self) -> Tensor:
        """Logits and probabilities of a block of tokens in float32, for each head."""
        buffers, rows, vocabulary = self.buffers.shape
        return self.buffers.new_empty(2 * buffers, min(rows, self.block), vocabulary, dtype=self.dtype)

    def softmax(self, part: slice, objective: Objective | None = None) -> Tensor:
        """Writes what is known of each token of a chunk; returns its slopes (1 or 2, rows, V) with respect to logits.

        slopes[0] = d(-logp) = softmax - onehot, slopes[1] = d(reference_kl) = softmax - reference softmax. They take
        the place of the logits: whatever reads those (`Objective.statistic`) comes before.
        """
        slopes = self.buffers[:, : part.stop - part.start]
        for hidden, weight, product in zip(self.hidden, self.weights, slopes, strict=True):
            torch.mm(hidden[part], weight.T, out=product)
        statistic = None if objective is None else objective.statistic
        blocks = _cut(slopes.shape[1], self.block)
        if self.kernels is None:
            for block in blocks:
                self._eager(slopes[:, block], slice(part.start + block.start, part.start + block.stop), statistic)
            return slopes
        if statistic is not None:
            for block in blocks:
                x, p = self.scratch[:2, : block.stop - block.start]
                _softmax(slopes[0, block], self.heads[0], x, p)
                self.statistic[part][block] = statistic(p)
        results = (self.logp[part], self.entropy[part], self.reference_kl[part])
        self.kernels.softmax(slopes, self.heads, self.targets[part], results, self.wanted)
        return slopes

    def _eager(self, slopes: Tensor, rows: slice, statistic: Callable[[Tensor], Tensor] | None) -> None:
        """The same as the kernel for some tokens by the operations of torch."""
        x, p, *reference = self.scratch[:, : slopes.shape[1]]
        largest, logsumexp = _softmax(slopes[0], self.heads[0], x, p)
        target = self.targets[rows, None]
        logp = (x.gather(1, target).squeeze(1) - largest - logsumexp).clamp_(max=0)
        self.logp[rows] = logp
        self.entropy[rows] = largest - torch.linalg.vecdot(p, x) + logsumexp
        if statistic is not None:
            self.statistic[rows] = statistic(p)
        if reference:
            y, q = reference
            reference_largest, reference_logsumexp = _softmax(slopes[1], self.heads[1], y, q)
            shift = largest - reference_largest + logsumexp - reference_logsumexp
            self.reference_kl[rows] = torch.linalg.vecdot(q, y.sub_(x)) + shift
            q.neg_().add_(p)
        p.scatter_(1, target, logp.expm1()[:, None])  # p - 1 at the target
        gradients = self.scratch[1::2, : slopes.shape[1]]
        if self.heads[0].softcap is not None:
            gradients *= 1 - (x / self.heads[0].softcap).square_()
        if self.wanted:
            slopes.copy_(gradients)

    def accumulate(self, part: slice, slopes: Tensor, weight: Tensor, kl_weight: Tensor) -> None:
        """Adds a chunk's gradients of sum(kl_weight * reference_kl - weight * logp), both weights (rows,)."""
        if not self.wanted:
            return
        grad_hidden, grad_weight, grad_bias = self.gradients
        slope = slopes[0]
        if len(slopes) > 1:
            columns = torch.stack((weight, kl_weight)).to(slope.dtype)[:, :, None]
            slope.mul_(columns[0]).addcmul_(slopes[1], columns[1])
            weight = torch.ones_like(weight)
        # Row factors go on the narrow side, which saves a pass over (rows, V).
        row = weight[:, None] * self.heads[0].scale
        if grad_hidden is not None:
            torch.mm(slope, self.weights[0], out=grad_hidden[part])
            grad_hidden[part] *= row
        if grad_bias is not None:
            grad_bias += row[:, 0].to(slope.dtype) @ slope
        if grad_weight is not None:
            _add_product(grad_weight, slope.T, (self.hidden[0][part] * row).to(slope.dtype), first=part.start == 0)


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total (V, D) += a (V, rows) @ b (rows, D). The first writes: zeros would cost a pass over (V, D)."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=0 if first else 1)
    elif not _has_float32_products(a.device, a.dtype):
        # Rounded once per chunk. By tiles of the vocabulary, so that the product meets its sum in cache.
        write = Tensor.copy_ if first else Tensor.add_
        for tile in _cut(len(total), max(1, FLOAT32_LOGITS["cuda" if a.is_cuda else "cpu"] // total.shape[1])):
            write(total[tile], a[tile] @ b)
    elif first:
        torch.mm(a, b, out_dtype=total.dtype, out=total)
    else:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)


@cache
def _has_float32_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of `dtype` can leave the matrix unit as float32: on CUDA, neither on ROCm nor on a CPU."""
    x = torch.zeros(16, 16, device=device, dtype=dtype)
    try:
        torch.addmm(x.float(), x, x, out_dtype=torch.float32)
    except RuntimeError:
        return False
    return True


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    """The Triton kernels, on the GPUs that they are written for: CUDA from compute capability 8.0, and ROCm."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8:
        return None
    return import_module("losslab.models.fused_loss_triton") if importlib.util.find_spec("triton") else None


def _softmax(product: Tensor, head: Head, logits: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Writes float32 logits and probabilities (rows, V) from the product hidden @ weight.T.

    Returns the largest logit (rows,) and the logsumexp (rows,) of the logits less the largest.
    """
    logits.copy_(product)
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1:
        logits *= head.scale
    if head.softcap is not None:
        logits.div_(head.softcap).tanh_().mul_(head.softcap)
    torch.softmax(logits, -1, out=probabilities)
    return logits.amax(-1), -probabilities.amax(-1).log()  # as exp(0) / sum is the largest probability


class _Attach(torch.autograd.Function):
    """The identity on a scalar whose gradients are already known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *inputs: Tensor | None) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        # Scaled in place and let go, so that autograd takes over the (V, D) memory in place of a copy.
        assert ctx.gradients is not None, "the loss of a micro-batch can be differentiated once"
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if gradient is None else _scaled(gradient, grad) for gradient in gradients)


def _scaled(values: Tensor, factor: Tensor) -> Tensor:
    """`values` times a scalar, in place; without a pass over them where it is 1, as it is in `loss.backward()`."""
    kernels = _kernels(values.device)
    if kernels is not None:
        kernels.scale(values, factor)  # which reads the factor on the device: the host does not wait for it
    elif values.is_cuda or factor != 1:
        values *= factor
    return values


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, targets: Tensor, chunk: int | None
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.softcap, ctx.scale, ctx.chunk = head.softcap, head.scale, chunk
        with torch.autocast(hidden.device.type, enabled=False):
            walk = _Walk(hidden, head, targets, (False, False, False), chunk)
            for part in walk.chunks:
                walk.softmax(part)
        return walk.logp

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, bias, targets = ctx.saved_tensors
        head = Head(weight, bias, ctx.softcap, ctx.scale)
        with torch.autocast(hidden.device.type, enabled=False):
            walk = _Walk(hidden, head, targets, ctx.needs_input_grad[:3], ctx.chunk)
            for part in walk.chunks:
                walk.accumulate(part, walk.softmax(part), -grad[part], walk.reference_kl[part])
        grad_hidden, grad_weight, grad_bias = walk.gradients
        return grad_hidden, grad_weight, grad_bias, None, None, None


def target_logprobs(hidden: Tensor, head: Head, targets: Tensor, *, chunk: int | None = None) -> Tensor:
    """Log-probabilities (N,) float32 of `targets` (N,) int64 under `hidden` (N, D); backward recomputes the logits.

    `chunk` is the number of tokens whose logits are held at once; by default as many as fit a fixed amount of memory.
    """
    return _TargetLogprobs.apply(hidden, head.weight, head.bias, head, targets, chunk)


def objective_loss(
    objective: Objective,
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    context: Context,
    *,
    reference: tuple[Tensor, Head] | None = None,
    chunk: int | None = None,
) -> HeadOutput:
    """The loss of `objective` over `targets` (N,) int64, with `hidden` (N, D), and what the step's diagnostics read.

    Gradients are taken here, in the forward pass, and `out.loss.backward()` hands them on, once. Objectives that act
    token by token take one product (rows, D) x (D, V) for the logits and two for the gradients; those of scope
    "sequence" take the logits twice where a micro-batch does not fit one chunk. `reference` is the frozen model's own
    hidden states and head, for an objective that needs its distribution. `chunk` as in `target_logprobs`.
    """
    inputs = (hidden, head.weight, head.bias)
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs]
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        walk = _Walk(hidden, head, targets, wanted, chunk, reference)
        if objective.scope == "sequence" and len(walk.chunks) > 1:
            for part in walk.chunks:
                walk.softmax(part, objective)
            terms, weight, kl_weight = _terms(objective, context, walk, slice(None))
            for part in walk.chunks:
                walk.accumulate(part, walk.softmax(part), weight[part], kl_weight[part])
        else:
            pieces = []
            for part in walk.chunks:
                slopes = walk.softmax(part, objective)
                pieces.append(_terms(objective, context.tokens(part), walk, part))
                walk.accumulate(part, slopes, *pieces[-1][1:])
            terms, weight, _ = (torch.cat(column) for column in zip(*pieces, strict=True))
        loss = terms.sum()
    if any(wanted):
        loss = _Attach.apply(loss, walk.gradients, *inputs)
    return HeadOutput(loss, terms, walk.logp, weight, walk.entropy)


def _terms(objective: Objective, context: Context, walk: _Walk, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of some tokens, and the derivatives of their sum: -d/dlogp and d/dreference_kl of each token."""
    logp, kl = (values[part].detach().requires_grad_() for values in (walk.logp, walk.reference_kl))
    with torch.enable_grad():
        t = Targets(**vars(context), logp=logp, statistic=walk.statistic[part], reference_kl=kl)
        terms = objective.loss(t)
        slope, kl_slope = torch.autograd.grad(terms.sum(), (logp, kl), materialize_grads=True)
    return terms.detach(), -slope, kl_slope
