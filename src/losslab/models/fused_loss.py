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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losslab.objectives import Context, Objective, Targets

# Logits that are held at once in the dtype of `hidden`, and in float32, twice.
ELEMENTS = {"cuda": (2**28, 2**24), "cpu": (2**26, 2**20)}


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


def _cut(length: int, size: int) -> list[slice]:
    """Nearly equal contiguous parts of at most `size`; one empty part for nothing."""
    parts = max(1, -(-length // size))
    return [slice(length * i // parts, length * (i + 1) // parts) for i in range(parts)]


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
        self.hidden, self.head, self.targets, self.reference = hidden, head, targets, reference
        if reference is not None:
            self.reference_hidden, self.reference_weight = (
                x.to(hidden.dtype) for x in (reference[0], reference[1].weight)
            )
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.weight = head.weight.to(hidden.dtype)
        (tokens, width), vocabulary = hidden.shape, len(head.weight)
        chunk_elements, block_elements = ELEMENTS["cuda" if hidden.is_cuda else "cpu"]
        self.chunks = _cut(tokens, chunk or max(1, chunk_elements // vocabulary))
        self.block = max(1, block_elements // vocabulary)
        self.tile = max(1, block_elements // width)
        rows = max((part.stop - part.start for part in self.chunks), default=0)
        both = 1 if reference is None else 2
        self.buffers = hidden.new_empty(both, rows, vocabulary)
        self.scratch = hidden.new_empty(2 * both, min(rows, self.block), vocabulary, dtype=self.dtype)
        self.logp = hidden.new_zeros(tokens, dtype=self.dtype)
        self.entropy = torch.zeros_like(self.logp)
        self.statistic = torch.zeros_like(self.logp)
        self.reference_kl = torch.zeros_like(self.logp)
        self.wanted = any(wanted)
        grad_hidden = torch.empty_like(hidden) if wanted[0] else None
        grad_weight = torch.empty_like(head.weight, dtype=self.dtype) if wanted[1] else None
        grad_bias = torch.zeros_like(head.bias, dtype=self.dtype) if wanted[2] and head.bias is not None else None
        self.gradients = [grad_hidden, grad_weight, grad_bias]

    def softmax(self, part: slice, objective: Objective | None = None) -> Tensor:
        """Writes what is known of each token of a chunk; returns its slopes (1 or 2, rows, V) with respect to logits.

        slopes[0] = d(-logp) = softmax - onehot, slopes[1] = d(reference_kl) = softmax - reference softmax.
        """
        slopes = self.buffers[:, : part.stop - part.start]
        torch.mm(self.hidden[part], self.weight.T, out=slopes[0])
        if self.reference is not None:
            torch.mm(self.reference_hidden[part], self.reference_weight.T, out=slopes[1])
        for block in _cut(slopes.shape[1], self.block):
            rows = slice(part.start + block.start, part.start + block.stop)
            x, p, *reference = self.scratch[:, : block.stop - block.start]
            largest, logsumexp = _softmax(slopes[0, block], self.head, x, p)
            target = self.targets[rows, None]
            logp = (x.gather(1, target).squeeze(1) - largest - logsumexp).clamp_(max=0)
            self.logp[rows] = logp
            self.entropy[rows] = largest - torch.linalg.vecdot(p, x) + logsumexp
            if objective is not None and objective.statistic is not None:
                self.statistic[rows] = objective.statistic(p)
            if self.reference is not None:
                y, q = reference
                reference_largest, reference_logsumexp = _softmax(slopes[1, block], self.reference[1], y, q)
                shift = largest - reference_largest + logsumexp - reference_logsumexp
                self.reference_kl[rows] = torch.linalg.vecdot(q, y.sub_(x)) + shift
                q.neg_().add_(p)
            p.scatter_(1, target, logp.expm1()[:, None])  # p - 1 at the target
            gradients = self.scratch[1::2, : block.stop - block.start]
            if self.head.softcap is not None:
                gradients *= 1 - (x / self.head.softcap).square_()
            if self.wanted:
                slopes[:, block] = gradients
        return slopes

    def accumulate(self, part: slice, slopes: Tensor, weight: Tensor, kl_weight: Tensor) -> None:
        """Adds a chunk's gradients of sum(kl_weight * reference_kl - weight * logp), both weights (rows,)."""
        if not self.wanted:
            return
        grad_hidden, grad_weight, grad_bias = self.gradients
        slope = slopes[0]
        if self.reference is not None:
            columns = torch.stack((weight, kl_weight)).to(slope.dtype)[:, :, None]
            slope.mul_(columns[0]).addcmul_(slopes[1], columns[1])
            weight = torch.ones_like(weight)
        # Row factors go on the narrow side, which saves a pass over (rows, V).
        row = weight[:, None] * self.head.scale
        if grad_hidden is not None:
            grad_hidden[part] = (slope @ self.weight) * row
        if grad_bias is not None:
            grad_bias += row[:, 0].to(slope.dtype) @ slope
        if grad_weight is not None:
            hidden = (self.hidden[part] * row).to(slope.dtype)
            first = part.start == 0  # writes in place of adding: zeros would cost a pass over (V, D) per micro-batch
            if slope.dtype == self.dtype:
                grad_weight.addmm_(slope.T, hidden, beta=0 if first else 1)
            elif grad_weight.is_cuda:
                total = grad_weight.zero_() if first else grad_weight
                torch.addmm(total, slope.T, hidden, out_dtype=self.dtype, out=total)
            else:
                # A CPU has no such product: it rounds once per chunk, and the sum over chunks is float32. By tiles of
                # the vocabulary, so that the rounded product meets its sum in cache.
                write = Tensor.copy_ if first else Tensor.add_
                for tile in _cut(len(grad_weight), self.tile):
                    write(grad_weight[tile], slope[:, tile].T @ hidden)


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
        return None, None, *(None if gradient is None else gradient.mul_(grad) for gradient in gradients)


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
