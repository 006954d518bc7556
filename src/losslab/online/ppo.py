"""PPO on TRL's GRPO trainer: its rollouts and clipped objective, with advantages from a value model.

TRL had a PPO trainer of its own up to release 1.12. It kept the whole logits of all answers of a step in memory,
neither clipped gradients nor resumed, and does not import beside current releases of vLLM. Its GRPO trainer takes an
advantage for each token, which is what PPO adds: a value model, generalised advantage estimation, and the value loss.
"""

from typing import Any

import torch
from torch import Tensor, nn
from trl import GRPOTrainer

from losslab.online import PPO
from losslab.online.verifier import Verifier


class PPOTrainer(GRPOTrainer):
    """Proximal policy optimisation: see `losslab.online.PPO`."""

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
        deviation = (squares / count - (total / count) ** 2).clamp(min=0).sqrt()
        standard = (advantages - total / count) / (deviation + 1e-8) * mask
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


IDS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


def generalised_advantages(rewards: Tensor, values: Tensor, mask: Tensor, decay: float) -> Tensor:
    """(B, T) advantages of answers with one reward each, at their last token; zero where the mask is.

    Args:
        rewards: (B,) float32.
        values: (B, T) float32, of the state before each token; zero where the mask is.
        mask: (B, T), 1 for the tokens of an answer, which come first.
        decay: lambda of generalised advantage estimation (arXiv 1506.02438); the discount is 1.
    """
    last = mask.sum(1) - 1
    result = torch.zeros_like(values)
    running, following = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for t in reversed(range(values.shape[1])):
        surprise = rewards * (last == t) + following - values[:, t]
        running = (surprise + decay * running) * mask[:, t]
        following = values[:, t]
        result[:, t] = running
    return result


def value_terms(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> Tensor:
    """(B, T): half the squared error of values, or of what they may become within `clip` of the ones before, whichever
    is larger."""
    near = before + (values - before).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
