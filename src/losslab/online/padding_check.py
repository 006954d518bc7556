"""A check at the start of online training: does the model, padded, compute what it computes for each prompt alone?

TRL computes answers of different lengths together, padded on the left. Layers that carry state (a recurrence, a
convolution) may process the padding as if it were text, and learned positions may count it. The log-probabilities in
training then differ from those by which the answers were sampled. Such a model is refused.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from losslab.config.schema import Precision
from losslab.training.packing_check import TOLERANCES

FILE = "padding.json"
LONGEST = 512  # tokens of the longer prompt that are compared, its last ones


@dataclass(frozen=True)
class PaddingCheck:
    """How a model with padding on the left compares with itself without: a part of a cell's record."""

    tokens: int  # of both prompts
    logp: float  # mean absolute difference of the log-probabilities of their tokens, over 1 + their mean size
    seconds: float


@torch.no_grad()
def check(model: PreTrainedModel, prompts: Sequence[list[int]]) -> PaddingCheck:
    """Compare two prompts, padded to one length, with each alone, in the dtype of the weights.

    Raises ValueError for a model that padding changes.
    """
    began, longest = time.perf_counter(), max(map(len, prompts))
    pads = [longest - len(ids) for ids in prompts]
    device = next(model.parameters()).device
    tokens = torch.tensor([[ids[0]] * pad + ids for ids, pad in zip(prompts, pads, strict=True)], device=device)
    mask = (torch.arange(longest) >= torch.tensor(pads)[:, None]).long().to(device)
    together = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    padded, plain = [], []
    for row, pad in enumerate(pads):
        ids = tokens[row, pad:]
        padded.append(_logp(together[row, pad:], ids))
        plain.append(_logp(model(input_ids=ids[None], use_cache=False).logits[0], ids))
    expected = torch.cat(plain)
    difference = float((torch.cat(padded) - expected).abs().mean() / (1 + expected.abs().mean()))
    exact = next(model.parameters()).dtype == torch.float32
    if not difference <= TOLERANCES[Precision.fp32 if exact else Precision.bf16][0]:  # NaN fails too
        raise ValueError(
            f"{type(model).__name__} cannot be trained online exactly: padded on the left, as answers of different "
            f"lengths are computed together, the log-probabilities of a prompt differ by {difference:.1e} from "
            "those of the prompt alone; choose another model"
        )
    return PaddingCheck(sum(map(len, prompts)), difference, round(time.perf_counter() - began, 3))


def two_prompts(prompts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The last tokens of the shortest and of the longest prompt, cut to different lengths if theirs differ."""
    ordered = sorted(tokenizer(list(prompts))["input_ids"], key=len)
    shortest, longest = ordered[0], ordered[-1]
    kept = LONGEST if len(shortest) == len(longest) else LONGEST // 2
    return [shortest[-kept:], longest[-LONGEST:]]


def _logp(logits: Tensor, ids: Tensor) -> Tensor:
    """(T - 1,) of each token but the first."""
    return torch.log_softmax(logits[:-1].float(), -1).gather(1, ids[1:, None])[:, 0]
