"""Causal attention over a row of whole sequences, one after another, each seeing itself alone.

A micro-batch is one such row: no padding, no mask, no cross-talk. The function is registered with transformers, whose
models pass its keyword `packing` on to every attention layer. Families differ in what they do to the scores: a
window, a soft cap, sinks. Each kind is exact here or refused; no keyword is swallowed.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import assume_constant_result
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, PreTrainedModel

from losslab.data.packing import Packing
from losslab.models import flash_attention_4
from losslab.models.compiler import can_compile
from losslab.models.cpu_products import computes_in_float32
from losslab.models.decoder import decoder

NAME = "packed"
RAN: set[str] = set()  # the kernels that have computed packed attention since `forget`
BEFORE: set[str] = set()  # and before it
TOLD = "packed, layers told"  # and layers other than attention receive the boundaries of the sequences
FLASH_WIDTH = 256  # of a head, at most, in flash attention
# Fewer heads of keys and values than of queries: torch 2.11 takes them without an option.
GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
# Keywords of a model's forward that reach every attention layer and say nothing about its scores: positions are in the
# queries and keys already.
NEUTRAL = {
    "position_ids", "use_cache", "cache_position", "output_attentions", "output_hidden_states", "output_router_logits",
    "return_dict", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
}  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """What attention does to its scores, besides looking back only.

    A query sees itself and the `window - 1` tokens before it. With `softcap` c, a score s becomes c * tanh(s / c)
    (Gemma 2, arXiv 2408.00118). A sink is a further score of each head, whose share of the softmax goes nowhere
    (arXiv 2309.17453, as gpt-oss learns them).
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None  # (H,)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query (1, H, T, C), key (1, K, T, C) and value (1, K, T, E) with K dividing H; returns (1, T, H, E).

    `s_aux` is transformers' name of the sinks. Raises ValueError for attention that it does not compute.
    """
    unknown = [
        name for name, given in others.items() if name not in NEUTRAL and given is not None and given is not False
    ]
    obstacle = (
        "is not told where the sequences of a row lie" if packing is None
        else "has a mask of its own" if attention_mask is not None
        else "looks ahead" if is_causal is False
        else "has dropout" if dropout
        else f"has {', '.join(unknown)}" if unknown
        else None
    )  # fmt: skip
    if obstacle is not None:
        raise ValueError(f"the attention of {type(module).__name__} {obstacle}, so packed rows cannot be computed")
    assert packing is not None
    assert len(query) == 1
    window = sliding_window if sliding_window is not None and sliding_window < packing.longest else None
    scores = Scores(query.shape[-1] ** -0.5 if scaling is None else scaling, window, softcap, s_aux)
    return _kind(query, scores)(query, key, value, packing, scores), None


def _kind(query: Tensor, scores: Scores) -> Callable[[Tensor, Tensor, Tensor, Packing, Scores], Tensor]:
    """The function that computes such scores best on the device of the query."""
    plain = scores.softcap is None and scores.sinks is None
    if not query.is_cuda:
        return by_runs
    if not plain:
        return by_blocks if _compiles() else by_runs
    half = query.dtype in (torch.bfloat16, torch.float16)
    return by_lengths if half and query.shape[-1] <= FLASH_WIDTH and _ampere() else by_runs


def by_lengths(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scores: Scores) -> Tensor:
    """Flash attention over sequences of varying length, on a GPU; without soft cap and sinks."""
    width = value.shape[-1]
    if width < query.shape[-1]:  # multi-head latent attention has narrower values than keys
        value = F.pad(value, (0, query.shape[-1] - width))
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    ends, longest, back = packing.boundaries, packing.longest, -1 if scores.window is None else scores.window - 1
    fits = query.shape[-1] <= flash_attention_4.WIDTH and query.shape[-1] % 8 == 0
    # Windows, and values of another width than keys, were not tried with it on a GPU.
    if fits and scores.window is None and width == query.shape[-1] and flash_attention_4.usable():
        _ran("FlashAttention 4")
        out, _ = flash_attention_4.flash_attention_4(q, k, v, ends, longest, scores.scaling, back)
    else:
        _ran("varlen_attn")
        out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scores.scaling, window_size=(back, 0), **GROUPED)
    return out[None, ..., :width]


@torch.compiler.disable  # runs of lengths differ from batch to batch, and each would be compiled anew
def by_runs(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scores: Scores) -> Tensor:
    """Attention by torch's kernels for whole batches, which take neighbours of equal length together."""
    assert query.shape[2] == sum(packing.lengths)
    runs = packing.runs()
    # One split, whose backward writes the gradient of a row once; that of a slice fills a row with zeros for each run.
    pieces = [x[0].split([count * length for count, length in runs], dim=1) for x in (query, key, value)]
    parts = []
    for (count, length), *piece in zip(runs, *pieces, strict=True):
        q, k, v = (x.unflatten(1, (count, length)).transpose(0, 1) for x in piece)
        if scores.softcap is None and scores.sinks is None:
            _ran("scaled_dot_product_attention by runs")
            mask = _visible(length, scores.window, query.device)
            if computes_in_float32(q):
                q, k, v = q.float(), k.float(), v.float()
            out = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=scores.scaling, enable_gqa=query.shape[1] != key.shape[1]
            ).to(value.dtype)
        else:
            _ran("all scores by runs")
            out = _explicit(q, k, v, scores)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # (count * length, H, E)
    return torch.cat(parts)[None]


