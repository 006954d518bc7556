"""On-policy distillation on TRL's trainer: its rollouts and chunked divergence, with our records and another prompt."""

import time
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl import DistillationTrainer
from trl.trainer.utils import pad

from losslab.config.messages import under_key
from losslab.config.schema import Config, Precision
from losslab.models.loading import load_config, load_model
from losslab.online.verifier import Verifier

INFORMED = "informed"  # the column with the prompt of a teacher who reads the solution


class OPDTrainer(DistillationTrainer):
    """On-policy distillation: see `losslab.objectives.online.OPD` and `OPSD`."""

    def give(self, verifier: Verifier) -> None:
        """What TRL's trainer does not have. Rewards are for the record alone: nothing is learned from them."""
        self.verifier = verifier
        self._read: dict[str, Tensor] = {}  # the prompts that the teacher reads, of the micro-batch at hand
        self._spent = [0.0, 0.0]  # tokens that the teacher read of it, and the seconds that this took

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        masked = zip(batch["completion_ids"], batch["completion_mask"].bool(), strict=True)
        self.verifier([ids[mask].tolist() for ids, mask in masked], [row["gold"] for row in inputs])
        if INFORMED in inputs[0]:
            prompts = [torch.tensor(ids) for ids in self._tokenize_prompts([row[INFORMED] for row in inputs])[0]]
            masks, device = [torch.ones_like(ids) for ids in prompts], batch["prompt_ids"].device
            fill = self.processing_class.pad_token_id
            batch["teacher_ids"] = pad(prompts, padding_value=fill, padding_side="left").to(device)
            batch["teacher_mask"] = pad(masks, padding_value=0, padding_side="left").to(device)
        return batch

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self._read = {key: inputs[key] for key in ("teacher_ids", "teacher_mask") if key in inputs}
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        spent = self.accelerator.reduce(
            torch.tensor(self._spent, dtype=torch.float64, device=self.accelerator.device), reduction="sum"
        )
        tokens, seconds = spent.tolist()
        of_step = {"teacher_tokens": tokens, "teacher_seconds": seconds / self.accelerator.num_processes}
        for name, value in of_step.items():
            # The trainer logs the mean over the micro-batches of a step: times their number it is the sum.
            self._metrics["train"][name].append(value * self.args.gradient_accumulation_steps)
        return loss

    def _get_last_hidden_state(
        self, unwrapped_model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **kwargs: Any
    ) -> Tensor:
        """(B, T, D) states that predict the tokens of the answers, for the teacher after its own prompt."""
        if unwrapped_model is not self.accelerator.unwrap_model(self.teacher_model):
            return super()._get_last_hidden_state(unwrapped_model, input_ids, attention_mask, logits_to_keep, **kwargs)
        if self._read:
            input_ids = torch.cat([self._read["teacher_ids"], input_ids[:, -logits_to_keep:]], dim=1)
            attention_mask = torch.cat([self._read["teacher_mask"], attention_mask[:, -logits_to_keep:]], dim=1)
        began = _now(input_ids.device)
        states = super()._get_last_hidden_state(unwrapped_model, input_ids, attention_mask, logits_to_keep, **kwargs)
        self._spent = [float(attention_mask.sum()), _now(input_ids.device) - began]
        return states


def teacher(config: Config) -> PreTrainedModel:
    """The reference, frozen, over the policy's vocabulary, in the dtype of the computation and on the CPU."""
    with under_key("reference.path"):
        model = load_model(config.reference_model, packed=False).requires_grad_(False).eval()
    vocabulary = load_config(config.model).get_text_config(decoder=True).vocab_size
    if model.config.get_text_config(decoder=True).vocab_size > vocabulary:  # padded to more than the policy's
        model.resize_token_embeddings(vocabulary)
    return model.to(torch.bfloat16 if config.train.precision == Precision.bf16 else torch.float32)


def _now(device: torch.device) -> float:
    """Seconds, when a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
