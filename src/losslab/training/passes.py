"""Batches as training takes them, and what an objective makes of one without gradients."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from losslab.config.schema import Config
from losslab.data.batch_sampler import BatchSampler
from losslab.data.batches import Shard
from losslab.data.examples import Examples
from losslab.data.loader import KnownExamples, Loader, MicroBatch, MicroBatchSize, StepBatch
from losslab.objectives import Objective
from losslab.training.inference import Inference
from losslab.training.reference_logps import Reference, batch_statistics, old_logp


@dataclass(frozen=True)
class InOrder:
    """Some units of data in batches, in their order."""

    units: np.ndarray
    batch_size: int

    @property
    def steps(self) -> int:
        return -(-len(self.units) // self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Indices of the units of a batch, counted from 0."""
        return self.units[step * self.batch_size : (step + 1) * self.batch_size]


def loader(
    config: Config, examples: Examples, sampler: BatchSampler, reference: Reference, device: torch.device
) -> Loader:
    """Hands out this rank's micro-batches of the sampler's batches, with what is kept of the reference."""
    tokens = config.machine.micro_batch_tokens
    assert isinstance(tokens, int)
    return Loader(
        KnownExamples(examples, reference.context),
        sampler,
        MicroBatchSize(tokens, config.train.micro_batch),
        Shard.own(),
        pinned=device.type == "cuda",
        mismatched=reference.mismatched,
    )


@torch.no_grad()
def outputs(
    inference: Inference, objective: Objective, batch: StepBatch
) -> Iterator[tuple[MicroBatch, dict[str, Tensor]]]:
    """The micro-batches of this rank on the device, each with the fields of `HeadOutput`. Called on every rank.

    The old policy of an objective that has one is the current policy here.
    """
    policy, device = inference.policy, inference.device
    statistics = batch_statistics(objective, policy, batch, device)
    old = old_logp(objective, policy, batch, device)
    for micro, old_logps in zip(batch.micro_batches, old, strict=True):
        moved = micro.to(device)
        yield moved, policy(moved.batch, objective, moved.context | statistics.context(moved) | old_logps)
    policy.end_backward()