def _visible(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """(L, L) whether a query (row) sees a key (column); None where no window cuts a causal mask."""
    if window is None or window >= length:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)


def _explicit(query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
    """(B, H, L, E) from all scores at once, in float32 within the softmax as transformers' eager attention has it."""
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    logits = query @ key.transpose(2, 3) * scores.scaling
    if scores.softcap is not None:
        logits = scores.softcap * torch.tanh(logits / scores.softcap)
    visible = _visible(length, scores.window or length + 1, query.device)
    if visible is None:
        visible = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    logits = logits.masked_fill(~visible, -torch.inf)
    if scores.sinks is not None:
        sinks = scores.sinks.view(1, -1, 1, 1).expand(len(query), -1, length, 1).to(logits.dtype)
        logits = torch.cat((logits, sinks), -1)
    return torch.softmax(logits, -1, dtype=torch.float32)[..., :length].to(value.dtype) @ value


@torch.compiler.disable  # it compiles itself
def by_blocks(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scores: Scores) -> Tensor:
    """FlexAttention, which computes the blocks of a row that hold a visible pair, with any soft cap and sinks."""
    softcap, sinks = scores.softcap, scores.sinks
    _ran("FlexAttention")

    def capped(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    attend: Any = _compiled_flex() if query.is_cuda else flex_attention
    out, logsumexp = attend(
        query, key, value, score_mod=capped, block_mask=_block_mask(packing, scores.window, query.device),
        scale=scores.scaling, enable_gqa=query.shape[1] != key.shape[1], return_lse=True,
    )  # fmt: skip
    if sinks is not None:  # exp(lse) / (exp(lse) + exp(sink)) of each softmax is left to the tokens
        out = out * torch.sigmoid(logsumexp - sinks.view(1, -1, 1).to(logsumexp.dtype))[..., None].to(out.dtype)
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


_masks: Any = WeakIdKeyDictionary()  # of a micro-batch, by its boundaries: every layer uses them again


def _block_mask(packing: Packing, window: int | None, device: torch.device) -> BlockMask:
    masks: dict[int | None, BlockMask] = _masks.setdefault(packing.boundaries, {})
    if window not in masks:
        length = sum(packing.lengths)
        owner = torch.searchsorted(packing.boundaries, torch.arange(length, device=device), right=True)
        reach = window or length

        def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (owner[q] == owner[k]) & (q >= k) & (q - k < reach)

        masks[window] = create_block_mask(visible, None, None, length, length, device=str(device))
    return masks[window]


@assume_constant_result
def _ran(kernel: str) -> None:
    """Note it where a layer runs, and where it is compiled."""
    RAN.add(kernel)


@assume_constant_result
def _compiles() -> bool:
    """Whether FlexAttention can be compiled: not compiled it would hold all scores of a row."""
    return can_compile()


@assume_constant_result
def _ampere() -> bool:
    """Whether this process's GPU is of Ampere's generation or a later one, which flash attention needs."""
    return torch.cuda.get_device_capability() >= (8, 0)


def attend(model: PreTrainedModel, implementation: str) -> None:
    """Set the implementation of a model's attention, by transformers' name for it.

    The one for packed rows is set in the decoder alone, since it is causal and a vision tower's attention is not. A
    family that has its own code for attention keeps it. Raises ValueError for an implementation that the model does not
    have.
    """
    part = decoder(model) if implementation == NAME else model
    part.set_attn_implementation(implementation)


def implementation(model: PreTrainedModel) -> str:
    """transformers' name of the way in which the model's decoder computes attention."""
    return decoder(model).config._attn_implementation


def forget() -> None:
    """Note from here on what computes packed attention."""
    if RAN:
        BEFORE.clear()
        BEFORE.update(RAN)
        RAN.clear()


def kernels_of(model: PreTrainedModel) -> str:
    """What has computed the attention of the model's decoder; transformers' name of it if that is not ours.

    Where nothing was noted since `forget`, layers that were compiled before run again, with the kernels of then.
    """
    noted = sorted(RAN or BEFORE) if implementation(model) == NAME else []
    return ", ".join(noted) or implementation(model)


AttentionInterface.register(NAME, packed_attention)
