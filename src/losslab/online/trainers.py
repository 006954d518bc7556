"""From a configuration to TRL's trainers, GRPO and PPO, of TRL 1.12: the last release that has both.

Either is given models, an optimizer, the questions of the steps to come in their order, and callbacks. It generates,
asks for rewards and learns; checkpoints, schedule and records are ours (`losslab.online.train`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from losslab.evaluation import engines
from losslab.online import GRPO, PPO, Online
from losslab.online.verifier import RewardModel, Verifier
from losslab.schema import Config, Engine, Precision, Recompute

VLLM_MEMORY = 0.3  # of a GPU's memory, for the answers being generated beside the training


@dataclass(frozen=True)
class Parts:
    """What a trainer is made of."""

    config: Config
    objective: Online
    policy: PreTrainedModel
    value: nn.Module | None
    optimizer: Optimizer
    tokenizer: PreTrainedTokenizerBase
    verifier: Verifier
    questions: Any  # a datasets.Dataset with the columns prompt, tokens and gold: those of the steps to come, in order
    steps: int  # to come
    device: torch.device
    folder: Path

    @property
    def answers(self) -> int:
        """Answers of one step on this rank."""
        return self.config.train.batch_size * self.objective.samples // dist.get_world_size()

    @property
    def micro_batch(self) -> int:
        """Answers that one worker takes at once: as many as machine.micro_batch_tokens allows, and a divisor."""
        most = max(1, self.config.machine.micro_batch_tokens // self.config.train.max_length)
        return max(n for n in range(1, most + 1) if self.answers % n == 0)

    @property
    def room(self) -> int:
        return self.objective.answer_tokens(self.config.train.max_length)

    def arguments(self) -> dict[str, Any]:
        """What both trainers' configurations have in common. Clipping and the learning rate are ours."""
        bf16 = self.config.train.precision == Precision.bf16
        return {
            "output_dir": str(self.folder),
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.answers // self.micro_batch,
            "num_train_epochs": 1,
            "max_grad_norm": 0.0,
            "temperature": self.objective.temperature,
            "bf16": bf16,
            "use_cpu": self.device.type == "cpu",
            "gradient_checkpointing": self.config.machine.recompute == Recompute.full,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "seed": self.config.seed,
        }


def schedule(optimizer: Optimizer) -> LambdaLR:
    """The schedule that the trainers ask for; ours is applied at each step of the optimizer."""
    return LambdaLR(optimizer, lambda _: 1.0)


def grpo(parts: Parts, callbacks: list[TrainerCallback]) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    objective, machine = parts.objective, parts.config.machine
    assert isinstance(objective, GRPO)
    vllm = parts.device.type == "cuda" and engines.choose(machine.engine) == Engine.vllm
    arguments = GRPOConfig(
        **parts.arguments(),
        max_steps=parts.steps,
        num_generations=objective.samples,
        max_completion_length=parts.room,
        shuffle_dataset=False,
        beta=objective.kl,
        epsilon=objective.clip,
        loss_type="grpo",
        scale_rewards="group",
        use_vllm=vllm and not parts.config.adapter.rank,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=VLLM_MEMORY,
        vllm_max_model_length=parts.config.train.max_length,
        trust_remote_code=parts.config.model.trust_remote_code,
    )
    trainer = GRPOTrainer(
        model=parts.policy,
        reward_funcs=parts.verifier.reward,
        args=arguments,
        train_dataset=parts.questions.remove_columns("tokens"),
        processing_class=parts.tokenizer,
        optimizers=(parts.optimizer, schedule(parts.optimizer)),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def ppo(parts: Parts, callbacks: list[TrainerCallback]) -> Any:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    objective = parts.objective
    assert isinstance(objective, PPO)
    reward = RewardModel(parts.verifier)
    arguments = PPOConfig(
        **parts.arguments(),
        total_episodes=parts.steps * parts.answers * dist.get_world_size(),
        num_ppo_epochs=objective.updates,
        num_mini_batches=1,
        num_sample_generations=0,
        local_rollout_forward_batch_size=parts.micro_batch,
        response_length=parts.room,
        stop_token="eos",
        cliprange=objective.clip,
        kl_coef=objective.kl,
        vf_coef=objective.value_weight,
        cliprange_value=objective.value_clip,
        lam=objective.gae_lambda,
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=parts.tokenizer,
        model=parts.policy,
        ref_model=None,
        reward_model=reward,
        train_dataset=parts.questions,
        value_model=parts.value,
        optimizers=(parts.optimizer, schedule(parts.optimizer)),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.dataloader = Batches(parts, reward)  # in place of its own, which shuffles
    return trainer


def value_model(config: Config) -> nn.Module:
    """The model before training with a score in place of its output layer, float32 on the CPU."""
    return AutoModelForSequenceClassification.from_pretrained(
        config.model.path,
        revision=config.model.revision,
        trust_remote_code=config.model.trust_remote_code,
        dtype=torch.float32,
        num_labels=1,
    )


class Batches:
    """This rank's share of each step for PPO, prompts padded on the left; its golds go to the reward model."""

    def __init__(self, parts: Parts, reward: RewardModel) -> None:
        self.questions, self.reward, self.samples = parts.questions, reward, parts.objective.samples
        self.batch_size, self.pad = parts.config.train.batch_size, parts.tokenizer.pad_token_id

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        for start in range(0, len(self.questions), self.batch_size):
            rows = self.questions[start : start + self.batch_size]
            repeated = [i for i in range(self.batch_size) for _ in range(self.samples)]
            share = len(repeated) // ranks
            mine = repeated[rank * share : (rank + 1) * share]
            width = max(len(rows["tokens"][i]) for i in mine)
            ids = [[self.pad] * (width - len(rows["tokens"][i])) + rows["tokens"][i] for i in mine]
            self.reward.expect([rows["gold"][i] for i in mine], width)
            yield {"input_ids": torch.tensor(ids)}


def distinct_padding(tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> None:
    """Give the tokenizer a padding token that is neither EOS nor in any prompt, by which PPO tells them apart."""
    used = {token for ids in prompts for token in ids} | {tokenizer.eos_token_id}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in used:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(max(set(range(len(tokenizer))) - used))
