"""PPO on TRL's GRPO trainer: its rollouts and clipped objective, with advantages from a value model.

TRL had a PPO trainer up to release 1.12. It kept the whole logits of all answers of a step in memory, neither clipped
gradients nor resumed, and does not import beside current releases of vLLM. Its GRPO trainer takes an advantage for each
token; PPO adds a value model, generalised advantage estimation, and the value loss.
"""

from typing import Any

import torch
from torch import Tensor, nn
from trl import GRPOTrainer

from losslab.objectives.online import PPO
from losslab.online.advantages import generalised_advantages, value_terms
from losslab.online.verifier import Verifier

IDS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


class PPOTrainer(GRPOTrainer):
    """Proximal policy optimisation: see `losslab.objectives.online.PPO`."""

    def give(self, objective: PPO, value: nn.Module, verifier: Verifier) -> None:
        """What a GRPO trainer does not have. The value model is already in the optimizer."""
        self.objective, self.value, self.verifier = objective, value, verifier

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"]
        rewards = torch.tensor(self.verifier.rewards, device=mask.device)
        size = self.args.per_device_train_batch_size
        with torch.no_grad():
            parts = [{key: batch[key][i : i + size] for key in IDS} for i in range(0, len(mask), size)]
            values = torch.cat([self._values(part) for part in parts]) * mask
        advantages = generalised_advantages(rewards, values, mask, self.objective.gae_lambda)
        sums = torch.stack([mask.sum(), advantages.sum(), advantages.square().sum()])
        count, total, squares = self.accelerator.reduce(sums, reduction="sum")
        variance = (squares / count - (total / count) ** 2).clamp(min=0)
        standard = (advantages - total / count) * torch.rsqrt(variance + 1e-8) * mask
        return batch | {"advantages": standard, "values": values, "returns": advantages + values}

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        count = inputs["num_items_in_batch"] / self.accelerator.num_processes  # gradients are averaged over them
        terms = value_terms(self._values(inputs), inputs["values"], inputs["returns"], self.objective.value_clip)
        value_loss = (terms * inputs["completion_mask"]).sum() / count
        share = self.accelerator.reduce(value_loss.detach(), reduction="mean")
        self._metrics["train"]["value_loss"].append(float(share) * self.args.gradient_accumulation_steps)
        return loss + self.objective.value_weight * value_loss

    def _values(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, T) float32: the value of the state before each token of the answers."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        start = batch["prompt_ids"].shape[1] - 1
        with self.accelerator.autocast():
            return self.value(input_ids=ids, attention_mask=mask).logits[:, start:-1, 0].float()
