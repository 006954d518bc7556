"""What an objective needs to know before its gradients: passes over the data without any."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from losslab.data.batches import collate, micro_batches
from losslab.data.examples import Examples
from losslab.models.policy import Policy
from losslab.objectives import Objective
from losslab.progress import bar


@dataclass(frozen=True)
class Reference:
    """Log-probabilities of every answer token under the model before training; nothing for who needs nothing."""

    values: np.ndarray | None = None  # (all answer tokens,) float32, example by example
    offsets: np.ndarray | None = None  # (examples + 1,) int64
    device: torch.device | None = None

    @classmethod
    def of(
        cls,
        objective: Objective,
        file: Path,
        policy: Policy,
        examples: Examples,
        budget: int,
        device: torch.device,
    ) -> "Reference":
        """Read from `file`, or measured with `policy` as it is now and written there. Called on every rank."""
        if "reference_logp" not in objective.needs:
            return cls()
        offsets = np.r_[0, examples.answers.cumsum()]
        there = torch.tensor(int(file.exists()), device=device)
        dist.broadcast(there, src=0)  # one view of the disk for all ranks
        if there:
            return cls(np.load(file, mmap_mode="r"), offsets, device)
        values = answer_logp(policy, examples, np.arange(len(examples)), budget, device, "reference log-probabilities")
        if dist.get_rank() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            with temporary.open("wb") as stream:
                np.save(stream, values)
            temporary.rename(file)
        dist.barrier()
        return cls(values, offsets, device)

    def context(self, group: np.ndarray) -> dict[str, Tensor]:
        """Keywords for `Context`: reference_logp (N,) float32 of the group's answer tokens."""
        if self.values is None or self.offsets is None:
            return {}
        parts = [self.values[self.offsets[i] : self.offsets[i + 1]] for i in group]
        values = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        return {"reference_logp": torch.from_numpy(values).to(self.device)}


@dataclass(frozen=True)
class BatchStatistics:
    """Mean negative log-probability of each sequence of the global batch, before the update."""

    batch: np.ndarray | None = None  # (S,) examples of the batch, ascending
    nll: Tensor | None = None  # (S,) float32, in that order

    def context(self, group: np.ndarray) -> dict[str, Tensor]:
        """Keywords for `Context`: batch_nll (S,) of the batch and sequence_nll of the group's sequences."""
        if self.batch is None or self.nll is None:
            return {}
        own = self.nll[torch.from_numpy(np.searchsorted(self.batch, group))]
        return {"batch_nll": self.nll, "sequence_nll": own if len(group) else self.nll.new_zeros(1)}


def batch_nll(
    objective: Objective,
    policy: Policy,
    examples: Examples,
    batch: np.ndarray,
    groups: list[np.ndarray],
    device: torch.device,
) -> BatchStatistics:
    """Measure the global batch for an objective that needs its statistics. Called on every rank."""
    if "batch_nll" not in objective.needs:
        return BatchStatistics()
    ordered = np.sort(batch)
    nll = torch.zeros(len(ordered), device=device)
    for group in groups:
        logp = _logp(policy, examples, group, device)
        parts = torch.split(logp, examples.answers[group].tolist())
        for example, part in zip(group, parts, strict=True):
            nll[int(np.searchsorted(ordered, example))] = -part.mean()
    dist.all_reduce(nll)
    return BatchStatistics(ordered, nll)


def old_logp(
    objective: Objective, policy: Policy, examples: Examples, groups: list[np.ndarray], device: torch.device
) -> list[dict[str, Tensor]]:
    """Keywords for `Context` of each group: old_logp (N,) of its answer tokens under the policy as it is now."""
    if "old_logp" not in objective.needs:
        return [{} for _ in groups]
    return [{"old_logp": _logp(policy, examples, group, device)} for group in groups]


def answer_logp(
    policy: Policy, examples: Examples, chosen: np.ndarray, budget: int, device: torch.device, title: str
) -> np.ndarray:
    """Log-probabilities of the answer tokens of some examples under the policy as it is now.

    (N,) float32, example by example in the order of `chosen`, alike on all ranks. Called on every rank; rank 0 shows a
    bar with this title.
    """
    lengths, answers = examples.lengths[chosen], examples.answers[chosen]
    offsets = np.r_[0, answers.cumsum()]
    values = torch.zeros(int(offsets[-1]))
    groups = micro_batches(np.arange(len(chosen)), lengths, budget, dist.get_rank(), dist.get_world_size())
    progress = bar(title, len(groups), "batch", disable=dist.get_rank() > 0)
    for group in groups:
        logp = _logp(policy, examples, chosen[group], device).cpu()
        for place, part in zip(group, torch.split(logp, answers[group].tolist()), strict=True):
            values[offsets[place] : offsets[place + 1]] = part
        progress.update()
    progress.close()
    values = values.to(device)
    dist.all_reduce(values)
    return values.cpu().numpy()


@torch.no_grad()
def _logp(policy: Policy, examples: Examples, group: np.ndarray, device: torch.device) -> Tensor:
    return policy(collate(examples, group).to(device), None, {})["logp"]
