"""What an objective makes of data, without gradients."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from losslab.config.schema import Config
from losslab.data.examples import Examples
from losslab.data.loader import Loader, MicroBatch, StepBatch
from losslab.models.policy import Policy
from losslab.objectives import Objective
from losslab.training.reference_logps import Reference, batch_nll, old_logp


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
    config: Config, examples: Examples, units: np.ndarray, batch_size: int, reference: Reference, device: torch.device
) -> Loader:
    """Hands out batches of some units as training would."""
    assert isinstance(config.machine.micro_batch_tokens, int)
    return Loader(
        examples,
        InOrder(units, batch_size),
        reference.context,
        tokens=config.machine.micro_batch_tokens,
        rows=config.train.micro_batch,
        rank=dist.get_rank(),
        ranks=dist.get_world_size(),
        pinned=device.type == "cuda",
        mismatched=reference.mismatched,
    )


@torch.no_grad()
def outputs(
    policy: Policy, objective: Objective, batch: StepBatch, device: torch.device
) -> Iterator[tuple[MicroBatch, dict[str, Tensor]]]:
    """The micro-batches of this rank on the device, each with the fields of `HeadOutput`. Called on every rank.

    An objective with an old policy finds it equal to the one at hand.
    """
    statistics = batch_nll(objective, policy, batch, device)
    old = old_logp(objective, policy, batch, device)
    for micro, old_logps in zip(batch.micro_batches, old, strict=True):
        moved = micro.to(device)
        yield moved, policy(moved.batch, objective, moved.context | statistics.context(moved) | old_logps)
    policy.end_backward()
