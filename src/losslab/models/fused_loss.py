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

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losslab.models.chunked_logits import ChunkedLogits, Head, LazyLogits, scaled
from losslab.objectives import Context, Objective, Targets
from losslab.objectives.results import metrics_of, terms_of


@dataclass(frozen=True)
class HeadOutput:
    """Loss of a micro-batch. Only `loss` carries a gradient."""

    loss: Tensor  # () float32, SUM of the terms
    terms: Tensor  # (N,) per token, (S,) or (S/2,) per pair; their number is the objective's natural normaliser
    logp: Tensor  # (N,) float32 log-probability of the target
    weight: Tensor  # (N,) float32 -dloss/dlogp: 1 for SFT, p for DFT
    entropy: Tensor  # (N,) float32 entropy of the distribution, nats
    metrics: Tensor  # (M, N) float32, what the objective measures of each token


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
        return None, None, *(None if gradient is None else scaled(gradient, grad) for gradient in gradients)


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, targets: Tensor, chunk: int | None
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.softcap, ctx.scale, ctx.chunk = head.softcap, head.scale, chunk
        with torch.autocast(hidden.device.type, enabled=False):
            logits = ChunkedLogits([LazyLogits(hidden, head)], targets, (False, False, False), chunk)
            for part in logits.chunks:
                logits.softmax(part)
        return logits.logp

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, bias, targets = ctx.saved_tensors
        head = Head(weight, bias, ctx.softcap, ctx.scale)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = ChunkedLogits([LazyLogits(hidden, head)], targets, ctx.needs_input_grad[:3], ctx.chunk)
            for part in logits.chunks:
                logits.add_gradients(part, logits.softmax(part), -grad[None, part])
        grad_hidden, grad_weight, grad_bias = logits.gradients
        return grad_hidden, grad_weight, grad_bias, None, None, None


def target_logprobs(hidden: Tensor, head: Head, targets: Tensor, *, chunk: int | None = None) -> Tensor:
    """Log-probabilities (N,) float32 of `targets` (N,) int64 under `hidden` (N, D); backward recomputes the logits.

    `chunk` is the number of tokens whose logits are held at once; by default as many as fit a fixed amount of memory.
    """
    return _TargetLogprobs.apply(hidden, head.weight, head.bias, head, targets, chunk)


@torch.no_grad()
def top_logprobs(hidden: Tensor, head: Head, k: int) -> tuple[Tensor, Tensor]:
    """(N, k) float32 the largest log-probabilities under `hidden` (N, D), descending, and (N, k) int64 their tokens."""
    with torch.autocast(hidden.device.type, enabled=False):
        none = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
        logits = ChunkedLogits([LazyLogits(hidden, head)], none, (False, False, False), None)
        values, tokens = zip(*(logits.top(part, k) for part in logits.chunks), strict=True)
    return torch.cat(values), torch.cat(tokens)


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

    Gradients are computed here, in the forward pass; `out.loss.backward()` passes them on, once. Objectives that act
    token by token take one product (rows, D) x (D, V) for the logits and two for the gradients; those of scope
    "sequence" take the logits twice where a micro-batch does not fit one chunk. `reference` is the frozen model's own
    hidden states and head, for an objective that needs its distribution. The row term is differentiated together with
    the softmax, block by block; its gradient with respect to the logits is held for one chunk at a time. `chunk` as in
    `target_logprobs`. Raises ValueError, with one sentence, where a method of the objective does not return what its
    class declares, or reads what it does not.
    """
    inputs = (hidden, head.weight, head.bias)
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs]
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        row_term = objective.row_term is not None
        logp, token = context.reference_top_logp, context.reference_top_token
        top = None if logp is None or token is None else (logp, token)
        pairs = [(hidden, head)] if reference is None else [(hidden, head), reference]
        logits = ChunkedLogits([LazyLogits(*pair) for pair in pairs], targets, wanted, chunk, row_term, top)
        if objective.scope == "sequence" and len(logits.chunks) > 1:
            for part in logits.chunks:
                logits.softmax(part, objective, slopes=False)
            terms, weights, metrics = _terms(objective, context, logits, slice(None))
            for part in logits.chunks:
                slopes = logits.softmax(part, objective if row_term else None)
                logits.add_gradients(part, slopes, weights[:, part])
        else:
            pieces = []
            for part in logits.chunks:
                slopes = logits.softmax(part, objective)
                pieces.append(_terms(objective, context.tokens(part), logits, part))
                logits.add_gradients(part, slopes, pieces[-1][1])
            terms, weights, metrics = (torch.cat(column, -1) for column in zip(*pieces, strict=True))
        loss = terms.sum()
    if any(wanted):
        loss = _Attach.apply(loss, logits.gradients, *inputs)
    return HeadOutput(loss, terms, logits.logp, weights[0], logits.entropy, metrics)


def _terms(objective: Objective, context: Context, logits: ChunkedLogits, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of some tokens; the derivatives of their sum, by -logp, reference_kl and row_term (3, N); metrics."""
    leaves = [values[part].detach().requires_grad_() for values in (logits.logp, logits.reference_kl, logits.row_term)]
    logp, reference_kl, row_term = leaves
    declared = dict[str, Tensor]()
    if objective.statistic is not None:
        declared["statistic"] = logits.statistic[part]
    if len(logits.heads) > 1:
        declared["reference_kl"] = reference_kl
    if objective.row_term is not None:
        declared["row_term"] = row_term
    t = Targets(**vars(context), logp=logp, entropy=logits.entropy[part], scope=objective.scope, declared=declared)
    with torch.enable_grad():
        terms = terms_of(objective, t)
        slope, *others = torch.autograd.grad(terms.sum(), leaves, materialize_grads=True)
    metrics = metrics_of(objective, t)
    empty = slope.new_empty(0, len(slope))
    return terms.detach(), torch.stack((-slope, *others)), torch.stack(metrics) if metrics else empty
