"""The logits of a micro-batch, one chunk of tokens after another: softmax, what a loss reads of it, and gradients.

On a GPU the passes over a chunk's logits are one Triton kernel (`fused_loss_triton`), elsewhere operations of torch by
blocks that fit a cache. The products hidden @ weight.T and those of the gradients are the library's in both cases.

Shapes: N answer tokens, D hidden width, V vocabulary, rows: tokens of a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from losslab.models.chunk_size import FLOAT32_ELEMENTS, chunk_tokens
from losslab.models.cpu_products import computes_in_float32, operand
from losslab.models.kernels import kernels
from losslab.objectives import Distributions, Objective
from losslab.objectives.results import row_term_of, statistic_of


@dataclass(frozen=True)
class Head:
    """The output layer: logits = cap(scale * (hidden @ weight.T + bias)), cap(x) = softcap * tanh(x / softcap)."""

    weight: Tensor  # (V, D), unsharded; any float dtype
    bias: Tensor | None = None  # (V,)
    softcap: float | None = None  # Gemma 2
    scale: float = 1.0  # Cohere's logit_scale, 1 / Granite's logits_scaling


@dataclass(frozen=True)
class LazyLogits:
    """The logits (N, V) of a model's answer tokens, as what they are computed from."""

    hidden: Tensor  # (N, D)
    head: Head


