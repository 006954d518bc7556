"""Throughput of a step: tokens per second, share of the hardware's peak (MFU), and peak memory."""

import resource
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from losslab.distributed import gpus
from losslab.models.policy import Policy

EXPERTS = ".experts."  # in the names of their weights


@dataclass(frozen=True)
class Work:
    """FLOPs of training, forward and backward, counted from a model's matrix products.

    A weight costs 2 FLOPs per token forward and 4 backward, a frozen one 2 + 2 (its own gradient is not computed);
    causal attention costs half of full attention; the output layer counts at answer positions only. Recomputation is
    not counted. Of the weights of experts those count that a token is given to.
    """

    per_token: float
    per_answer: float
    per_pair: float  # of a token and one that it attends to

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Work":
        """The work of a model, whose weights may be sharded or on the meta device."""
        config, output = model.config.get_text_config(decoder=True), model.get_output_embeddings().weight
        outer = {id(output), id(model.get_input_embeddings().weight)}
        inner = {name: p for name, p in model.named_parameters() if _multiplies(name, p) and id(p) not in outer}
        chosen = _chosen_experts(config)
        heads = getattr(config, "num_attention_heads", 0)  # a recurrent model has none
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
        return cls(
            per_token=sum(_passes(p) * p.numel() * (chosen if EXPERTS in name else 1) for name, p in inner.items()),
            per_answer=_passes(output) * output.numel(),
            per_pair=12 * config.num_hidden_layers * heads * head_dim,
        )

    def flops(self, lengths: np.ndarray, answers: int) -> float:
        """FLOPs for sequences of these lengths (S,) with `answers` answer tokens in all."""
        pairs = float(np.square(lengths, dtype=float).sum()) / 2
        return self.per_token * float(lengths.sum()) + self.per_answer * answers + self.per_pair * pairs


def _multiplies(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is the weight of a matrix product; those of experts may be fused into three dimensions."""
    return not name.endswith("bias") and (parameter.ndim == 2 or (parameter.ndim == 3 and EXPERTS in name))


def _chosen_experts(config: PretrainedConfig) -> float:
    """The share of a layer's routed experts that a token is given to."""
    numbers = (getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    experts = next((number for number in numbers if number), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return chosen / experts if chosen and experts else 1.0


def _passes(weight: Tensor) -> int:
    return 6 if weight.requires_grad else 4


@dataclass(frozen=True)
class Speed:
    """Measures the steps of a run on `ranks` devices of one kind."""

    work: Work
    device: torch.device
    ranks: int

    @classmethod
    def of(cls, policy: Policy, device: torch.device, ranks: int) -> "Speed":
        return cls(Work.of(policy.model), device, ranks)

    def measure(self, lengths: np.ndarray, answers: int, seconds: float) -> dict[str, Any]:
        """The metrics of a step over sequences of these lengths (S,); memory is that of this rank, in bytes.

        `mfu` is the counted FLOPs divided by the devices' peak, given only if the peak is known.
        """
        tokens, peak = int(lengths.sum()), peak_flops(self.device)
        row = {
            "tokens": tokens,
            "seconds": round(seconds, 4),
            "tokens_per_second": round(tokens / seconds),
            "answer_tokens_per_second": round(answers / seconds),
            "peak_memory": peak_memory(self.device),
        }
        if peak is not None:
            row["mfu"] = round(self.work.flops(lengths, answers) / seconds / (peak * self.ranks), 4)
        return row


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOPs per second of one device; None if it is not known."""
    return gpus.peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Measure the peak of a GPU's memory from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def gpu_peak(device: torch.device) -> int | None:
    """Peak bytes of the GPU's allocator since `forget_peak`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of the GPU's allocator since `forget_peak`, or of this process so far on a CPU."""
    if (peak := gpu_peak(device)) is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
