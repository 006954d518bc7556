"""Objectives with a term on the row: by hand, and beside full logits that autograd differentiates in float64."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from losslab.models import chunked_logits
from losslab.models.fused_loss import Head, HeadOutput, objective_loss
from losslab.objectives import Context, Distributions, Objective, Scope, Targets
from losslab.objectives.entropy_bonus import EntropyBonus
from losslab.objectives.forward_kl import ForwardKL
from losslab.objectives.gem import GEM
from losslab.objectives.jsd import JSD
from losslab.objectives.label_smoothing import LabelSmoothing
from losslab.objectives.reverse_kl import ReverseKL
from losslab.objectives.sft import SFT
from losslab.objectives.target_sft import TargetSFT
from losslab.objectives.top_k_kl import StoredTopKKL, TopKKL
from losslab.objectives.z_loss import ZLoss

TOKENS, WIDTH, VOCABULARY = 11, 6, 9
TARGETS = torch.arange(TOKENS) * 5 % VOCABULARY
SEQUENCE = torch.arange(TOKENS) // 4


@dataclass(frozen=True)
class SequenceSmoothing(LabelSmoothing):
    """A term on the row beside a weight that couples the tokens of a sequence."""

    scope: ClassVar[Scope] = "sequence"

    def loss(self, t: Targets) -> Tensor:
        return t.sequence_mean(t.logp.detach()).exp()[t.sequence] * (t.row_term - t.logp)


def smoothed_by_sequence(z: Tensor, y: Tensor, logq: Tensor) -> Tensor:
    nll = F.cross_entropy(z, y, reduction="none")
    weight = torch.stack([nll[SEQUENCE == s].mean() for s in SEQUENCE]).neg().exp().detach()
    return weight * (nll - z.log_softmax(-1).mean(-1))


def gem(z: Tensor, y: Tensor, logq: Tensor) -> Tensor:
    at = z.gather(1, y[:, None])
    q = (z / 0.7).softmax(-1) * torch.sigmoid(0.01 * (z - at))
    return -(q.detach() * (at - z)).sum(-1)  # the logsumexp of both log-probabilities cancels


def target_sft(z: Tensor, y: Tensor, logq: Tensor) -> Tensor:
    p = z.softmax(-1).gather(1, y[:, None]).detach()
    between = (p.new_tensor(0.25) * logq + 0.75 * z.log_softmax(-1)).softmax(-1).detach()
    return F.cross_entropy(z, p * F.one_hot(y, z.shape[1]) + (1 - p) * between, reduction="none")


def jsd(z: Tensor, y: Tensor, logq: Tensor) -> Tensor:
    q, p = logq.exp(), z.softmax(-1)
    m = 0.2 * q + 0.8 * p
    return 0.2 * (q * (q / m).log()).sum(-1) + 0.8 * (p * (p / m).log()).sum(-1)


def top_k(z: Tensor, y: Tensor, logq: Tensor) -> Tensor:
    q, p = logq.exp(), z.softmax(-1)
    top = q.argsort(descending=True)[:, :3]
    q, p = (torch.cat([x.gather(1, top), 1 - x.gather(1, top).sum(1, keepdim=True)], 1) for x in (q, p))
    return (q * (q / p).log()).sum(-1)


def reverse(z: Tensor, y: Tensor, logq: Tensor) -> Tensor:
    return F.kl_div(logq, z.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def nll(z: Tensor, y: Tensor, logq: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


NAIVE: dict[Objective, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    LabelSmoothing(0.3): lambda z, y, logq: F.cross_entropy(z, y, reduction="none", label_smoothing=0.3),
    ZLoss(0.5): lambda z, y, logq: nll(z, y, logq) + 0.5 * z.logsumexp(-1) ** 2,
    EntropyBonus(0.4): lambda z, y, logq: nll(z, y, logq) - 0.4 * torch.distributions.Categorical(logits=z).entropy(),
    GEM(): gem,
    TargetSFT(eta=0.25): target_sft,
    ForwardKL(): lambda z, y, logq: F.kl_div(z.log_softmax(-1), logq, reduction="none", log_target=True).sum(-1),
    ReverseKL(): reverse,
    JSD(beta=0.2): jsd,
    TopKKL(top_k=3): top_k,
    SequenceSmoothing(): smoothed_by_sequence,
}
CONSTANTS = (GEM, TargetSFT, SequenceSmoothing)  # which hold a part of themselves constant


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


HIDDEN, WEIGHT, BIAS = draw(TOKENS, WIDTH, seed=0), draw(VOCABULARY, WIDTH, seed=1), draw(VOCABULARY, seed=2)
TEACHER = draw(TOKENS, 4, seed=3), Head(draw(VOCABULARY, 4, seed=4), softcap=4.0)  # of another width
HEADS = {"plain": {}, "bias, soft cap and scale": {"softcap": 5.0, "scale": 0.7}}


def solve(
    objective: Objective, inputs: tuple[Tensor, ...], part: slice = slice(None), chunk: int | None = None, **head: float
) -> HeadOutput:
    hidden, weight, *bias = inputs
    sequence = SEQUENCE[part] - SEQUENCE[part][0]
    context = Context(sequence=sequence, sequences=int(sequence[-1]) + 1)
    reference = (TEACHER[0][part], TEACHER[1])
    return objective_loss(
        objective, hidden[part], Head(weight, *bias, **head), TARGETS[part], context, reference=reference, chunk=chunk
    )


@pytest.mark.parametrize("options", HEADS)
@pytest.mark.parametrize("objective", NAIVE, ids=lambda objective: type(objective).__name__)
def test_beside_full_logits(objective: Objective, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By chunks of five tokens, and by blocks of two of these."""
    monkeypatch.setattr(chunked_logits, "_elements", lambda values: 2 * VOCABULARY)
    head = HEADS[options]
    given = (HIDDEN, WEIGHT, BIAS) if head else (HIDDEN, WEIGHT)
    ours, naive = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    out = solve(objective, tuple(ours), chunk=5, **head)
    (0.5 * out.loss).backward()

    hidden, weight, *bias = naive
    z = head.get("scale", 1.0) * (hidden @ weight.T + (bias[0] if bias else 0))
    z = z if "softcap" not in head else 5 * torch.tanh(z / 5)
    logq = (4 * torch.tanh(TEACHER[0] @ TEACHER[1].weight.T / 4)).log_softmax(-1)
    terms = NAIVE[objective](z, TARGETS, logq)
    (0.5 * terms.sum()).backward()
    torch.testing.assert_close(out.terms, terms.detach(), rtol=1e-10, atol=1e-12)
    for own, other in zip(ours, naive, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("objective", NAIVE, ids=lambda objective: type(objective).__name__)
def test_neither_chunks_nor_micro_batches_change_the_sum(objective: Objective) -> None:
    results = []
    for parts, chunk in (([slice(None)], None), ([slice(None)], 1), ([slice(0, 4), slice(4, 11)], 3)):
        inputs = tuple(x.clone().requires_grad_() for x in (HIDDEN, WEIGHT))
        for part in parts:
            solve(objective, inputs, part, chunk).loss.backward()
        results.append([x.grad for x in inputs])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "objective",
    [objective for objective in NAIVE if not isinstance(objective, CONSTANTS)],
    ids=lambda objective: type(objective).__name__,
)
def test_gradients_are_those_of_finite_differences(objective: Objective) -> None:
    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return solve(objective, (hidden, weight), chunk=4, softcap=5.0).loss

    inputs = tuple(x.clone().requires_grad_() for x in (HIDDEN, WEIGHT))
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    step = 1e-5
    for i, gradient in enumerate(gradients):
        direction = draw(*gradient.shape, seed=9)
        ends = []
        for sign in (1, -1):
            moved = [HIDDEN, WEIGHT]
            moved[i] = moved[i] + sign * step * direction
            ends.append(loss(*moved).item())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-7)


