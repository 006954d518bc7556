"""The operator against a naive one in float64: values, gradients, precision, memory, and the company it must bear."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from losslab.models.chunked_logits import chunk_tokens
from losslab.models.fused_loss import Head, objective_loss, target_logprobs
from losslab.objectives import Context, Objective
from losslab.objectives.dft import DFT
from losslab.objectives.dft_sequence import SequenceDFT
from losslab.objectives.sft import SFT

OBJECTIVES = [SFT(), DFT(), SequenceDFT("geometric")]


def problem(
    tokens: int, width: int, vocabulary: int, dtype: torch.dtype = torch.float32, bias: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Context]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden = draw(tokens, width).to(dtype).requires_grad_()
    weight = draw(vocabulary, width).requires_grad_()
    offset = draw(vocabulary).requires_grad_() if bias else None
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    sequence = torch.arange(tokens) * 3 // max(tokens, 1)
    return hidden, weight, offset, targets, Context(sequence=sequence, sequences=3)


def naive(
    objective: Objective, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, targets: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Loss, log-probabilities and gradients by full logits in float64, of the weight as the product sees it."""
    inputs = [hidden.detach().double(), weight.detach().to(hidden.dtype).double()]
    inputs += [] if bias is None else [bias.detach().double()]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    logits = inputs[0] @ inputs[1].T
    logits = (logits + inputs[2] if bias is not None else logits) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    logp = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
    p = logp.detach().exp()
    factor = {
        SFT: lambda: torch.ones_like(p),
        DFT: lambda: p,
        SequenceDFT: lambda: torch.stack([p[s == i].log().mean().exp() for i in s]) if len(s) else p,
    }[type(objective)]()
    loss = -(factor * logp).sum()
    return loss.detach(), logp.detach(), list(torch.autograd.grad(loss, inputs))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    objective=st.sampled_from(OBJECTIVES),
    tokens=st.integers(0, 24),
    width=st.integers(1, 12),
    vocabulary=st.integers(1, 67),
    chunk=st.one_of(st.none(), st.integers(1, 9)),
    bias=st.booleans(),
    softcap=st.one_of(st.none(), st.floats(1, 30)),
    scale=st.sampled_from([1.0, 0.0625, 1.7]),
    seed=st.integers(0, 2**16),
)
def test_against_naive_float64(
    objective: Objective,
    tokens: int,
    width: int,
    vocabulary: int,
    chunk: int | None,
    bias: bool,
    softcap: float | None,
    scale: float,
    seed: int,
) -> None:
    hidden, weight, offset, targets, context = problem(tokens, width, vocabulary, bias=bias, seed=seed)
    head = Head(weight, offset, softcap, scale)
    out = objective_loss(objective, hidden, head, targets, context, chunk=chunk)
    out.loss.backward()
    loss, logp, gradients = naive(objective, hidden, weight, offset, head, targets, context.sequence)
    torch.testing.assert_close(out.loss.double(), loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.logp.double(), logp, rtol=1e-5, atol=1e-5)
    assert (out.logp <= 0).all() and len(out.terms) == len(out.weight) == len(out.entropy) == tokens
    ours = [hidden.grad, weight.grad] + ([] if offset is None else [offset.grad])
    for own, other in zip(ours, gradients, strict=True):
        assert own is not None
        torch.testing.assert_close(own.double(), other, rtol=1e-5, atol=1e-5)

    # The differentiable log-probabilities give the same by their own backward.
    logprobs = target_logprobs(hidden, head, targets, chunk=chunk)
    assert torch.equal(logprobs, out.logp)
    inputs = [tensor for tensor in (hidden, weight, offset) if tensor is not None]
    again = torch.autograd.grad((-out.weight * logprobs).sum(), inputs)
    for own, other in zip(again, gradients, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_chunks_do_not_change_the_result(objective: Objective) -> None:
    hidden, weight, _, targets, context = problem(23, 8, 51)
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    results = []
    for chunk in (1, 4, 22, 23, 24, None):
        out = objective_loss(objective, hidden, Head(weight), targets, context, chunk=chunk)
        results.append([out.loss, out.logp, out.weight, *torch.autograd.grad(out.loss, (hidden, weight))])
    for result in results[1:]:
        for own, other in zip(result, results[0], strict=True):
            torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-14)


