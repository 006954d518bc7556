"""Products of bfloat16 matrices on a CPU without instructions for them: computed in float32, then rounded.

Most laptops and older servers (AVX2 only) have no such instructions. torch then multiplies element by element: a step
in bfloat16 took 70 times as long as in float32, for a result that differs only in the last bit of some elements.
"""

import os
import platform
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import Library

X86 = ("x86_64", "AMD64")
SIZE = 128  # of the matrices that are measured
BLOCK = 2**20  # elements that are rounded at once
REPEATS = 20
MARGIN = 1.25  # how many times as long bfloat16 must take where it is measured


@cache
def slow() -> bool:
    """Whether this CPU multiplies bfloat16 matrices more slowly than float32 ones including conversion.

    On x86 its instructions decide, so that every start of a cell computes alike: with other work on the machine a
    measurement came out at 0.4 to 1.2 on one CPU. With AMX, and on AMD's CPUs with avx512_bf16, bfloat16 is
    faster (0.7 of float32's time on an EPYC); on Intel's with avx512_bf16 alone float32 is (200 to 290 GFLOP/s against
    145 to 165 on a Xeon), and on all others (2.2 times as long with the rest of AVX-512, 11 times with AVX2). Measured
    on other architectures and where ONEDNN_MAX_CPU_ISA limits the instructions.
    """
    if platform.machine() not in X86 or "ONEDNN_MAX_CPU_ISA" in os.environ:
        return _measured() > MARGIN
    if torch.cpu._is_amx_tile_supported():
        return False
    return not torch.cpu._is_avx512_bf16_supported() or "AuthenticAMD" not in _vendor()


def _vendor() -> str:
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.exists() else platform.processor()


def _measured() -> float:
    """How many times as long bfloat16 products take, on one thread.

    Several threads wait for each other where other work has a core, up to 50 times as long. The two are timed in turn,
    so that such work slows both.
    """
    a, b = torch.ones(2, SIZE, SIZE, dtype=torch.bfloat16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = [
            (
                _seconds(lambda: (a @ b, a @ b.T, a.T @ b)),
                _seconds(lambda: (_rounded(a, b), _rounded(a, b.T), _rounded(a.T, b))),
            )
            for _ in range(REPEATS)
        ]
    finally:
        torch.set_num_threads(threads)
    native, rounded = map(min, zip(*pairs, strict=True))
    return native / rounded


def computes_in_float32(values: Tensor) -> bool:
    """Whether products of such values are computed in float32 and rounded."""
    return _converts(values, values.dtype)


def operand(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` (N, D) for products of `dtype`: in it, or with its values in float32 where products are computed so.

    Block by block, since a copy of the whole in `dtype` beside the one in float32 would be half as large again.
    """
    if not _converts(values, dtype):
        return values.to(dtype)
    rounded, rows = torch.empty_like(values, dtype=torch.float32), max(1, BLOCK // values.shape[1])
    for block, part in zip(rounded.split(rows), values.split(rows), strict=True):
        block.copy_(part.to(dtype))
    return rounded


@cache  # keeps a reference to what is replaced, without which the replacement would end
def install() -> Library | None:
    """Make autocast compute linear layers this way in this process. Does nothing if bfloat16 products are fast."""
    if not slow():
        return None
    replaced = Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # autocast's own is replaced intentionally
        replaced.impl("linear", _linear, "AutocastCPU", allow_override=True)
    return replaced


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        inputs = (x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        return _Linear.apply(*inputs) if dtype == torch.bfloat16 else F.linear(*inputs)


class _Linear(torch.autograd.Function):
    """x (..., K) @ weight (N, K).T + bias (N,) in bfloat16, the products in float32."""

    @staticmethod
    def forward(ctx, x, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        wide = gradient.float()
        rows = wide.flatten(0, -2)
        return (
            (wide @ weight.float()).to(x.dtype) if by_x else None,
            (rows.T @ x.float().flatten(0, -2)).to(weight.dtype) if by_weight else None,
            rows.sum(0).to(weight.dtype) if by_bias else None,
        )


def _converts(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of `dtype` are computed in float32 where `values` are."""
    return dtype == torch.bfloat16 and values.device.type == "cpu" and slow()


def _rounded(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() @ b.float()).bfloat16()


def _seconds(compute: Callable[[], object]) -> float:
    began = time.perf_counter()
    compute()
    return time.perf_counter() - began