def by_hand(objective: Objective, reference: list[float]) -> HeadOutput:
    """One token with probabilities 1/2, 1/4, 1/4, whose target is the first; logits are their logarithms and log 3."""
    hidden = torch.tensor([[0.5, 0.25, 0.25]]).log() + math.log(3)
    teacher = (torch.tensor([reference]).log(), Head(torch.eye(3)))
    context = Context(sequence=torch.tensor([0]), sequences=1)
    return objective_loss(objective, hidden, Head(torch.eye(3)), torch.tensor([0]), context, reference=teacher)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (LabelSmoothing(0.3), math.log(2) * (0.7 + 0.3 * 5 / 3)),
        (ZLoss(0.5), math.log(2) + 0.5 * math.log(3) ** 2),
        (EntropyBonus(0.4), math.log(2) * (1 - 0.4 * 1.5)),
        (GEM(beta=1.0, kind="linear"), -0.5 * math.log(2)),  # the entropy, 1.5 log 2, less than SFT's loss of log 2
        (TargetSFT(eta=0.0), math.log(2) * (0.5 + 0.5 * 1.5)),
        (TargetSFT(eta=1.0), math.log(2) * (0.5 + 0.5 * 1.75)),
        (ForwardKL(), 0.25 * math.log(2)),  # 1/4 log 1/2 + 1/2 log 2 + 0
        (ReverseKL(), 0.25 * math.log(2)),
        (JSD(0.5), 0.5 * (0.25 * math.log(2 / 3) + 0.5 * math.log(4 / 3)) * 2),
        (TopKKL(top_k=1), 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        (TopKKL(top_k=32), 0.25 * math.log(2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else "",
)  # fmt: skip
def test_by_hand(objective: Objective, expected: float) -> None:
    assert by_hand(objective, [0.25, 0.5, 0.25]).loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_stored_teacher_by_hand() -> None:
    """Of the teacher 1/4, 1/2, 1/4 the largest is kept, which is the second token."""
    context = Context(
        sequence=torch.tensor([0]), sequences=1, reference_top_logp=torch.tensor([[0.5]]).log(),
        reference_top_token=torch.tensor([[1]], dtype=torch.int32),
    )  # fmt: skip
    hidden = torch.tensor([[0.5, 0.25, 0.25]]).log().requires_grad_()
    out = objective_loss(StoredTopKKL(top_k=1), hidden, Head(torch.eye(3)), torch.tensor([0]), context)
    assert out.loss.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)
    out.loss.backward()
    # p - q of the kept token; its -1/4 is taken from the others in proportion to their probability, 2 to 1
    assert hidden.grad is not None and hidden.grad[0].tolist() == pytest.approx([1 / 6, -1 / 4, 1 / 12], rel=1e-4)


def test_divergences_of_the_teacher_from_itself_are_zero() -> None:
    for objective in (ForwardKL(), ReverseKL(), JSD(0.3), TopKKL(2)):
        assert by_hand(objective, [0.5, 0.25, 0.25]).loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "other"), [(GEM(1.0, "linear"), SFT()), (LabelSmoothing(0.0), SFT()), (ZLoss(0.0), SFT())]
)
def test_same_gradient(objective: Objective, other: Objective) -> None:
    inputs = tuple(x.clone().requires_grad_() for x in (HIDDEN, WEIGHT))
    gradients = [torch.autograd.grad(solve(each, inputs, chunk=4).loss, inputs) for each in (objective, other)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_an_objective_measures() -> None:
    out = by_hand(ZLoss(), [0.25, 0.5, 0.25])
    assert out.metrics.tolist() == [[pytest.approx(math.log(3) ** 2)]]
    assert by_hand(TargetSFT(eta=1.0), [0.25, 0.5, 0.25]).metrics.tolist() == [[pytest.approx(1.75 * math.log(2))]]
    assert by_hand(SFT(), [0.25, 0.5, 0.25]).metrics.shape == (0, 1)


def test_no_tokens_and_a_frozen_head() -> None:
    """A rank without work takes part with zero gradients; under LoRA the output weight has none."""
    hidden, weight = HIDDEN[:0].clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    none = torch.zeros(0, dtype=torch.long)
    out = objective_loss(LabelSmoothing(), hidden, Head(weight), none, Context(sequence=none, sequences=0))
    out.loss.backward()
    assert out.loss.item() == 0 and weight.grad is not None and not weight.grad.any()
    frozen, whole = (HIDDEN.clone().requires_grad_() for _ in range(2))
    solve(JSD(), (frozen, WEIGHT)).loss.backward()
    solve(JSD(), (whole, WEIGHT.clone().requires_grad_())).loss.backward()
    torch.testing.assert_close(frozen.grad, whole.grad)


@dataclass(frozen=True)
class Confident(Objective):
    """What a user might write: the probability that is not the likeliest token's, of the policy."""

    def row_term(self, d: Distributions) -> Tensor:
        assert d.logp.shape[1] == VOCABULARY and torch.equal(d.of_target(d.logp), d.logp[range(len(d.logp)), d.target])
        return 1 - d.logp.amax(-1).exp()

    def loss(self, t: Targets) -> Tensor:
        return -t.logp * (1 + t.row_term)  # a product: the row term's coefficient depends on the token


def test_a_coefficient_that_depends_on_the_token() -> None:
    ours, naive = ([x.clone().requires_grad_() for x in (HIDDEN, WEIGHT)] for _ in range(2))
    solve(Confident(), tuple(ours), chunk=4).loss.backward()
    z = naive[0] @ naive[1].T
    (nll(z, TARGETS, z) * (2 - z.softmax(-1).amax(-1))).sum().backward()
    for own, other in zip(ours, naive, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-10, atol=1e-12)