def test_by_hand() -> None:
    """Logits 0, log 2, log 5 for one token whose target is the second: p = 1/4."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [math.log(2)], [math.log(5)]], requires_grad=True)
    context = Context(sequence=torch.tensor([0]), sequences=1)
    out = objective_loss(DFT(), hidden, Head(weight), torch.tensor([1]), context)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(math.log(4) / 4)
    assert out.logp.item() == pytest.approx(-math.log(4))
    assert out.weight.item() == pytest.approx(0.25)
    assert out.entropy.item() == pytest.approx(math.log(8) / 8 + math.log(4) / 4 + 5 / 8 * math.log(8 / 5))
    assert weight.grad is not None and weight.grad[:, 0].tolist() == pytest.approx([1 / 32, -3 / 16, 5 / 32])
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(-3 / 16 * math.log(2) + 5 / 32 * math.log(5))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 1e-2)])
def test_confident_tokens_keep_their_gradient(dtype: torch.dtype, tolerance: float) -> None:
    """1 - p is 3e-4 for the target, which p in bfloat16 would round to 0."""
    hidden = torch.tensor([[8.0]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[1.0], [0.0]], requires_grad=True)
    context = Context(sequence=torch.tensor([0]), sequences=1)
    out = objective_loss(SFT(), hidden, Head(weight), torch.tensor([0]), context)
    out.loss.backward()
    rest = 1 / (1 + math.exp(8))
    assert out.loss.item() == pytest.approx(math.log1p(math.exp(-8)), rel=1e-3)
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == pytest.approx([-8 * rest, 8 * rest], rel=tolerance)


@pytest.mark.parametrize("shift", [-300.0, 0.0, 300.0])
def test_large_logits(shift: float) -> None:
    """Probabilities that underflow float32 still have their log-probability."""
    hidden = torch.eye(3)
    weight = torch.tensor([[0.0, -150.0, 0.0], [-200.0, 0.0, 0.0], [-5.0, -5.0, 0.0]]).T.contiguous() + shift
    logp = target_logprobs(hidden, Head(weight.T.contiguous()), torch.tensor([1, 0, 2]))
    expected = (weight.T.double() @ hidden.double().T).T.log_softmax(-1)[[0, 1, 2], [1, 0, 2]]
    torch.testing.assert_close(logp.double(), expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16(objective: Objective) -> None:
    """bfloat16 hidden with a float32 master weight: the weight's gradient is float32 and near the exact one."""
    hidden, weight, bias, targets, context = problem(60, 16, 301, torch.bfloat16, bias=True)
    head = Head(weight, bias)
    out = objective_loss(objective, hidden, head, targets, context, chunk=7)
    out.loss.backward()
    loss, logp, gradients = naive(objective, hidden, weight, bias, head, targets, context.sequence)
    assert out.loss.dtype == out.logp.dtype == torch.float32
    assert out.loss.item() == pytest.approx(loss.item(), rel=5e-3)
    torch.testing.assert_close(out.logp.double(), logp, rtol=0, atol=0.05)  # logits near 10 have steps of 1/16
    for tensor, exact, dtype in zip(
        (hidden, weight, bias), gradients, (torch.bfloat16, torch.float32, torch.float32), strict=True
    ):
        assert tensor is not None and tensor.grad is not None and tensor.grad.dtype == dtype
        assert (tensor.grad.double() - exact).norm() < 0.01 * exact.norm()


def test_bfloat16_weight() -> None:
    """As FSDP hands it over under mixed precision: the gradient has the parameter's dtype."""
    hidden, weight, _, targets, context = problem(20, 8, 33, torch.bfloat16)
    low = weight.detach().bfloat16().requires_grad_()
    one = torch.autograd.grad(objective_loss(SFT(), hidden, Head(low), targets, context).loss, low)[0]
    two = torch.autograd.grad(-target_logprobs(hidden, Head(low), targets).sum(), low)[0]
    assert one.dtype == two.dtype == torch.bfloat16 and torch.equal(one, two)


