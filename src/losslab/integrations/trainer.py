"""Objectives in the Trainer of transformers, with the fused loss: never the full logits.

    trainer = ObjectiveTrainer(model, args, train_dataset=rows, objective=DFT())

The loss is the sum over the labels of a step, divided once by their number over all micro-batches and processes.
"""

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer

from losslab.models.decoder import decoder
from losslab.models.fused_loss import objective_loss
from losslab.models.output_layer import OutputForm
from losslab.models.try_out import try_out
from losslab.objectives import Context, Objective

IGNORED = -100  # the label of a token that is not trained
ENCODER_DECODER = "an encoder-decoder model is not supported, whose labels are not shifted: use a causal language model"
TAKES_OBJECTIVE = "takes_objective"  # an attribute of the forward that `add_objective` has replaced
_Base = Trainer if TYPE_CHECKING else object


class ObjectiveLoss(_Base):  # type: ignore[misc, valid-type]
    """Mixin that gives a trainer an objective: list it before a class that derives from transformers' Trainer."""

    loss_is_scaled_for_ga: bool | None = True  # Trainer does not divide by the number of micro-batches

    def __init__(self, *args: Any, objective: Objective, **kwargs: Any) -> None:
        """Raises ValueError for an objective or arguments that the fused loss does not support."""
        refuse(objective)
        if kwargs.get("compute_metrics") or kwargs.get("compute_loss_func"):
            raise ValueError("compute_metrics and compute_loss_func need logits, which do not exist: leave them out")
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:
            raise ValueError("one process has several GPUs: start one for each, with torchrun or accelerate launch")
        if self.args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is not supported: use the objective LabelSmoothing instead")
        if getattr(self.accelerator, "parallelism_config", None) is not None:
            raise ValueError("tensor, context and sequence parallelism are not supported: use DDP or FSDP")
        self.loss_objective = objective  # Trainer uses `objective` in its hyperparameter search
        add_objective(self.accelerator.unwrap_model(self.model))
        # Trainer counts the labels of a step and leaves the division to the loss.
        self.model_accepts_loss_kwargs = True
        self._sums: dict[bool, list[Tensor]] = {True: [], False: []}  # in training and in evaluation

    def call_model_init(self, *args: Any, **kwargs: Any) -> Any:
        """With `model_init` each training begins with a new model."""
        model = super().call_model_init(*args, **kwargs)
        add_objective(model)
        return model

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if "labels" not in inputs:
            raise ValueError("a batch has no labels: use a data collator that adds them")
        out = model(**inputs, objective=self.loss_objective, use_cache=False)
        self._sums[self.model.training].append(out["sums"])
        count = out["sums"][0] if num_items_in_batch is None else num_items_in_batch
        loss = out["loss"] / torch.as_tensor(count, device=out["loss"].device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the count is over all processes, and DDP averages
        return (loss, {"loss": loss}) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss alone, without logits and labels, whatever the caller asks for: there are no logits."""
        return super().prediction_step(model, inputs, True)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Adds cross-entropy and entropy, in nats per label, to the metrics of an evaluation or a prediction."""
        self._sums[False].clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update(self._means(False, f"{metric_key_prefix}_"))
        return output

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds cross-entropy and entropy, in nats per label, which are comparable between objectives, unlike losses."""
        if self.model.training:
            logs |= self._means(True, "")
        super().log(logs, *args, **kwargs)

    def _means(self, training: bool, prefix: str) -> dict[str, float]:
        """Cross-entropy and entropy over the labels since the last call, of all processes; empty where there are none.

        Called on every process.
        """
        if not (sums := self._sums[training]):
            return {}
        tokens, nll, entropy = self.accelerator.reduce(torch.stack(sums).sum(0), "sum").tolist()
        sums.clear()
        return {f"{prefix}cross_entropy": nll / max(tokens, 1), f"{prefix}entropy": entropy / max(tokens, 1)}


class ObjectiveTrainer(ObjectiveLoss, Trainer):
    """transformers' Trainer with an objective of losslab. Labels are those of a causal language model, not shifted."""


def refuse(objective: Objective) -> None:
    """Raise ValueError for an objective that needs what a trainer does not have, and for one that `try_out` refuses."""
    if objective.needs:
        needs = ", ".join(sorted(objective.needs))
        raise ValueError(
            f"{type(objective).__name__} needs {needs}, which a trainer does not have: train it with losslab train"
        )
    try_out(objective)


def add_objective(model: Any) -> None:
    """Make the forward of a causal language model, also with peft adapters, accept an `objective` beside `labels`.

    It then returns {loss: (), sums: (3,) float64: number of labels, their -log p and entropy}; other calls are
    unchanged, and so is a model that has it already. It is in the forward because wrappers such as DDP and FSDP act
    there. Raises ValueError for an encoder-decoder model, and for an output layer that cannot be reproduced, or that
    has adapters.
    """
    causal: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(causal.config, "is_encoder_decoder", False):
        raise ValueError(ENCODER_DECODER)
    if (taker := getattr(causal.forward, TAKES_OBJECTIVE, None)) is causal:
        return
    if taker is not None:  # a copy of a model has the forward of the first one
        del causal.forward
    if not isinstance(causal.get_output_embeddings(), nn.Linear):
        raise ValueError("the output layer has adapters, which the fused loss ignores: do not adapt lm_head")
    if getattr(causal.config, "output_router_logits", False):
        raise ValueError(
            "the auxiliary loss of routers is not supported: set output_router_logits to false in the model's "
            "configuration, and router_aux_loss_coef=0.0 in TRL's SFTConfig"
        )
    with torch.device("meta"):
        twin = AutoModelForCausalLM.from_config(causal.config)
    form = OutputForm.of(twin)
    plain = causal.forward

    @wraps(plain)
    def forward(*args: Any, objective: Objective | None = None, **inputs: Any) -> Any:
        if objective is None:
            return plain(*args, **inputs)
        assert not args, "a trainer names its inputs"
        return _forward(causal, form, objective, **inputs)

    setattr(forward, TAKES_OBJECTIVE, causal)
    causal.forward = forward  # type: ignore[method-assign]


def _forward(
    model: PreTrainedModel, form: OutputForm, objective: Objective, labels: Tensor, **inputs: Any
) -> dict[str, Tensor]:
    states = decoder(model)(**inputs).last_hidden_state[:, :-1]
    starts = torch.zeros_like(labels, dtype=torch.bool)
    starts[:, 0] = True
    if inputs.get("position_ids") is not None:  # of packed rows: a sequence starts at position 0
        starts |= inputs["position_ids"] == 0
    sequence = starts.flatten().cumsum(0).view_as(labels) - 1
    kept = (labels[:, 1:] != IGNORED) & ~starts[:, 1:]
    hidden, head = states[kept], form.head(model)
    if head.weight.numel() == 0:
        raise ValueError("the fused loss does not gather the output weight that ZeRO-3 shards: use FSDP")
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    context = Context(sequence=sequence[:, 1:][kept], sequences=int(starts.sum()))
    out = objective_loss(objective, hidden, head, labels[:, 1:][kept], context)
    tokens = torch.full((), len(out.logp), device=out.loss.device)
    return {"loss": out.loss, "sums": torch.stack((tokens, -out.logp.sum(), out.entropy.sum())).double()}
