"""Triton kernels of the fused loss: one launch for the rows of a chunk, in place of some eighteen eager passes.

A program takes one row of logits as cuBLAS wrote it. It reads the row once for what the objective and the diagnostics
need (log-probability of the target, entropy, KL from a reference), and a second time to overwrite it by the slope
softmax - onehot. The second time it goes backwards: what was read last is still in the L2 cache.

All sums are float32. A row is read as BLOCK / LANE lanes, each with a running maximum and running sums of its own, so
that threads meet once in a row.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from losslab.head import Head

LOWEST = tl.constexpr(-1e30)  # stands for -inf, whose differences are NaN


@triton.jit
def _load(row, at, stride, inside, bias, scale, softcap):  # type: ignore[no-untyped-def]
    """Logits and their derivatives with respect to the products that are in memory, except for `scale`."""
    x = tl.load(row + at, mask=at < stride, other=0.0).to(tl.float32)
    if bias is not None:
        x += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    x *= scale
    derivative = 1.0
    if softcap is not None:
        tanh = 1 - 2 / (1 + tl.exp(2 * x / softcap))
        x = softcap * tanh
        derivative = 1 - tanh * tanh
    return tl.where(inside, x, LOWEST), derivative


@triton.jit
def _logprob(largest, total, x):  # type: ignore[no-untyped-def]
    logp = (x - largest) - tl.log(total)
    return tl.where(logp > 0, 0.0, logp)  # tl.minimum would drop a NaN


@triton.jit
def rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (rows, V) products of the policy, overwritten by d(-logp)
    x_bias,  # (V,) or None
    x_scale,
    x_softcap,  # or None
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
    program = tl.program_id(0)
    row = program.to(tl.int64)
    x_row = x_ptr + row * stride
    target = tl.load(target_ptr + row)
    known = (target >= 0) & (target < vocabulary)
    aim = tl.load(x_row + target, mask=known, other=float("nan")).to(tl.float32)  # before anything is overwritten
    if x_bias is not None:
        aim += tl.load(x_bias + target, mask=known, other=0.0).to(tl.float32)
    aim *= x_scale
    if x_softcap is not None:
        aim = x_softcap * (1 - 2 / (1 + tl.exp(2 * aim / x_softcap)))

    places = tl.arange(0, LANES)[:, None] * LANE + tl.arange(0, LANE)[None, :]
    largest = tl.full([LANES], LOWEST, tl.float32)
    total = tl.zeros([LANES], tl.float32)  # sum of exp(x - largest)
    spread = tl.zeros([LANES], tl.float32)  # sum of exp(x - largest) (x - largest)
    if y_ptr is not None:
        y_row = y_ptr + row * stride
        y_largest = tl.full([LANES], LOWEST, tl.float32)
        y_total = tl.zeros([LANES], tl.float32)
        excess = tl.zeros([LANES], tl.float32)  # sum of exp(y - y_largest) (y - x)

    blocks = tl.cdiv(vocabulary, BLOCK)
    for block in range(blocks):
        at = block * BLOCK + places
        inside = at < vocabulary
        x, _ = _load(x_row, at, stride, inside, x_bias, x_scale, x_softcap)
        higher = tl.maximum(largest, tl.max(x, 1))
        rise = largest - higher
        below = x - higher[:, None]
        e = tl.exp(below)
        keep = tl.exp(rise)
        spread = keep * (spread + rise * total) + tl.sum(e * below, 1)
        total = keep * total + tl.sum(e, 1)
        largest = higher
        if y_ptr is not None:
            y, _ = _load(y_row, at, stride, inside, y_bias, y_scale, y_softcap)
            y_higher = tl.maximum(y_largest, tl.max(y, 1))
            e = tl.exp(y - y_higher[:, None])
            keep = tl.exp(y_largest - y_higher)
            excess = keep * excess + tl.sum(e * (y - x), 1)
            y_total = keep * y_total + tl.sum(e, 1)
            y_largest = y_higher

    highest = tl.max(largest, 0)
    rise = largest - highest
    keep = tl.exp(rise)
    whole = tl.sum(keep * total, 0)
    logp = _logprob(highest, whole, aim)
    tl.store(logp_ptr + row, logp)
    tl.store(entropy_ptr + row, tl.log(whole) - tl.sum(keep * (spread + rise * total), 0) / whole)
    if y_ptr is not None:
        y_highest = tl.max(y_largest, 0)
        y_keep = tl.exp(y_largest - y_highest)
        y_whole = tl.sum(y_keep * y_total, 0)
        kl = tl.sum(y_keep * excess, 0) / y_whole + (highest - y_highest) + tl.log(whole) - tl.log(y_whole)
        tl.store(kl_ptr + row, kl)

    if SLOPES:
        # p - 1, without the cancellation where p is near 1.
        missing = tl.where(logp > -0.01, logp * (1 + logp * (0.5 + logp / 6)), tl.exp(logp) - 1)
        share = 1 / whole
        for turn in range(blocks):
            at = (blocks - 1 - turn) * BLOCK + places
            inside = at < vocabulary
            x, derivative = _load(x_row, at, stride, inside, x_bias, x_scale, x_softcap)
            p = tl.exp(x - highest) * share
            slope = tl.where(at == target, missing, p) * derivative
            if y_ptr is not None:
                y, _ = _load(y_row, at, stride, inside, y_bias, y_scale, y_softcap)
                y_slope = (p - tl.exp(y - y_highest) / y_whole) * derivative
                tl.store(y_row + at, y_slope.to(y_ptr.dtype.element_ty), mask=at < stride)
            tl.store(x_row + at, slope.to(x_ptr.dtype.element_ty), mask=at < stride)


@triton.jit
def scale_kernel(values_ptr, factor_ptr, length, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    factor = tl.load(factor_ptr)
    if factor != 1:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        values = tl.load(values_ptr + at, mask=at < length).to(tl.float32)
        tl.store(values_ptr + at, (values * factor).to(values_ptr.dtype.element_ty), mask=at < length)


def softmax(products: Tensor, heads: "Sequence[Head]", targets: Tensor, results: Sequence[Tensor], write: bool) -> None:
    """Fills `results` (logp, entropy and KL, each (rows,) float32) from the products hidden @ weight.T (1 or 2, rows, V).

    The first products are the policy's, the second a reference's. With `write` their place is taken by the slopes:
    d(-logp) and d(kl) with respect to the policy's logits. Rows start at multiples of 16 elements, with room in between
    that is overwritten too.
    """
    _, rows, vocabulary = products.shape
    if not rows:
        return
    first, *second = [(product, head.bias, head.scale, head.softcap) for product, head in zip(products, heads, strict=True)]
    reference = second[0] if second else (None, None, 1.0, None)
    block = min(8192, max(256, triton.next_power_of_2(vocabulary)))
    with torch.cuda.device_of(products):
        rows_kernel[(rows,)](
            *first, *reference, targets, *results, products.stride(1), vocabulary,
            SLOPES=write, BLOCK=block, LANE=8, num_warps=16,
        )  # fmt: skip


def scale(values: Tensor, factor: Tensor) -> None:
    """values *= factor, a scalar on the device; nothing is read or written where it is 1. `values` are contiguous."""
    blocks = triton.cdiv(values.numel(), 8192)
    if blocks:
        with torch.cuda.device_of(values):
            scale_kernel[(blocks,)](values, factor, values.numel(), BLOCK=8192, num_warps=8)
