"""Mistakes in an objective of one's own: one sentence, on every machine alike."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from losslab.models.fused_loss import Head, HeadOutput, objective_loss
from losslab.objectives import Context, Need, Objective, Scope, Targets

TOKENS, SEQUENCES = 12, 3
CHUNKS = (None, 5, 4)
UNPOOLED = "t.sequence_sum and t.sequence_mean need all tokens of a sequence, .*: set scope = .sequence. in the class"
NO_LOSS_GRADIENT = "has no gradient: let it depend on t.logp, t.reference_kl or t.row_term"


def own(
    loss: Callable[[Targets], object],
    *,
    name: str = "Own",
    scope: Scope = "token",
    needs: frozenset[Need] = frozenset(),
    **methods: object,
) -> Objective:
    """An objective with this loss, and with other methods and class variables of an objective."""
    body = {"loss": lambda self, t: loss(t), "scope": scope, "needs": needs, **methods}
    return dataclass(frozen=True)(type(name, (Objective,), body))()


def run(objective: Objective, chunk: int | None) -> HeadOutput:
    """Twelve tokens in three sequences, over a vocabulary of twenty."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, 8, generator=generator).requires_grad_()
    weight = torch.randn(20, 8, generator=generator)
    targets = torch.randint(20, (TOKENS,), generator=generator)
    context = Context(sequence=torch.arange(TOKENS) // 4, sequences=SEQUENCES)
    return objective_loss(objective, hidden, Head(weight), targets, context, chunk=chunk)


def geometric(t: Targets) -> Tensor:
    return -t.sequence_mean(t.p)[t.sequence] * t.logp


MISTAKES: dict[str, tuple[Objective, str]] = {
    "a weight of the sequence without its scope": (own(geometric), UNPOOLED),
    "a mean of the sequence without its scope": (own(lambda t: -t.sequence_mean(t.logp)), UNPOOLED),
    "one in the scope of the batch": (own(lambda t: -t.sequence_sum(t.logp), scope="batch"), UNPOOLED),
    "a reference that is not declared": (
        own(lambda t: -t.logp + t.reference_kl),
        't.reference_kl is not there: put "reference_distribution" into `needs`',
    ),
    "a statistic that is not declared": (
        own(lambda t: -(1 + t.statistic) * t.logp),
        "t.statistic is not there: give the objective a method `statistic`",
    ),
    "a row term that is not declared": (
        own(lambda t: -t.logp + t.row_term),
        "t.row_term is not there: give the objective a method `row_term`",
    ),
    "a mean": (
        own(lambda t: -t.logp.mean()),
        "Own.loss returns a tensor of shape \\(\\) for [0-9]+ tokens: return one term for each token, of the shape",
    ),
    "a column": (own(lambda t: -t.logp[:, None]), "Own.loss returns a tensor of shape \\([0-9]+, 1\\) for"),
    "no tensor": (own(lambda t: 0.5), "Own.loss returns 0.5 for [0-9]+ tokens: return one term for each token"),
    "a mean with the scope of sequences": (
        own(lambda t: -t.logp.mean(), scope="sequence"),
        "or one for each of [0-9]+ sequences",
    ),
    "pairs without the need": (
        own(lambda t: -t.sequence_sum(t.logp)[::2], scope="sequence"),
        "return one term for each token, of the shape of t.logp, or one for each of [0-9]+ sequences$",
    ),
    "a detached loss": (own(lambda t: -t.p * t.p.log()), f"Own.loss {NO_LOSS_GRADIENT}"),
    "a detached row term": (
        own(lambda t: t.row_term, row_term=lambda self, d: d.logp.detach().sum(-1)),
        "Own.row_term has no gradient: let it depend on d.logp or d.logsumexp",
    ),
    "a row term of the block": (
        own(lambda t: t.row_term, row_term=lambda self, d: d.logp.sum()),
        "Own.row_term returns a tensor of shape \\(\\) for [0-9]+ tokens: return one number for each",
    ),
    "a statistic of the block": (
        own(lambda t: -t.statistic * t.logp, statistic=lambda self, p: p.max()),
        "Own.statistic returns a tensor of shape \\(\\) for [0-9]+ tokens: return one number for each",
    ),
    "a metric of the batch": (
        own(lambda t: -t.logp, metrics=("m",), measure=lambda self, t: (t.p.mean(),)),
        "Own.measure returns a tensor of shape \\(\\) for [0-9]+ tokens",
    ),
    "a metric without a name": (
        own(lambda t: -t.logp, measure=lambda self, t: (t.p,)),
        "Own.measure does not return what `metrics` names: return a tuple of 0 tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_whatever_the_chunks(mistake: str, chunk: int | None) -> None:
    objective, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        run(objective, chunk)


def test_a_weight_of_the_sequence_with_its_scope_does_not_depend_on_the_chunks() -> None:
    outs = [run(own(geometric, scope="sequence"), chunk) for chunk in CHUNKS]
    p = outs[0].logp.exp()
    means = torch.stack([p[first : first + 4].mean() for first in (0, 4, 8)])
    for out in outs:
        torch.testing.assert_close(out.terms, -means.repeat_interleave(4) * outs[0].logp)
        torch.testing.assert_close(out.weight, means.repeat_interleave(4))


@pytest.mark.parametrize(("scope", "length"), [("token", 12), ("sequence", 3)])
def test_the_number_of_terms_is_the_natural_normaliser(scope: Scope, length: int) -> None:
    loss = (lambda t: -t.sequence_mean(t.logp)) if scope == "sequence" else (lambda t: -t.logp)
    for chunk in CHUNKS:
        assert run(own(loss, scope=scope), chunk).terms.shape == (length,)
