"""The micro-batches of each step on this rank, made by a thread while the step before is computed."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from losslab.data.batch_sampler import BatchSampler
from losslab.data.batches import Batch, Shard, collate, micro_batches, micro_batches_of, rewards, token_weights
from losslab.data.examples import Examples

Context = Callable[[np.ndarray], dict[str, Tensor]]  # from the indices of examples to keywords for an objective's


@dataclass(frozen=True)
class MicroBatch:
    """Whole sequences that a rank takes at once, and what the data say of them."""

    examples: np.ndarray  # (S,) indices
    batch: Batch
    # Keywords for `Context` that are known before training: rewards, weights, reference_logp.
    context: dict[str, Tensor]

    def to(self, device: torch.device) -> "MicroBatch":
        """On a device; the host does not wait for the copy where the memory is pinned."""
        context = {name: value.to(device, non_blocking=True) for name, value in self.context.items()}
        return replace(self, batch=self.batch.to(device), context=context)

    def pin_memory(self) -> "MicroBatch":
        context = {name: value.pin_memory() for name, value in self.context.items()}
        return replace(self, batch=self.batch.pin_memory(), context=context)


@dataclass(frozen=True)
class StepBatch:
    """The data of one step."""

    examples: np.ndarray  # indices of the global batch
    micro_batches: list[MicroBatch]  # those of this rank: as many on every rank
    tokens: int  # the size that they were made for
    waited: float = 0.0  # seconds until they were there
    mismatched: list[MicroBatch] = field(default_factory=list)  # its prompts with other answers, where asked for


@dataclass(frozen=True)
class KnownExamples:
    """Examples, and what is known of them before training."""

    examples: Examples
    context: Context

    def micro_batch(self, group: np.ndarray) -> MicroBatch:
        """Of the examples (S,) of a group, on the host."""
        known = self.context(group) | rewards(self.examples, group) | token_weights(self.examples, group)
        return MicroBatch(group, collate(self.examples, group), known)


@dataclass(frozen=True)
class MicroBatchSize:
    """How much data a rank takes at once."""

    tokens: int  # at most
    rows: int | None = None  # in place of that, so many units of data


class Loader:
    """Hands out the data of each step; `mismatched` are the same examples with other answers."""

    def __init__(
        self,
        data: KnownExamples,
        sampler: BatchSampler,
        size: MicroBatchSize,
        shard: Shard,
        *,
        pinned: bool = False,
        mismatched: KnownExamples | None = None,
    ) -> None:
        self.data, self.sampler, self.size, self.shard = data, sampler, size, shard
        self.pinned, self.mismatched = pinned, mismatched
        self.lengths = data.examples.units  # tokens of each unit
        self._thread = ThreadPoolExecutor(1, "loader")
        self._ahead: tuple[int, Future[StepBatch]] | None = None  # a step, and its data in the making

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self, step: int) -> StepBatch:
        """The data of a step; those of the next one are begun."""
        began = time.perf_counter()
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._thread.submit(self._make, step)
        batch = self._ahead[1].result()
        self._ahead = None
        if step + 1 < self.sampler.steps:
            self._ahead = step + 1, self._thread.submit(self._make, step + 1)
        return replace(batch, waited=time.perf_counter() - began)

    def resize(self, tokens: int) -> None:
        """Make micro-batches of so many tokens from the next `take` on."""
        self.size, self._ahead = replace(self.size, tokens=tokens), None

    def _make(self, step: int) -> StepBatch:
        units, expand, size = self.sampler.batch(step), self.data.examples.expand, self.size
        if size.rows is None:
            shares = micro_batches(units, self.lengths, size.tokens, self.shard)
        else:
            shares = micro_batches_of(units, size.rows, self.shard)
        groups = [self._micro_batch(self.data, expand(share)) for share in shares]
        others = []
        if self.mismatched is not None:
            shares = micro_batches(units, self.mismatched.examples.lengths, size.tokens, self.shard)
            others = [self._micro_batch(self.mismatched, share) for share in shares]
        return StepBatch(expand(units), groups, size.tokens, mismatched=others)

    def _micro_batch(self, data: KnownExamples, group: np.ndarray) -> MicroBatch:
        micro = data.micro_batch(group)
        return micro.pin_memory() if self.pinned else micro
