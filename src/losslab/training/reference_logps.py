"""What an objective needs to know before its gradients: passes over the data without any."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from losslab.data.batches import collate, micro_batches, of_answers
from losslab.data.examples import Examples
from losslab.data.loader import MicroBatch, StepBatch
from losslab.models.policy import Policy
from losslab.objectives import Objective
from losslab.progress import bar


@dataclass(frozen=True)
class Reference:
    """Log-probabilities of every answer token under the model before training; empty when the objective needs no
    reference."""

    values: np.ndarray | None = None  # (all answer tokens,) float32, example by example
    offsets: np.ndarray | None = None  # (examples + 1,) int64

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
        offsets = examples.answer_offsets
        there = torch.tensor(int(file.exists()), device=device)
        dist.broadcast(there, src=0)  # one view of the disk for all ranks
        if there:
            return cls(np.load(file, mmap_mode="r"), offsets)
        values = answer_logp(policy, examples, np.arange(len(examples)), budget, device, "reference log-probabilities")
        if dist.get_rank() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            with temporary.open("wb") as stream:
                np.save(stream, values)
            temporary.rename(file)
        dist.barrier()
        return cls(values, offsets)

    def context(self, group: np.ndarray) -> dict[str, Tensor]:
        """Keywords for `Context`, on the host: reference_logp (N,) float32 of the group's answer tokens."""
        if self.values is None or self.offsets is None:
            return {}
        return {"reference_logp": torch.from_numpy(of_answers(self.values, self.offsets, group))}


@dataclass(frozen=True)
class BatchStatistics:
    """What the global batch is before the update: mean negative log-probability of each sequence, and mean p."""

    batch: np.ndarray | None = None  # (B,) examples of the batch, ascending
    nll: Tensor | None = None  # (B,) float32, in that order
    p: Tensor | None = None  # () float32, over the answer tokens

    def context(self, micro: MicroBatch) -> dict[str, Tensor]:
        """Keywords for `Context`: batch_nll (B,) and batch_p () of the batch, sequence_nll (S,) of the micro-batch."""
        if self.batch is None or self.nll is None or self.p is None:
            return {}
        sequence_nll = self.nll[self.places(micro)] if len(micro.examples) else self.nll.new_zeros(1)
        return {"batch_nll": self.nll, "sequence_nll": sequence_nll, "batch_p": self.p}

    def places(self, micro: MicroBatch) -> Tensor:
        """(S,) where the sequences of a micro-batch stand in the batch."""
        assert self.batch is not None and self.nll is not None
        return torch.from_numpy(np.searchsorted(self.batch, micro.examples)).to(self.nll.device, non_blocking=True)


def batch_nll(objective: Objective, policy: Policy, batch: StepBatch, device: torch.device) -> BatchStatistics:
    """Measure the global batch for an objective that needs its statistics. Called on every rank."""
    if not objective.needs & {"batch_nll", "batch_p"}:
        return BatchStatistics()
    statistics = BatchStatistics(np.sort(batch.examples), torch.zeros(len(batch.examples), device=device))
    assert statistics.nll is not None
    total = torch.zeros(2, dtype=torch.float64, device=device)  # of p, and of answer tokens
    for micro in batch.micro_batches:
        moved = micro.batch.to(device)
        logp = policy.target_logp(moved)  # of an empty one too: ranks move in step
        sums = torch.zeros(2, len(micro.examples), dtype=torch.float64, device=device)
        sums.index_add_(1, moved.sequence, torch.stack([logp, torch.ones_like(logp)]).double())
        statistics.nll.index_copy_(0, statistics.places(micro), (-sums[0] / sums[1]).float())
        total += torch.stack([logp.exp(), torch.ones_like(logp)]).double().sum(1)
    dist.all_reduce(statistics.nll)
    dist.all_reduce(total)
    return replace(statistics, p=(total[0] / total[1].clamp(min=1)).float())


def old_logp(objective: Objective, policy: Policy, batch: StepBatch, device: torch.device) -> list[dict[str, Tensor]]:
    """Keywords for `Context` of each micro-batch: old_logp (N,) of its answer tokens under the policy as it is now."""
    if "old_logp" not in objective.needs:
        return [{} for _ in batch.micro_batches]
    return [{"old_logp": policy.target_logp(micro.batch.to(device))} for micro in batch.micro_batches]


def answer_logp(
    policy: Policy, examples: Examples, chosen: np.ndarray, budget: int, device: torch.device, title: str
) -> np.ndarray:
    """Log-probabilities of the answer tokens of some examples under the policy as it is now.

    (N,) float32, example by example in the order of `chosen`, alike on all ranks. Called on every rank; rank 0 shows a
    bar with this title.
    """
    lengths, answers = examples.lengths[chosen], examples.answers[chosen]
    offsets = np.r_[0, answers.cumsum()]
    values = torch.zeros(int(offsets[-1]), device=device)
    groups = micro_batches(np.arange(len(chosen)), lengths, budget, dist.get_rank(), dist.get_world_size())
    progress = bar(title, len(groups), "batch", disable=dist.get_rank() > 0)
    for group in groups:
        batch = collate(examples, chosen[group])
        places = [np.arange(offsets[i], offsets[i + 1]) for i in group] or [np.zeros(0, dtype=np.int64)]
        logp = policy.target_logp((batch.pin_memory() if device.type == "cuda" else batch).to(device))
        values.index_copy_(0, torch.from_numpy(np.concatenate(places)).to(device, non_blocking=True), logp)
        progress.update()
    progress.close()
    dist.all_reduce(values)
    return values.cpu().numpy()
