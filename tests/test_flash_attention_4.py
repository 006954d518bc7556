"""The operator around flash-attn-4, whose kernels need a Hopper or a Blackwell: on a CPU with a module in its place."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from losslab.config.choices import Recompute
from losslab.data.packing import Packing
from losslab.models import attention, flash_attention_4, layout
from losslab.models.attention import packed_attention

CUDA = torch.cuda.is_available()


def pieces(ends: Tensor, query: Tensor, key: Tensor, *others: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
    """The rows of each sequence, and its tensors by heads (H, L, C), those of keys and values repeated."""
    for start, end in zip(ends.tolist(), ends.tolist()[1:], strict=False):
        rows, repeats = slice(start, end), query.shape[1] // key.shape[1]
        tensors = [x[rows].transpose(0, 1) for x in (query, key, *others)]
        yield rows, [x if len(x) == query.shape[1] else x.repeat_interleave(repeats, 0) for x in tensors]


def probabilities(query: Tensor, key: Tensor, scale: float, window: int | None) -> Tensor:
    """(H, L, L) from all scores of a sequence."""
    ages = torch.arange(query.shape[1])[:, None] - torch.arange(query.shape[1])
    visible = (ages >= 0) & (ages <= (query.shape[1] if window is None else window))
    return (query @ key.transpose(1, 2) * scale).masked_fill(~visible, -torch.inf).softmax(-1)


def by_sequences(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scale: float, window: int | None) -> Tensor:
    """(T, H, C) attention of each sequence alone."""
    each = (tensors for _, tensors in pieces(ends, query, key, value))
    return torch.cat([(probabilities(q, k, scale, window) @ v).transpose(0, 1) for q, k, v in each])


class Kernels:
    """`flash_attn.cute.interface` as far as the operator calls it."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    @staticmethod
    def _settings(keywords) -> tuple[Tensor, float, int | None]:
        ends, window = keywords["cu_seqlens_q"], keywords.get("window_size_left")
        assert keywords["cu_seqlens_k"] is ends
        assert keywords["max_seqlen_q"] == keywords["max_seqlen_k"] == int(ends.diff().max())
        assert (keywords.get("causal") is True) == (window is None) == ("window_size_right" not in keywords)
        return ends, keywords["softmax_scale"], window

    def _flash_attn_fwd(self, query, key, value, return_lse, **keywords):
        assert return_lse
        self.forwards += 1
        out = by_sequences(query, key, value, *self._settings(keywords))
        return out, out.new_zeros(query.shape[1::-1], dtype=torch.float32), None, None, None

    def _flash_attn_bwd(self, query, key, value, out, gradient, logsumexp, **keywords):
        self.backwards += 1
        assert gradient.is_contiguous()
        ends, scale, window = self._settings(keywords)
        results = [torch.empty_like(x) for x in (query, key, value)]
        for rows, (q, k, v, o, g) in pieces(ends, query, key, value, out, gradient):
            p = probabilities(q, k, scale, window)
            slopes = p * (g @ v.transpose(1, 2) - (g * o).sum(-1, keepdim=True)) * scale
            transposed = slopes.transpose(1, 2) @ q, p.transpose(1, 2) @ g
            for result, x in zip(results, (slopes @ k, *transposed), strict=True):
                result[rows] = x.unflatten(0, (result.shape[1], -1)).sum(1).transpose(0, 1)
        return tuple(results)


@pytest.fixture
def kernels(monkeypatch) -> Kernels:
    kernels = Kernels()
    monkeypatch.setitem(flash_attention_4._loaded, flash_attention_4.PACKAGE, kernels)
    monkeypatch.setattr(attention, "_kind", lambda *_: attention.by_lengths)
    monkeypatch.setattr(attention, "RAN", set())
    return kernels


def inputs(lengths: list[int], width: int = 8) -> list[Tensor]:
    torch.manual_seed(0)
    draw = [torch.randn(1, heads, sum(lengths), width, dtype=torch.float64) for heads in (4, 2, 2)]
    return [x.requires_grad_() for x in draw]


on_cpu = pytest.mark.skipif(CUDA, reason="the module in its place computes on the CPU")


