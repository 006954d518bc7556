"""Objectives: each is plain tensor code on the log-probabilities of the answer tokens.

A new one is one file with one frozen dataclass, anywhere on the Python path, and a YAML whose `_target_` names it:

    @dataclass(frozen=True)
    class DFT(Objective):
        def loss(self, t: Targets) -> Tensor:
            return -t.p * t.logp

`losslab.models.fused_loss.objective_loss` turns it into a loss and gradients. Nothing is registered.

A plan, a table and a report read the parameters and needs of objectives and compute nothing. The import of torch takes
longer than all of their work, so the modules here take `torch` and `Tensor` from this one, which imports torch at the
first use of one of its functions. An objective elsewhere may import torch as usual.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    Tensor = Any  # in annotations

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            import torch

            return getattr(torch, name)

    torch = _Torch()

Scope = Literal["token", "sequence", "batch"]
Need = Literal[
    "reference_logp", "reference_distribution", "reference_top", "old_logp", "batch_nll", "batch_p", "pairs", "reward",
    "token_weight", "teacher", "mismatched_kl",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an objective may read besides log-probabilities, for N answer tokens in S sequences of a micro-batch."""

    sequence: Tensor  # (N,) int64 in [0, S), not decreasing: the sequence of each token
    sequences: int  # S
    reference_logp: Tensor | None = None  # (N,) float32, the same tokens under the frozen reference model
    reference_top_logp: Tensor | None = None  # (N, k) float32, the reference's largest log-probabilities, descending
    reference_top_token: Tensor | None = None  # (N, k) int32, their tokens
    old_logp: Tensor | None = None  # (N,) float32, under the policy at the start of the collected batch
    token_weight: Tensor | None = None  # (N,) float32, what the data set says of each token, at least 0
    reward: Tensor | None = None  # (S,) float32, 1 for a right answer and 0 for a wrong one
    success_rate: Tensor | None = None  # (S,) float32, the share of right answers among those to the same question
    sequence_nll: Tensor | None = None  # (S,) float32, mean -log p of each sequence before this update, nats per token
    batch_nll: Tensor | None = None  # (B,) float32, the same for all sequences of the global batch, over ranks too
    # () float32, the mean over the global batch of log p - log p_ref of answers to other questions, before this update,
    # at least 0
    mismatched_kl: Tensor | None = None
    batch_p: Tensor | None = None  # () float32, mean p of the answer tokens of the global batch, before this update

    def tokens(self, part: slice) -> "Context":
        """The context of a contiguous part of the tokens; what belongs to sequences or to the batch stays whole."""
        names = ("sequence", "reference_logp", "reference_top_logp", "reference_top_token", "old_logp", "token_weight")
        cut = {name: getattr(self, name) for name in names}
        return replace(self, **{name: value[part] for name, value in cut.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """R answer tokens over the vocabulary of V. Only `logp` and `logsumexp` carry gradients; both are float32, or more.

    The logits are logp + logsumexp[:, None].
    """

    logp: Tensor  # (R, V) log-probabilities of all tokens, nats
    logsumexp: Tensor  # (R,) of the logits
    target: Tensor  # (R,) int64
    reference_logp: Tensor | None = None  # (R, V) likewise, under the reference, for an objective that needs it
    reference_top: tuple[Tensor, Tensor] | None = None  # (R, k) and (R, k): those of the context, where it has them

    def of_target(self, values: Tensor) -> Tensor:
        """(R, V) -> (R,): the values at the target tokens."""
        return values.gather(1, self.target[:, None]).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Targets(Context):
    """The answer tokens of a micro-batch as an objective sees them.

    Only `logp`, `reference_kl` and `row_term` carry gradients. ValueError where an objective reads what its class does
    not declare: anything in its place would train another loss than the one that is written.
    """

    logp: Tensor  # (N,) float32 log-probability of the target token, at most 0
    entropy: Tensor  # (N,) float32 entropy of the distribution over the vocabulary, nats, detached
    scope: Scope = "token"  # of the objective: all tokens of a sequence are there in "sequence" alone
    # (N,) float32 each: `statistic`, `reference_kl` and `row_term`, of those that the objective declares
    declared: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def statistic(self) -> Tensor:
        """(N,) float32, what `Objective.statistic` returned, detached."""
        return self._declared("statistic", "give the objective a method `statistic`")

    @property
    def reference_kl(self) -> Tensor:
        """(N,) float32 KL(reference || policy) over the vocabulary, nats."""
        return self._declared("reference_kl", 'put "reference_distribution" into `needs` of the objective')

    @property
    def row_term(self) -> Tensor:
        """(N,) float32, what `Objective.row_term` returned."""
        return self._declared("row_term", "give the objective a method `row_term`")

    @property
    def p(self) -> Tensor:
        """(N,) probability of the target token, detached: the stop-gradient of the formulas."""
        return self.logp.detach().exp()

    def sequence_sum(self, values: Tensor) -> Tensor:
        """(N,) -> (S,): the sum over the tokens of each sequence, for an objective of scope "sequence"."""
        if self.scope != "sequence":  # whatever the chunks are here, so that it fails on every machine alike
            raise ValueError(
                "t.sequence_sum and t.sequence_mean need all tokens of a sequence, of which a part may be given: set "
                'scope = "sequence" in the class of the objective'
            )
        return values.new_zeros(self.sequences).index_add(0, self.sequence, values)

    def sequence_mean(self, values: Tensor) -> Tensor:
        """(N,) -> (S,): the mean over the tokens of each sequence, likewise; zero for a sequence without tokens."""
        return self.sequence_sum(values) / self.sequence_sum(torch.ones_like(values)).clamp(min=1)

    def _declared(self, name: str, how: str) -> Tensor:
        if name not in self.declared:
            raise ValueError(f"t.{name} is not there: {how}")
        return self.declared[name]


@dataclass(frozen=True)
class Objective(ABC):
    """Base class of objectives. The fields of a subclass are its parameters."""

    # How the loss couples tokens. "token": each term depends on the log-probability of one token. "batch": the same,
    # once the loop has measured statistics of the global batch. Both take loss and gradients in one pass.
    # "sequence": terms couple the tokens of a micro-batch, so log-probabilities come first and gradients second.
    scope: ClassVar[Scope] = "token"
    # What the loop must supply. A teacher is a reference of another name; "reference_top" is its `top_k`, a parameter.
    needs: ClassVar[frozenset[Need]] = frozenset()
    # Set to a method (R, V) float32 probabilities -> (R,) where the loss reads the whole distribution of a token. Its
    # result arrives, detached, as `Targets.statistic`. It must neither keep nor change the probabilities.
    statistic: ClassVar[Callable[..., Tensor] | None] = None

    # Set to a method `Distributions` -> (R,) where the loss moves probability among tokens that are not the target, as
    # a divergence from a teacher does. It is called on blocks of tokens and differentiated there with respect to all
    # their logits, so it may use any functions of torch that act on each row alone; it detaches what gets no gradient.
    # Its result arrives as `Targets.row_term`, and `loss` says how much of it is in the loss.
    row_term: ClassVar[Callable[..., Tensor] | None] = None
    # Names of what `measure` returns: they must not be those of other numbers in metrics.jsonl.
    metrics: ClassVar[tuple[str, ...]] = ()

    def measure(self, t: Targets) -> tuple[Tensor, ...]:
        """(N,) for each of `metrics`, whose means over the answer tokens of the global batch are metrics of the step.

        It is called without gradients.
        """
        return ()

    @abstractmethod
    def loss(self, t: Targets) -> Tensor:
        """The terms of the loss, to be SUMMED: (N,) one per token; with scope "sequence" also (S,) one per sequence or
        (S/2,) one per pair.

        No division by a token count: the loop divides once, by the global batch, and the natural normaliser is the
        number of terms.
        """
