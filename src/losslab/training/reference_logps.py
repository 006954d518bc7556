"""Forward-only passes that compute what an objective needs before its gradients."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from losslab.data.batches import of_answers
from losslab.data.examples import Examples
from losslab.data.loader import KnownExamples, MicroBatch, StepBatch
from losslab.data.mismatched import mismatched
from losslab.models.policy import Policy
from losslab.objectives import Objective
from losslab.training.inference import Inference


@dataclass(frozen=True)
class Reference:
    """What is kept of the reference for every answer token; empty when the objective needs none of it."""

    stored: dict[str, np.ndarray]  # (all answer tokens, ...), example by example, by what `Context` calls them
    offsets: np.ndarray  # (examples + 1,) int64
    mismatched: KnownExamples | None = None  # examples with mismatched answers, and their reference logps

    @classmethod
    def of(cls, objective: Objective, file: Path, inference: Inference, examples: Examples) -> "Reference":
        """Read from `files`, or measured with the policy as it is now and written there.

        The top_k of all answer tokens are held on each device while they are measured, at 8 bytes each. Called on every
        rank.
        """
        stored, pairs = dict[str, np.ndarray](), None
        for need, path in files(objective, file).items():
            there = torch.tensor(int(path.exists()), device=inference.device)
            dist.broadcast(there, src=0)  # one view of the disk for all ranks
            others = mismatched(examples) if need == "mismatched_kl" else examples
            if not there:
                _measure(objective, need, path, inference, others)
            values = np.load(path, mmap_mode="r")
            if need == "reference_top":
                stored |= {f"reference_top_{name}": values[name] for name in ("logp", "token")}
            elif need == "mismatched_kl":
                pairs = KnownExamples(others, cls({"reference_logp": values}, others.answer_offsets).context)
            else:
                stored[need] = values
        return cls(stored, examples.answer_offsets, pairs)

    def context(self, group: np.ndarray) -> dict[str, Tensor]:
        """Keywords for `Context`, on the host: what is kept for the group's answer tokens, (N, ...)."""
        return {name: torch.from_numpy(of_answers(values, self.offsets, group)) for name, values in self.stored.items()}


def files(objective: Objective, file: Path) -> dict[str, Path]:
    """The file of each part of a reference that an objective needs to be kept: `file`, or one beside it."""
    names = {"reference_logp": file.name, "mismatched_kl": f"{file.stem}-mismatched.npy"}
    if "reference_top" in objective.needs:
        names["reference_top"] = f"{file.stem}-top{objective.top_k}.npy"  # type: ignore[attr-defined]
    return {need: file.with_name(name) for need, name in names.items() if need in objective.needs}


def _measure(objective: Objective, need: str, file: Path, inference: Inference, examples: Examples) -> None:
    """Write to `file` what is kept of the reference, with the policy as it is now. Called on every rank."""
    policy, chosen, title = inference.policy, np.arange(len(examples)), "reference log-probabilities"
    if need != "reference_top":
        values = inference.answer_logp(examples, chosen, title)
    else:
        vocabulary = policy.model.config.get_text_config(decoder=True).vocab_size
        k: int = min(objective.top_k, vocabulary - 1)  # type: ignore[attr-defined]  # all others count as one token
        logp, token = inference.of_all(lambda batch: policy.top_logp(batch, k), examples, chosen, title)
        values = np.empty(len(logp), dtype=[("logp", "<f4", logp.shape[1:]), ("token", "<i4", logp.shape[1:])])
        values["logp"], values["token"] = logp.cpu(), token.cpu()
    if dist.get_rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        with temporary.open("wb") as stream:
            np.save(stream, values)
        temporary.rename(file)
    dist.barrier()


@dataclass(frozen=True)
class BatchStatistics:
    """What the global batch is before the update: mean negative log-probability of each sequence, mean p, and the mean
    log-ratio to the reference of other answers."""

    batch: np.ndarray | None = None  # (B,) examples of the batch, ascending
    nll: Tensor | None = None  # (B,) float32, in that order
    p: Tensor | None = None  # () float32, over the answer tokens
    kl: Tensor | None = None  # () float32, at least 0

    def context(self, micro: MicroBatch) -> dict[str, Tensor]:
        """Keywords for `Context`, of the batch, and of the micro-batch sequence_nll (S,)."""
        kl = {} if self.kl is None else {"mismatched_kl": self.kl}
        if self.batch is None or self.nll is None or self.p is None:
            return kl
        sequence_nll = self.nll[self.places(micro)] if len(micro.examples) else self.nll.new_zeros(1)
        return {"batch_nll": self.nll, "sequence_nll": sequence_nll, "batch_p": self.p} | kl

    def places(self, micro: MicroBatch) -> Tensor:
        """(S,) where the sequences of a micro-batch stand in the batch."""
        assert self.batch is not None and self.nll is not None
        return torch.from_numpy(np.searchsorted(self.batch, micro.examples)).to(self.nll.device, non_blocking=True)


def batch_statistics(objective: Objective, policy: Policy, batch: StepBatch, device: torch.device) -> BatchStatistics:
    """Measure the global batch for an objective that needs its statistics. Called on every rank."""
    kl = _mismatched_kl(policy, batch, device) if "mismatched_kl" in objective.needs else None
    if not objective.needs & {"batch_nll", "batch_p"}:
        return BatchStatistics(kl=kl)
    statistics = BatchStatistics(np.sort(batch.examples), torch.zeros(len(batch.examples), device=device), kl=kl)
    assert statistics.nll is not None
    total = torch.zeros(2, dtype=torch.float64, device=device)  # of p, and of answer tokens
    for micro in batch.micro_batches:
        moved = micro.batch.to(device)
        logp = policy.target_logp(moved)  # of empty micro-batches too: every rank must make as many calls
        sums = torch.zeros(2, len(micro.examples), dtype=torch.float64, device=device)
        sums.index_add_(1, moved.sequence, torch.stack([logp, torch.ones_like(logp)]).double())
        statistics.nll.index_copy_(0, statistics.places(micro), (-sums[0] / sums[1]).float())
        total += torch.stack([logp.exp(), torch.ones_like(logp)]).double().sum(1)
    dist.all_reduce(statistics.nll)
    dist.all_reduce(total)
    return replace(statistics, p=(total[0] / total[1].clamp(min=1)).float())


def _mismatched_kl(policy: Policy, batch: StepBatch, device: torch.device) -> Tensor:
    """() float32: the mean log-ratio to the reference of the batch's prompts with other answers, at least 0."""
    total = torch.zeros(2, dtype=torch.float64, device=device)  # of log-ratios, and of answers
    for micro in batch.mismatched:
        moved = micro.to(device)
        ratio = policy.target_logp(moved.batch) - moved.context["reference_logp"]
        total += torch.stack([ratio.double().sum(), ratio.new_tensor(len(micro.examples), dtype=torch.float64)])
    dist.all_reduce(total)
    return (total[0] / total[1].clamp(min=1)).clamp(min=0).float()


def old_logp(objective: Objective, policy: Policy, batch: StepBatch, device: torch.device) -> list[dict[str, Tensor]]:
    """Keywords for `Context` of each micro-batch: old_logp (N,) of its answer tokens under the policy as it is now."""
    if "old_logp" not in objective.needs:
        return [{} for _ in batch.micro_batches]
    return [{"old_logp": policy.target_logp(micro.batch.to(device))} for micro in batch.micro_batches]