@on_cpu
@pytest.mark.parametrize("backend", [None, "aot_eager", "inductor"])
def test_scale_and_gradients_reach_the_kernels(kernels, backend):
    """Queries lie head by head, as some families leave them; compiled code asserts the layout of results."""
    lengths = [1, 7, 5]
    packing, given = Packing.of(lengths), inputs(lengths)

    def attend(*tensors: Tensor) -> Tensor:
        return packed_attention(nn.Module(), *tensors, None, packing, scaling=0.3)[0]

    if backend is not None:
        torch._dynamo.reset()
        attend = torch.compile(attend, backend=backend, fullgraph=True, dynamic=True)
    out = attend(*given)
    draw = torch.randn(out.shape[::-1], dtype=torch.float64).permute(3, 2, 1, 0)  # which the operator makes contiguous
    gradients = torch.autograd.grad(out, given, draw)

    alone = [x.detach().requires_grad_() for x in given]
    expected = by_sequences(*(x[0].transpose(0, 1) for x in alone), packing.boundaries, 0.3, None)[None]
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, alone, draw))
    assert (kernels.forwards, kernels.backwards) == (1, 1)
    assert attention.RAN == {"FlashAttention 4"}


@on_cpu
@pytest.mark.parametrize("window", [-1, 2])
def test_operators_are_as_torch_expects_them(kernels, window):
    """Shapes, strides and types without data, no aliases, gradients by dispatch; with a window."""
    packing = Packing.of([1, 7, 5])
    rows = [x[0].transpose(0, 1) for x in inputs([1, 7, 5])]
    given = (*rows, packing.boundaries, 7, 0.3, window)
    torch.library.opcheck(flash_attention_4.flash_attention_4, given)
    out, logsumexp = flash_attention_4.flash_attention_4(*given)
    torch.testing.assert_close(out, by_sequences(*given[:4], 0.3, None if window < 0 else window))
    tensors = [x.detach() for x in (torch.ones_like(out), *rows, out, logsumexp)]
    torch.library.opcheck(flash_attention_4._backward, (*tensors, packing.boundaries, 7, 0.3, window))


@on_cpu
def test_selective_recompute_keeps_what_attention_computed(kernels):
    packing, given = Packing.of([4, 3]), inputs([4, 3])
    attend = nn.Module()
    attend.forward = lambda *tensors: packed_attention(nn.Module(), *tensors, None, packing)[0].sin()
    layer = checkpoint_wrapper(attend, **layout._recompute(Recompute.selective))
    layer(*given).sum().backward()
    assert (kernels.forwards, kernels.backwards) == (1, 1)


@pytest.mark.parametrize(
    ("width", "narrower", "window", "deterministic"),
    [(12, 0, None, False), (136, 0, None, False), (8, 2, None, False), (8, 0, 2, False), (8, 0, None, True)],
)
def test_what_was_not_tried_with_it_is_left_to_torch(kernels, monkeypatch, width, narrower, window, deterministic):
    called = []
    monkeypatch.setattr(attention, "varlen_attn", lambda q, *_, **__: called.append(q.shape[-1]) or q)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    query, key, value = inputs([3], width)
    packed_attention(nn.Module(), query, key, value[..., narrower:], None, Packing.of([3]), sliding_window=window)
    assert called == [width] and not kernels.forwards
    assert attention.RAN == {"varlen_attn"}


@pytest.fixture
def hopper(monkeypatch) -> None:
    monkeypatch.setattr(flash_attention_4, "_loaded", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(flash_attention_4, "version", lambda package: {"flash-attn-4": "4.0.0"}[package])


def test_it_is_used_where_it_is_installed_and_the_gpu_has_its_instructions(hopper, monkeypatch):
    module = SimpleNamespace()
    for name in ("flash_attn", "flash_attn.cute"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", module)
    assert flash_attention_4.usable() and flash_attention_4._module() is module
    monkeypatch.setattr(flash_attention_4, "_loaded", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert not flash_attention_4.usable()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 4))  # an MI300
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not flash_attention_4.usable()


def test_a_package_that_does_not_load_is_announced_once(hopper, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert not flash_attention_4.usable() and not flash_attention_4.usable()
    (line,) = caplog.messages
    assert line.startswith("flash-attn-4 cannot be loaded, so torch's flash attention is used: ")
    assert "flash_attn" in line
