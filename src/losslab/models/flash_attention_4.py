"""FlashAttention 4 over sequences of varying length, as an operator that stays within the graph of a compiled layer.

Its package, flash-attn-4, is used on GPUs of compute capability 9 and 10. Elsewhere, and without it, torch's own flash
attention (FlashAttention 2) computes the same. The operators call the two functions of the package that torch's
`activate_flash_attention_impl("FA4")` calls too: torch 2.11 to 2.13 unpacks two results of one that returns five.
"""

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import assume_constant_result

from losslab.config.log import log
from losslab.config.messages import first_line

PACKAGE = "flash-attn-4"
CAPABILITIES = (9, 10)  # of GPUs, the major numbers
WIDTH = 128  # of a head, at most

_loaded: dict[str, Any] = {}  # the package's module, or None where it cannot be used, once it has been asked for


@assume_constant_result
def usable() -> bool:
    """Whether this process uses it; a package that is installed and fails to load is announced.

    Its deterministic backward has not been tried on a GPU, so that torch's attention is used where one is asked for.
    """
    return not torch.are_deterministic_algorithms_enabled() and _module() is not None


def _module() -> Any:
    if PACKAGE not in _loaded:
        _loaded[PACKAGE] = _load()
    return _loaded[PACKAGE]


def _load() -> Any:
    if torch.version.hip or not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] not in CAPABILITIES:
        return None
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return None
    # Kernels are compiled at their first use, which takes 10 seconds, and kept for the next cells: in a folder of this
    # user, since the package loads machine code from it and takes one that all users can make.
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", str(Path.home() / ".cache/losslab/flash_attention_4"))
    try:
        return import_module("flash_attn.cute.interface")
    except Exception as error:  # of the libraries below it
        log.warning(f"{PACKAGE} cannot be loaded, so torch's flash attention is used: {first_line(error)}")
        return None


@torch.library.custom_op("losslab::flash_attention_4", mutates_args=())
def flash_attention_4(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scale: float, window: int
) -> tuple[Tensor, Tensor]:
    """Causal attention of query (T, H, C), key and value (T, K, C) with K dividing H, in bfloat16 or float16.

    `ends` (S + 1,) int32 are the boundaries of the sequences, `longest` the length of the longest. A query sees itself
    and `window` tokens before it, -1: all. Returns (T, H, C), and (H, T) float32 the logsumexp of the scores.
    """
    out, logsumexp, *_ = _module()._flash_attn_fwd(
        query, key, value, return_lse=True, **_keywords(ends, longest, scale, window)
    )
    return out, logsumexp


@flash_attention_4.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scale: float, window: int) -> Any:
    out = query.new_empty(*query.shape[:2], value.shape[-1])
    return out, query.new_empty(query.shape[1::-1], dtype=torch.float32)


@torch.library.custom_op("losslab::flash_attention_4_backward", mutates_args=())
def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor, ends: Tensor,
    longest: int, scale: float, window: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    results = _module()._flash_attn_bwd(
        query, key, value, out, gradient.contiguous(), logsumexp, **_keywords(ends, longest, scale, window)
    )
    dq, dk, dv = (x.contiguous() for x in results[:3])  # the kernel's have the strides of query, key and value
    return dq, dk, dv


@_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Any:
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


def _keywords(ends: Tensor, longest: int, scale: float, window: int) -> dict[str, Any]:
    lengths = {"cu_seqlens_q": ends, "cu_seqlens_k": ends, "max_seqlen_q": longest, "max_seqlen_k": longest}
    seen = {"causal": True} if window < 0 else {"window_size_left": window, "window_size_right": 0}
    return lengths | seen | {"softmax_scale": scale}


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ends, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, *output, ends)


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(gradient, *ctx.saved_tensors, *ctx.settings), None, None, None, None


flash_attention_4.register_autograd(_differentiate, setup_context=_save)