class ChunkedLogits:
    """Buffers shared by the chunks of a micro-batch, the results of its tokens, and the accumulated gradients."""

    def __init__(
        self,
        logits: Sequence[LazyLogits],  # of the policy, and of the reference where there is one
        targets: Tensor,
        wanted: Sequence[bool],  # which gradients of the policy: of hidden, weight, bias
        chunk: int | None,
        row_term: bool = False,  # whether the slopes of an objective's row term are wanted too
        reference_top: tuple[Tensor, Tensor] | None = None,  # (N, k) what a row term reads of the reference
    ) -> None:
        hidden, head = logits[0].hidden, logits[0].head
        self.rounded = hidden.dtype  # of the logits
        # Converted here once: products of bfloat16 would convert the weight for each chunk.
        held = torch.float32 if computes_in_float32(hidden) else hidden.dtype
        self.hidden = [operand(each.hidden, hidden.dtype) for each in logits]
        self.heads = [each.head for each in logits]
        self.weights = [operand(each.weight, hidden.dtype) for each in self.heads]
        self.targets, self.wanted, self.reference_top = targets, any(wanted), reference_top
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.kernels = kernels(hidden.device) if self.dtype == torch.float32 else None
        tokens, vocabulary = len(hidden), len(head.weight)
        chunk = chunk or chunk_tokens(tokens, vocabulary, hidden.itemsize, hidden.device.type, len(logits) + row_term)
        self.chunks = _cut(tokens, chunk)
        self.block = _elements(hidden) // vocabulary or 1
        # For the kernel rows start at multiples of 64 elements: matrix units and wide loads need 16 bytes.
        padded = vocabulary if self.kernels is None else -(-vocabulary // 64) * 64
        shape = (len(logits) + row_term, min(chunk, tokens), padded)
        self.buffers = hidden.new_empty(shape, dtype=held)[..., :vocabulary]
        self.logp, self.entropy, self.statistic, self.reference_kl, self.row_term = hidden.new_zeros(
            5, tokens, dtype=self.dtype
        )
        # Which of the derivatives with respect to logp, reference_kl and row_term have slopes.
        self.sloped = [0, *([1] if len(logits) > 1 else []), *([2] if row_term else [])]
        # A gradient that is summed over several chunks is float32; one that a single product computes is rounded once,
        # to the dtype of the weight.
        once = torch.promote_types(head.weight.dtype, held)
        self.gradients = (
            torch.empty_like(hidden, dtype=held, memory_format=torch.contiguous_format) if wanted[0] else None,
            torch.empty_like(head.weight, dtype=self.dtype if len(self.chunks) > 1 else once) if wanted[1] else None,
            torch.zeros_like(head.bias, dtype=self.dtype) if wanted[2] and head.bias is not None else None,
        )

    @cached_property
    def scratch(self) -> Tensor:
        """Logits and probabilities of a block of tokens in float32, for each head."""
        _, rows, vocabulary = self.buffers.shape
        return self.buffers.new_empty(2 * len(self.heads), min(rows, self.block), vocabulary, dtype=self.dtype)

    def softmax(self, part: slice, objective: Objective | None = None, *, slopes: bool = True) -> Tensor:
        """Write the results of each token of a chunk; return its slopes (1 to 3, rows, V) with respect to logits.

        The first are d(-logp) = softmax - onehot; then come d(reference_kl) = softmax - reference softmax, and those of
        the objective's row term. They overwrite the logits, so whatever else reads the logits has to come before.
        """
        buffers = self.buffers[:, : part.stop - part.start]
        logits = buffers[: len(self.heads)]
        for hidden, weight, product in zip(self.hidden, self.weights, logits, strict=True):
            torch.mm(hidden[part], weight.T, out=product)
        slopes = slopes and self.wanted
        reads = objective is not None and not (objective.statistic is None and objective.row_term is None)
        for block in _cut(logits.shape[1], self.block) if reads or self.kernels is None else []:
            rows = slice(part.start + block.start, part.start + block.stop)
            seen = self._distributions(logits[:, block])
            if reads:
                assert objective is not None
                self._read(objective, rows, seen, buffers[-1, block] if slopes else None)
            if self.kernels is None:
                self._softmax(logits[:, block], rows, seen, slopes)
        if self.kernels is not None:
            results = (self.logp[part], self.entropy[part], self.reference_kl[part])
            self.kernels.softmax(logits, self.heads, self.targets[part], results, slopes)
        return buffers

    def top(self, part: slice, k: int) -> tuple[Tensor, Tensor]:
        """(rows, k) the largest log-probabilities of a chunk's tokens, descending, and (rows, k) int64 their tokens."""
        logits = self.buffers[:1, : part.stop - part.start]
        torch.mm(self.hidden[0][part], self.weights[0].T, out=logits[0])
        blocks = [
            self._distributions(logits[:, block])[0].logp().topk(k) for block in _cut(logits.shape[1], self.block)
        ]
        return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])

    def _distributions(self, logits: Tensor) -> "list[_Distribution]":
        """The distributions of a block of tokens, for each head, in `scratch`."""
        scratch = self.scratch[:, : logits.shape[1]].unflatten(0, (-1, 2))
        rounded = logits.to(self.rounded)
        return [_Distribution.of(*each) for each in zip(rounded, self.heads, scratch, strict=True)]

    def _read(self, objective: Objective, rows: slice, seen: "Sequence[_Distribution]", slope: Tensor | None) -> None:
        """What an objective reads of whole distributions, for a block of tokens.

        If `slope` is given, writes the gradient of the row term into it: with g = d/dlogp and s = d/dlogsumexp,
        g + p (s - sum(g)) with respect to the logits, times the derivative of the soft cap, if there is one.
        """
        policy, *reference = seen
        if objective.statistic is not None:
            self.statistic[rows] = statistic_of(objective, policy.probabilities)
        if objective.row_term is None:
            return
        with torch.set_grad_enabled(slope is not None):
            logp, logsumexp = (x.requires_grad_(slope is not None) for x in (policy.logp(), policy.logsumexp()))
            reference_logp = reference[0].logp() if reference else None
            top = None if self.reference_top is None else (self.reference_top[0][rows], self.reference_top[1][rows])
            read = Distributions(
                logp=logp,
                logsumexp=logsumexp,
                target=self.targets[rows],
                reference_logp=reference_logp,
                reference_top=top,
            )
            term = row_term_of(objective, read)
        self.row_term[rows] = term.detach()
        if slope is not None:
            ones = torch.ones_like(term)
            by_logp, by_total = torch.autograd.grad(term, (logp, logsumexp), ones, materialize_grads=True)
            gradient = torch.addcmul(by_logp, policy.probabilities, (by_total - by_logp.sum(-1))[:, None])
            if self.heads[0].softcap is not None:
                gradient *= 1 - (policy.logits / self.heads[0].softcap).square_()
            slope.copy_(gradient)

    def _softmax(self, logits: Tensor, rows: slice, seen: "Sequence[_Distribution]", slopes: bool) -> None:
        """What the kernel does, by operations of torch, for a block of tokens; `seen` is overwritten."""
        policy, *reference = seen
        x, p = policy.logits, policy.probabilities
        target = self.targets[rows, None]
        logp = (x.gather(1, target).squeeze(1) - policy.largest - policy.rest).clamp_(max=0)
        self.logp[rows] = logp
        self.entropy[rows] = policy.largest - torch.linalg.vecdot(p, x) + policy.rest
        if reference:
            y, q = reference[0].logits, reference[0].probabilities
            shift = policy.largest - reference[0].largest + policy.rest - reference[0].rest
            self.reference_kl[rows] = torch.linalg.vecdot(q, y.sub_(x)) + shift
            q.neg_().add_(p)
        if slopes:
            p.scatter_(1, target, logp.expm1()[:, None])  # p - 1 at the target
            gradients = self.scratch[1::2, : logits.shape[1]]
            if self.heads[0].softcap is not None:
                gradients *= 1 - (x / self.heads[0].softcap).square_()
            logits.copy_(gradients)

    def add_gradients(self, part: slice, slopes: Tensor, weights: Tensor) -> None:
        """Adds a chunk's gradients of the sum of -logp, reference_kl and row_term, each times its weights (3, rows)."""
        if not self.wanted:
            return
        grad_hidden, grad_weight, grad_bias = self.gradients
        slope, weight = slopes[0], weights[0]
        if len(slopes) > 1:
            # One by one: a list as an index would be copied to the device, for which the host waits.
            columns = [weights[i, :, None].to(slope.dtype) for i in self.sloped]
            slope.mul_(columns[0])
            for other, column in zip(slopes[1:], columns[1:], strict=True):
                slope.addcmul_(other, column)
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


