"""Causal attention over a row of whole sequences, one after another, each seeing itself alone.

A micro-batch is one such row: no padding, no mask, no cross-talk. The function is registered with transformers, whose
models hand its keyword `packing` through to every attention layer.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from losslab.data.packing import Packing

NAME = "packed"


@torch.compiler.disable  # its runs of lengths differ from batch to batch, and each would be compiled anew
def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query (1, H, T, C), key and value (1, K, T, C) with K dividing H; returns (1, T, H, C).

    Raises ValueError for attention that it does not compute: a sliding window that is shorter than a sequence, or a
    soft cap on the scores.
    """
    assert attention_mask is None and len(query) == 1
    if softcap is not None or (sliding_window is not None and max(packing.lengths) > sliding_window):
        raise ValueError(
            "this model's attention has a soft cap or a sliding window below train.max_length, which packed training "
            "does not compute: lower train.max_length or choose another model"
        )
    groups = query.shape[1] // key.shape[1]
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and _has_flash(query.device):
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        if groups > 1:
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        ends, longest = packing.boundaries, max(packing.lengths)
        out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0))
        assert isinstance(out, Tensor)
        return out[None], None
    parts = []
    for start, count, length in packing.runs():
        q, k, v = (
            x[0, :, start : start + count * length].unflatten(1, (count, length)).transpose(0, 1)
            for x in (query, key, value)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=groups > 1)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # (count * length, H, C)
    return torch.cat(parts)[None], None


@cache
def _has_flash(device: torch.device) -> bool:
    """Whether a GPU is of Ampere's generation or a later one, which flash attention needs."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


AttentionInterface.register(NAME, packed_attention)
