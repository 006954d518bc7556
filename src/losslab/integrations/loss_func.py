"""Objectives as the `compute_loss_func` of transformers' Trainer, and of trainers that derive from it.

    trainer = Trainer(model, args, train_dataset=rows, compute_loss_func=loss_func(DFT()))

It works with any causal language model whose output has logits, which it holds in float32: `ObjectiveTrainer` takes a
fraction of the memory and time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from losslab.integrations.trainer import ENCODER_DECODER, IGNORED, refuse
from losslab.objectives import Distributions, Objective, Targets
from losslab.objectives.results import row_term_of, statistic_of, terms_of


def loss_func(objective: Objective) -> Callable[..., Tensor]:
    """The function (outputs, labels, num_items_in_batch) -> () that a trainer calls: the sum over the labels that are
    trained, divided by `num_items_in_batch`, or by their number where it is None.

    outputs.logits are (B, T, V), labels (B, T) int64, not shifted, -100 where nothing is trained. Raises ValueError for
    an objective that needs what a trainer does not have, that fails on a few random tokens, or that couples the tokens
    of a sequence, since it is not told where the sequences of a packed row begin; and at the first batch for the
    outputs of an encoder-decoder model, whose logits are aligned with their labels.
    """
    refuse(objective)
    if objective.scope == "sequence":
        raise ValueError(
            f"{type(objective).__name__} couples the tokens of a sequence, and compute_loss_func is not told where "
            "sequences begin: use ObjectiveTrainer"
        )

    def compute(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        if getattr(outputs, "encoder_last_hidden_state", None) is not None:
            raise ValueError(ENCODER_DECODER)
        kept = labels[:, 1:] != IGNORED
        logits, target = outputs.logits[:, :-1][kept].float(), labels[:, 1:][kept].to(outputs.logits.device)
        logsumexp = logits.logsumexp(-1)
        logp = logits - logsumexp[:, None]
        row = Distributions(logp=logp, logsumexp=logsumexp, target=target)
        p, declared = logp.detach().exp(), dict[str, Tensor]()
        if objective.statistic is not None:
            declared["statistic"] = statistic_of(objective, p)
        if objective.row_term is not None:
            declared["row_term"] = row_term_of(objective, row)
        targets = Targets(
            sequence=kept.nonzero()[:, 0],
            sequences=len(labels),
            logp=row.of_target(logp),
            entropy=torch.special.entr(p).sum(-1),
            declared=declared,
        )
        count = len(target) if num_items_in_batch is None else num_items_in_batch
        return terms_of(objective, targets).sum() / torch.as_tensor(count, device=logits.device).clamp(min=1)

    return compute