def test_weight_gradient_sums_chunks_in_float32() -> None:
    """A thousand equal tokens, one per chunk: a bfloat16 sum would stop growing at 256 times the first summand."""
    hidden = torch.ones(1000, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.zeros(2, 1, requires_grad=True)
    targets = torch.zeros(1000, dtype=torch.long)
    context = Context(sequence=targets, sequences=1)
    objective_loss(SFT(), hidden, Head(weight), targets, context, chunk=1).loss.backward()
    assert weight.grad is not None and weight.grad[:, 0].tolist() == [-500, 500]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_disturb(dtype: torch.dtype) -> None:
    hidden, weight, _, targets, context = problem(9, 8, 33, dtype)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = objective_loss(DFT(), hidden, Head(weight), targets, context)
            gradients = torch.autograd.grad(out.loss, (hidden, weight))
            logp = target_logprobs(hidden, Head(weight), targets)
            results.append([out.logp, *gradients, logp, *torch.autograd.grad(logp.sum(), (hidden, weight))])
    for own, other in zip(*results, strict=True):
        assert own.dtype == other.dtype and torch.equal(own, other)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_tokens(objective: Objective) -> None:
    """A rank or micro-batch without answer tokens takes part with zero gradients."""
    hidden, weight, bias, targets, _ = problem(0, 5, 11, bias=True)
    context = Context(sequence=targets, sequences=0)
    out = objective_loss(objective, hidden, Head(weight, bias), targets, context)
    out.loss.backward()
    assert out.loss.item() == 0 and out.terms.shape == (0,)
    assert hidden.grad is not None and hidden.grad.shape == (0, 5)
    assert weight.grad is not None and not weight.grad.any() and bias is not None and bias.grad is not None
    target_logprobs(hidden, Head(weight), targets).sum().backward()


class _Largest(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_never_holds_all_logits(objective: Objective) -> None:
    tokens, width, vocabulary, chunk = 64, 8, 501, 16
    hidden, weight, _, targets, context = problem(tokens, width, vocabulary, torch.bfloat16)
    with _Largest() as largest:
        objective_loss(objective, hidden, Head(weight), targets, context, chunk=chunk).loss.backward()
        assert largest.elements == 2 * chunk * vocabulary  # logits and probabilities in float32, under one allocation
        target_logprobs(hidden, Head(weight), targets, chunk=chunk).sum().backward()
    assert largest.elements == 2 * chunk * vocabulary < tokens * vocabulary


def test_default_chunk_bounds_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _, targets, context = problem(300, 2, 1 << 18)
    with _Largest() as largest, torch.no_grad():
        objective_loss(SFT(), hidden, Head(weight), targets, context)
    assert largest.elements <= 1 << 26 < 300 << 18


def test_frozen_parts_get_no_gradient() -> None:
    """As under LoRA, where the head is frozen, and in evaluation."""
    hidden, weight, _, targets, context = problem(6, 4, 13)
    objective_loss(DFT(), hidden, Head(weight.detach()), targets, context).loss.backward()
    assert hidden.grad is not None and weight.grad is None
    with torch.no_grad():
        out = objective_loss(DFT(), hidden, Head(weight), targets, context)
    assert not out.loss.requires_grad and out.loss.item() > 0


def test_incoming_gradient_scales_and_accumulates() -> None:
    hidden, weight, _, targets, context = problem(6, 4, 13)
    once = torch.autograd.grad(objective_loss(DFT(), hidden, Head(weight), targets, context).loss, weight)[0]
    for factor in (0.5, 2.0):
        (factor * objective_loss(DFT(), hidden, Head(weight), targets, context).loss).backward()
    torch.testing.assert_close(weight.grad, 2.5 * once)


class _Tied(nn.Module):
    """A body whose embedding is the output weight too, with its middle under activation checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(29, 8)
        self.layer = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, ids: Tensor) -> Tensor:
        return checkpoint(self.layer, self.embedding(ids), use_reentrant=False)  # type: ignore[return-value]


@pytest.mark.parametrize("compiled", [False, True])
def test_tied_checkpointed_body(compiled: bool) -> None:
    ids = torch.arange(12) % 29
    targets = (ids * 5 + 1) % 29
    context = Context(sequence=torch.zeros(12, dtype=torch.long), sequences=1)
    body, twin = _Tied(), _Tied()
    run = torch.compile(body, backend="aot_eager") if compiled else body
    objective_loss(SFT(), run(ids), Head(body.embedding.weight), targets, context, chunk=5).loss.backward()
    nn.functional.cross_entropy(twin(ids) @ twin.embedding.weight.T, targets, reduction="sum").backward()
    for own, other in zip(body.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_chunks_on_a_gpu() -> None:
    """A quarter of the logits between 1 and 2 GiB of them, in rows of whole tiles."""
    chunks = {n: chunk_tokens(n, 151_936, 2, "cuda") for n in (0, 1, 3072, 8192, 16_384, 32_768, 131_072)}
    assert chunks == {0: 1, 1: 1, 3072: 3072, 8192: 2816, 16_384: 4096, 32_768: 6656, 131_072: 6912}
    assert chunk_tokens(8192, 151_936, 4, "cuda") == chunk_tokens(8192, 151_936, 2, "cuda", buffers=2) == 2048
    for tokens in range(1, 40_000, 777):
        for vocabulary in (32_000, 151_936, 262_144):
            assert chunk_tokens(tokens, vocabulary, 2, "cuda") * vocabulary * 2 <= 2**31 + 128 * vocabulary * 2
