"""Triton kernels of the fused loss: one launch for the rows of a chunk, instead of some eighteen eager passes.

A program processes one row of logits, as the matrix product wrote it. It reads the row once for the quantities that the
objective and the diagnostics need (log-probability of the target, entropy, KL from a reference), and a second time to
overwrite it with the gradient softmax - onehot. The second pass runs backwards, since the end of the row is still in
the L2 cache.

All sums are float32. A block of a row is read as lanes of LANE logits, each with its own running maximum and sums, so
that threads synchronise once per row. Logits are in bits (logit * log2 e), since the hardware computes powers of 2.
Work that concerns few blocks (the end of the row, the target) is in a branch that all threads of a program take
together.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from losslab.models.chunked_logits import Head

LN2 = tl.constexpr(math.log(2))
LOWEST = tl.constexpr(-1e30)  # stands for -inf, whose differences are NaN


@triton.jit
def _bits(product, bias, at, inside, scale, softcap):  # type: ignore[no-untyped-def]
    """Logits in bits from products, and their derivatives with respect to the products except for the scale."""
    z = product.to(tl.float32)
    if bias is not None:
        z += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    z *= scale
    derivative = 1.0
    if softcap is not None:
        tanh = 1 - 2 / (1 + tl.exp2(z * (2 / LN2 / softcap)))
        z = softcap * tanh
        derivative = 1 - tanh * tanh
    return z, derivative


@triton.jit
def _block(row, start, places, stride, vocabulary, bias, scale, softcap, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A block of a row in bits, and the derivatives; `stride` is a multiple of 16, so that loads are wide."""
    at = start + places
    z, derivative = _bits(tl.load(row + at, mask=at < stride, other=0.0), bias, at, at < vocabulary, scale, softcap)
    if start + BLOCK > vocabulary:
        z = tl.where(at < vocabulary, z, LOWEST)
    return z, derivative


@triton.jit
def rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (rows, V) products of the policy, overwritten by d(-logp)
    x_bias,  # (V,) or None
    x_scale,  # of a product in bits
    x_softcap,  # in bits, or None
    y_ptr,  # (rows, V) products of the reference or None, overwritten by d(kl) with respect to the policy's logits
    y_bias,
    y_scale,
    y_softcap,
    target_ptr,  # (rows,)
    logp_ptr,
    entropy_ptr,
    kl_ptr,
    stride,  # elements from row to row
    vocabulary,
    SLOPES: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
):
    LANES: tl.constexpr = BLOCK // LANE
    row = tl.program_id(0).to(tl.int64)
    x_row = x_ptr + row * stride
    target = tl.load(target_ptr + row)
    exists = (target >= 0) & (target < vocabulary)
    target = target.to(tl.int32)
    product = tl.load(x_row + target, mask=exists, other=float("nan"))  # before it is overwritten
    aim, aim_derivative = _bits(product, x_bias, target, exists, x_scale, x_softcap)

    places = tl.arange(0, LANES)[:, None] * LANE + tl.arange(0, LANE)[None, :]
    largest = tl.full([LANES], LOWEST, tl.float32)
    total = tl.full([LANES], 0.0, tl.float32)  # sum of 2^(x - largest)
    spread = tl.full([LANES], 0.0, tl.float32)  # sum of 2^(x - largest) (x - largest)
    if y_ptr is not None:
        y_row = y_ptr + row * stride
        y_largest = tl.full([LANES], LOWEST, tl.float32)
        y_total = tl.full([LANES], 0.0, tl.float32)
        excess = tl.full([LANES], 0.0, tl.float32)  # sum of 2^(y - y_largest) (y - x)

    blocks = (vocabulary + BLOCK - 1) // BLOCK
    for block in range(blocks):
        x, derivative = _block(x_row, block * BLOCK, places, stride, vocabulary, x_bias, x_scale, x_softcap, BLOCK)
        higher = tl.maximum(largest, tl.max(x, 1))
        rise = largest - higher
        below = x - higher[:, None]
        e = tl.exp2(below)
        keep = tl.exp2(rise)
        spread = keep * (spread + rise * total) + tl.sum(e * below, 1)
        total = keep * total + tl.sum(e, 1)
        largest = higher
        if y_ptr is not None:
            y, y_derivative = _block(
                y_row, block * BLOCK, places, stride, vocabulary, y_bias, y_scale, y_softcap, BLOCK
            )
            y_higher = tl.maximum(y_largest, tl.max(y, 1))
            e = tl.exp2(y - y_higher[:, None])
            keep = tl.exp2(y_largest - y_higher)
            excess = keep * excess + tl.sum(e * (y - x), 1)
            y_total = keep * y_total + tl.sum(e, 1)
            y_largest = y_higher

    highest = tl.max(largest, 0)
    rise = largest - highest
    keep = tl.exp2(rise)
    whole = tl.sum(keep * total, 0)
    logp = (aim - highest) * LN2 - tl.log(whole)
    logp = tl.where(logp > 0, 0.0, logp)  # tl.minimum would drop a NaN
    tl.store(logp_ptr + row, logp)
    tl.store(entropy_ptr + row, tl.log(whole) - tl.sum(keep * (spread + rise * total), 0) / whole * LN2)
    if y_ptr is not None:
        y_highest = tl.max(y_largest, 0)
        keep = tl.exp2(y_largest - y_highest)
        y_whole = tl.sum(keep * y_total, 0)
        kl = (tl.sum(keep * excess, 0) / y_whole + (highest - y_highest)) * LN2 + tl.log(whole) - tl.log(y_whole)
        tl.store(kl_ptr + row, kl)

    if SLOPES:
        # p - 1, without the cancellation where p is near 1.
        missing = tl.where(logp > -0.01, logp * (1 + logp * (0.5 + logp / 6)), tl.exp(logp) - 1)
        share = 1 / whole
        for turn in range(blocks):
            start = (blocks - 1 - turn) * BLOCK
            at = start + places
            x, derivative = _block(x_row, start, places, stride, vocabulary, x_bias, x_scale, x_softcap, BLOCK)
            p = tl.exp2(x - highest) * share
            if y_ptr is not None:
                y, y_derivative = _block(y_row, start, places, stride, vocabulary, y_bias, y_scale, y_softcap, BLOCK)
                difference = (p - tl.exp2(y - y_highest) / y_whole) * derivative
                tl.store(y_row + at, difference.to(y_ptr.dtype.element_ty), mask=at < stride)
            if (target >= start) & (target < start + BLOCK):
                p = tl.where(at == target, missing, p)
            tl.store(x_row + at, (p * derivative).to(x_ptr.dtype.element_ty), mask=at < stride)