@dataclass(frozen=True)
class _Distribution:
    """Distributions of a block of tokens under one head, float32: logits and probabilities (rows, V)."""

    logits: Tensor
    probabilities: Tensor
    largest: Tensor  # (rows,) of the logits
    rest: Tensor  # (rows,) logsumexp of the logits less the largest

    @classmethod
    def of(cls, product: Tensor, head: Head, scratch: Tensor) -> "_Distribution":
        """From the product hidden @ weight.T (rows, V), in the place of `scratch` (2, rows, V)."""
        logits, probabilities = scratch
        logits.copy_(product)
        if head.bias is not None:
            logits += head.bias
        if head.scale != 1:
            logits *= head.scale
        if head.softcap is not None:
            logits.div_(head.softcap).tanh_().mul_(head.softcap)
        torch.softmax(logits, -1, out=probabilities)
        # as exp(0) / sum is the largest probability
        return cls(logits, probabilities, logits.amax(-1), -probabilities.amax(-1).log())

    def logsumexp(self) -> Tensor:
        """(rows,) of the logits."""
        return self.largest + self.rest

    def logp(self) -> Tensor:
        """(rows, V) log-probabilities."""
        return self.logits - self.logsumexp()[:, None]


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total (V, D) += a (V, rows) @ b (rows, D). The first writes: zeros would cost a pass over (V, D)."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=0 if first else 1)
    elif not has_float32_products(a.device, a.dtype):
        # Rounded once per chunk. By tiles of the vocabulary, so that the product meets its sum in cache.
        write = Tensor.copy_ if first else Tensor.add_
        for tile in _cut(len(total), _tile(total)):
            write(total[tile], a[tile] @ b)
    elif first:
        torch.mm(a, b, out_dtype=total.dtype, out=total)
    else:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)


def scaled(values: Tensor, factor: Tensor) -> Tensor:
    """`values` times a scalar, in place; without a pass over them where it is 1, as it is in `loss.backward()`."""
    if (module := kernels(values.device)) is not None:
        module.scale(values, factor)  # which reads the factor on the device: the host does not wait for it
    elif values.is_cuda or factor != 1:
        values *= factor
    return values


@cache
def has_float32_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a product of `dtype` can be added in float32 without being rounded: on CUDA, not on ROCm or a CPU."""
    x = torch.zeros(16, 16, device=device, dtype=dtype)
    try:
        torch.addmm(x.float(), x, x, out_dtype=torch.float32)
    except RuntimeError:
        return False
    return True


def _cut(length: int, size: int) -> list[slice]:
    """Contiguous parts of `size`, the last may be shorter; one empty part for nothing."""
    return [slice(start, min(start + size, length)) for start in range(0, max(1, length), size)]


def _tile(weight: Tensor) -> int:
    """Rows of a weight (V, D) that fit a cache in float32."""
    return _elements(weight) // weight.shape[1] or 1


def _elements(values: Tensor) -> int:
    return FLOAT32_ELEMENTS["cuda" if values.is_cuda else "cpu"]
