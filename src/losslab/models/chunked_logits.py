"""The logits of a micro-batch, one chunk of tokens after another: softmax, what a loss reads of it, and gradients.

On a GPU the passes over a chunk's logits are one Triton kernel (`fused_loss_triton`), elsewhere operations of torch by
blocks that fit a cache. The products hidden @ weight.T and those of the gradients are the library's in both cases.

Shapes: N answer tokens, D hidden width, V vocabulary, rows: tokens of a chunk.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from losslab.models.chunk_size import FLOAT32_ELEMENTS, chunk_tokens
from losslab.objectives import Objective


@dataclass(frozen=True)
class Head:
    """The output layer: logits = cap(scale * (hidden @ weight.T + bias)), cap(x) = softcap * tanh(x / softcap)."""

    weight: Tensor  # (V, D), unsharded; any float dtype
    bias: Tensor | None = None  # (V,)
    softcap: float | None = None  # Gemma 2
    scale: float = 1.0  # Cohere's logit_scale, 1 / Granite's logits_scaling


class ChunkedLogits:
    """Buffers that the chunks of a micro-batch share, what is known of its tokens, and the gradients that add up."""

    def __init__(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        wanted: Sequence[bool],  # which gradients: of hidden, weight, bias
        chunk: int | None,
        reference: tuple[Tensor, Head] | None = None,
    ) -> None:
        pairs = [(hidden, head)] if reference is None else [(hidden, head), reference]
        self.hidden = [states.to(hidden.dtype) for states, _ in pairs]  # of the policy, and of the reference
        self.heads = [each for _, each in pairs]
        self.weights = [each.weight.to(hidden.dtype) for each in self.heads]
        self.targets, self.wanted = targets, any(wanted)
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.kernels = kernels(hidden.device) if self.dtype == torch.float32 else None
        tokens, vocabulary = len(hidden), len(head.weight)
        chunk = chunk or chunk_tokens(tokens, vocabulary, hidden.itemsize, hidden.device.type, len(pairs))
        self.chunks = _cut(tokens, chunk)
        self.block = _elements(hidden) // vocabulary or 1
        # For the kernel rows start at multiples of 64 elements: matrix units and wide loads need 16 bytes.
        padded = vocabulary if self.kernels is None else -(-vocabulary // 64) * 64
        self.buffers = hidden.new_empty(len(pairs), min(chunk, tokens), padded)[..., :vocabulary]
        self.logp, self.entropy, self.statistic, self.reference_kl = hidden.new_zeros(4, tokens, dtype=self.dtype)
        # A sum over chunks is float32. What is one product is rounded once, to the dtype of the weight.
        once = torch.promote_types(head.weight.dtype, hidden.dtype)
        self.gradients = (
            torch.empty_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None,
            torch.empty_like(head.weight, dtype=self.dtype if len(self.chunks) > 1 else once) if wanted[1] else None,
            torch.zeros_like(head.bias, dtype=self.dtype) if wanted[2] and head.bias is not None else None,
        )

    @cached_property
    def scratch(self) -> Tensor:
        """Logits and probabilities of a block of tokens in float32, for each head."""
        buffers, rows, vocabulary = self.buffers.shape
        return self.buffers.new_empty(2 * buffers, min(rows, self.block), vocabulary, dtype=self.dtype)

    def softmax(self, part: slice, objective: Objective | None = None, *, slopes: bool = True) -> Tensor:
        """Writes what is known of each token of a chunk; returns its slopes (1 or 2, rows, V) with respect to logits.

        The first are d(-logp) = softmax - onehot, the second d(reference_kl) = softmax - reference softmax. They take
        the place of the logits, so whatever else reads those, as `Objective.statistic`, comes before.
        """
        logits = self.buffers[:, : part.stop - part.start]
        for hidden, weight, product in zip(self.hidden, self.weights, logits, strict=True):
            torch.mm(hidden[part], weight.T, out=product)
        statistic = None if objective is None else objective.statistic
        blocks = _cut(logits.shape[1], self.block)
        slopes = slopes and self.wanted
        if self.kernels is None:
            for block in blocks:
                rows = slice(part.start + block.start, part.start + block.stop)
                self._softmax(logits[:, block], rows, statistic, slopes)
            return logits
        if statistic is not None:
            for block in blocks:
                x, p = self.scratch[:2, : block.stop - block.start]
                _probabilities(logits[0, block], self.heads[0], x, p)
                self.statistic[part][block] = statistic(p)
        results = (self.logp[part], self.entropy[part], self.reference_kl[part])
        self.kernels.softmax(logits, self.heads, self.targets[part], results, slopes)
        return logits

    def _softmax(self, logits: Tensor, rows: slice, statistic: Callable[[Tensor], Tensor] | None, slopes: bool) -> None:
        """What the kernel does, by operations of torch, and the statistic: for a block of tokens."""
        x, p, *reference = self.scratch[:, : logits.shape[1]]
        largest, logsumexp = _probabilities(logits[0], self.heads[0], x, p)
        target = self.targets[rows, None]
        logp = (x.gather(1, target).squeeze(1) - largest - logsumexp).clamp_(max=0)
        self.logp[rows] = logp
        self.entropy[rows] = largest - torch.linalg.vecdot(p, x) + logsumexp
        if statistic is not None:
            self.statistic[rows] = statistic(p)
        if reference:
            y, q = reference
            reference_largest, reference_logsumexp = _probabilities(logits[1], self.heads[1], y, q)
            shift = largest - reference_largest + logsumexp - reference_logsumexp
            self.reference_kl[rows] = torch.linalg.vecdot(q, y.sub_(x)) + shift
            q.neg_().add_(p)
        if slopes:
            p.scatter_(1, target, logp.expm1()[:, None])  # p - 1 at the target
            gradients = self.scratch[1::2, : logits.shape[1]]
            if self.heads[0].softcap is not None:
                gradients *= 1 - (x / self.heads[0].softcap).square_()
            logits.copy_(gradients)

    def add_gradients(self, part: slice, slopes: Tensor, weight: Tensor, kl_weight: Tensor) -> None:
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


def _probabilities(product: Tensor, head: Head, logits: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
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


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total (V, D) += a (V, rows) @ b (rows, D). The first writes: zeros would cost a pass over (V, D)."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=0 if first else 1)
    elif not has_float32_products(a.device, a.dtype):
        # Rounded once per chunk. By tiles of the vocabulary, so that the product meets its sum in cache.
        write = Tensor.copy_ if first else Tensor.add_
        for tile in _cut(len(total), _elements(a) // total.shape[1] or 1):
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
def kernels(device: torch.device) -> ModuleType | None:
    """The Triton kernels, for the GPUs that have what they need: ROCm, and CUDA from compute capability 8.0."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8:
        return None
    return import_module("losslab.models.fused_loss_triton") if importlib.util.find_spec("triton") else None


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


def _elements(values: Tensor) -> int:
    return FLOAT32_ELEMENTS["cuda" if values.is_cuda else "cpu"]