@triton.jit
def scale_kernel(values_ptr, factor_ptr, length, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    factor = tl.load(factor_ptr)
    if factor != 1:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        values = tl.load(values_ptr + at, mask=at < length).to(tl.float32)
        tl.store(values_ptr + at, (values * factor).to(values_ptr.dtype.element_ty), mask=at < length)


@triton.jit
def accumulate_kernel(total_ptr, values_ptr, length, ADD: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(values_ptr + at, mask=at < length).to(tl.float32)
    if ADD:
        values += tl.load(total_ptr + at, mask=at < length)
    tl.store(total_ptr + at, values, mask=at < length)


def softmax(products: Tensor, heads: "Sequence[Head]", targets: Tensor, results: Sequence[Tensor], write: bool) -> None:
    """Fills `results` (logp, entropy, KL; each (rows,) float32) from the products hidden @ weight.T (1 or 2, rows, V).

    The first products are the policy's, the second a reference's. With `write` their place is taken by the slopes:
    d(-logp) and d(kl) with respect to the policy's logits. Rows start at multiples of 16 elements, with room in between
    that is overwritten too.
    """
    _, rows, vocabulary = products.shape
    if not rows:
        return
    policy, *others = [_bits_of(product, head) for product, head in zip(products, heads, strict=True)]
    reference = others[0] if others else (None, None, 1.0, None)
    block = min(8192, max(256, triton.next_power_of_2(vocabulary)))
    with torch.cuda.device_of(products):
        rows_kernel[(rows,)](
            *policy, *reference, targets, *results, products.stride(1), vocabulary,
            SLOPES=write, BLOCK=block, LANE=8, num_warps=16,
        )  # fmt: skip


def _bits_of(products: Tensor, head: "Head") -> tuple[Tensor, Tensor | None, float, float | None]:
    """A head as `rows_kernel` takes it."""
    return products, head.bias, head.scale / LN2.value, None if head.softcap is None else head.softcap / LN2.value


def scale(values: Tensor, factor: Tensor) -> None:
    """values *= factor, a scalar on the device; nothing is read or written where it is 1. `values` are contiguous."""
    blocks = triton.cdiv(values.numel(), 8192)
    if blocks:
        with torch.cuda.device_of(values):
            scale_kernel[(blocks,)](values, factor, values.numel(), BLOCK=8192, num_warps=8)


def accumulate(total: Tensor, values: Tensor, add: bool) -> None:
    """total += values, or total = values without `add`; both of one shape, `total` float32 and contiguous."""
    assert total.dtype == torch.float32 and total.is_contiguous() and total.shape == values.shape
    values = values.contiguous()
    blocks = triton.cdiv(values.numel(), 4096)
    if blocks:
        with torch.cuda.device_of(values):
            accumulate_kernel[(blocks,)](total, values, values.numel(), ADD=add, BLOCK=4096, num_warps=8)
