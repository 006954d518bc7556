"""An objective on a few random tokens, so that a mistake in it is told before a model or data are loaded."""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from losslab.config.messages import first_line
from losslab.models.fused_loss import Head, HeadOutput, objective_loss
from losslab.objectives import Context, Objective

TOKENS, SEQUENCES, WIDTH = 8, 4, 2
CHUNK = 3  # which divides neither the tokens nor a sequence
VOCABULARY, LARGEST = 2**12, 2**18  # the latter for an objective that names a token which the former does not have

_works: set[tuple[type[Objective], str]] = set()  # what this process has tried, by its parameters


def try_out(objective: Objective) -> None:
    """Take loss and gradients of 8 random tokens in 4 sequences, at once and in chunks; random numbers are as before.

    Raises ValueError, with one sentence, for an objective that fails, and for one of scope "token" or "batch" whose
    result for a token depends on which others are given with it: the chunks, and so the memory of the machine, would
    decide what is trained. It runs on the CPU, in a fraction of a second, and once in a process.
    """
    name, key = type(objective).__name__, (type(objective), repr(objective))
    if key in _works:
        return
    try:
        with torch.random.fork_rng(devices=[]), _uncompiled():
            try:
                whole, again, chunks = _results(objective, VOCABULARY)
            except (IndexError, RuntimeError):
                try:
                    whole, again, chunks = _results(objective, LARGEST)
                except RuntimeError:  # it holds a number for each token of a real vocabulary, or is for a GPU alone
                    return
    except ValueError as error:
        raise ValueError(str(error) if name in str(error) else f"{name}: {first_line(error)}") from error
    except Exception as error:
        raise ValueError(
            f"{name} fails on a few random tokens ({type(error).__name__}: {first_line(error)}): change it, or put "
            "what it reads beside log-probabilities into `needs`"
        ) from error
    random = not _alike(whole, again)  # such as a mask that is drawn: nothing to compare
    if objective.scope != "sequence" and not random and not _alike(whole, chunks):
        raise ValueError(
            f"{name}.loss of a token depends on which other tokens are given with it, which the memory of a machine "
            'decides: compute each term from its own token, or set scope = "sequence" for what couples the tokens of a '
            "sequence"
        )
    _works.add(key)


def _uncompiled() -> AbstractContextManager[object]:
    """Without what torch.compile would do for a CPU: the training may be on a GPU, and a compiler need not be here."""
    compiles = "torch._dynamo" in sys.modules  # whose import takes seconds
    return torch.compiler.set_stance("force_eager") if compiles else nullcontext()


def _alike(one: HeadOutput, other: HeadOutput) -> bool:
    """Whether terms and weights are the same, but for rounding."""
    pairs = ((one.terms, other.terms), (one.weight, other.weight))
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs)


def _results(objective: Objective, vocabulary: int) -> list[HeadOutput]:
    """Of all tokens at once, the same again, and in chunks."""
    return [_of_random_tokens(objective, vocabulary, chunk) for chunk in (TOKENS, TOKENS, CHUNK)]


def _of_random_tokens(objective: Objective, vocabulary: int, chunk: int) -> HeadOutput:
    """Loss and gradients of the same tokens in each call, with what the objective needs."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, TOKENS, WIDTH, generator=generator)
    weight = torch.randn(2, vocabulary, WIDTH, generator=generator)
    targets = torch.randint(vocabulary, (TOKENS,), generator=generator)
    leaf = hidden[0].requires_grad_()
    reference = (hidden[1], Head(weight[1])) if "reference_distribution" in objective.needs else None
    context = _context(objective, vocabulary, generator)
    with torch.enable_grad():
        out = objective_loss(objective, leaf, Head(weight[0]), targets, context, reference=reference, chunk=chunk)
        out.loss.backward()
    return out


def _context(objective: Objective, vocabulary: int, generator: torch.Generator) -> Context:
    """What the loop would supply, and nothing else: an objective that has not declared what it reads is to fail."""

    def positive(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    needs, halves = objective.needs, torch.arange(SEQUENCES) % 2
    context = Context(sequence=torch.arange(TOKENS) * SEQUENCES // TOKENS, sequences=SEQUENCES)
    if "reference_logp" in needs:
        context = replace(context, reference_logp=-positive(TOKENS))
    if "old_logp" in needs:
        context = replace(context, old_logp=-positive(TOKENS))
    if "token_weight" in needs:
        context = replace(context, token_weight=positive(TOKENS))
    if "reference_top" in needs:
        k = min(objective.top_k, vocabulary - 1)  # type: ignore[attr-defined]  # as in losslab.training.reference_logps
        logp, token = torch.randn(TOKENS, vocabulary, generator=generator).log_softmax(-1).topk(k)
        context = replace(context, reference_top_logp=logp, reference_top_token=token.int())
    if "reward" in needs:
        context = replace(context, reward=halves.float(), success_rate=torch.full((SEQUENCES,), 0.5))
    if "mismatched_kl" in needs:
        context = replace(context, mismatched_kl=positive())
    if needs & {"batch_nll", "batch_p"}:
        nll = positive(SEQUENCES)
        context = replace(context, sequence_nll=nll, batch_nll=nll, batch_p=positive())
    return context
