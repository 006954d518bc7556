"""From a configuration to a trainer: TRL's GRPO trainer and PPO on top of it, or its trainer of distillation.

A trainer is given models, an optimizer, the questions of the steps to come in their order, and callbacks. It generates,
asks for rewards and learns; checkpoints, schedule and records are ours (`losslab.online.worker`).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
from transformers.trainer_callback import PrinterCallback

from losslab.config.choices import Recompute
from losslab.config.schema import Config, Engine, ModelConfig, Precision
from losslab.evaluation import engines
from losslab.models.loading import load_config
from losslab.objectives.online import GRPO, OPD, PPO, Online, OnPolicy
from losslab.online.verifier import Verifier

VLLM_MEMORY = 0.3  # of a GPU's memory, for the answers being generated beside the training


@dataclass(frozen=True)
class Parts:
    """What a trainer is made of."""

    config: Config
    objective: OnPolicy
    policy: PreTrainedModel
    value: nn.Module | None  # for PPO
    optimizer: Optimizer
    tokenizer: PreTrainedTokenizerBase
    verifier: Verifier
    questions: Any  # a datasets.Dataset with the columns of `questions.ask`: those of the steps to come, in order
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
        tokens = self.config.machine.micro_batch_tokens
        assert isinstance(tokens, int)
        most = max(1, tokens // self.config.train.max_length)
        return max(n for n in range(1, most + 1) if self.answers % n == 0)

    def vllm(self) -> bool:
        """Whether vLLM generates. It takes no weights with adapters beside them."""
        gpu = self.device.type == "cuda" and not self.config.adapter.rank
        return gpu and engines.choose(self.config.machine.engine) == Engine.vllm


def trainer(parts: Parts, callbacks: list[TrainerCallback]) -> Any:
    """The trainer of an on-policy objective: a transformers.Trainer, ready for `train()`."""
    made = _distillation(parts, callbacks) if isinstance(parts.objective, OPD) else _online(parts, callbacks)
    made.remove_callback(PrinterCallback)
    return made


def _arguments(parts: Parts) -> dict[str, Any]:
    """What TRL's trainers have in common."""
    config, objective = parts.config, parts.objective
    return dict(
        output_dir=str(parts.folder),
        max_steps=parts.steps,
        per_device_train_batch_size=parts.micro_batch,
        gradient_accumulation_steps=parts.answers // parts.micro_batch,
        max_completion_length=objective.answer_tokens(config.train.max_length),
        temperature=objective.temperature,
        shuffle_dataset=False,
        disable_dropout=True,  # as in all of our training
        max_grad_norm=0.0,  # clipping is ours, and so is the learning rate
        bf16=config.train.precision == Precision.bf16,
        use_cpu=parts.device.type == "cpu",
        gradient_checkpointing=config.machine.recompute == Recompute.full,
        trust_remote_code=config.model.trust_remote_code,
        use_vllm=parts.vllm(),
        # For vLLM alone: for transformers, and to mask what follows an answer, the trainer reads the stop tokens from
        # the policy's generation config.
        generation_kwargs={"stop_token_ids": parts.verifier.ends} if parts.vllm() else None,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=VLLM_MEMORY,
        vllm_max_model_length=config.train.max_length,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
        ddp_find_unused_parameters=False,
    )


def _online(parts: Parts, callbacks: list[TrainerCallback]) -> Any:
    """GRPO, or PPO."""
    with hidden("vllm", parts.device.type == "cpu"):
        from trl import GRPOConfig, GRPOTrainer
    objective = parts.objective
    assert isinstance(objective, Online)
    arguments = GRPOConfig(
        **_arguments(parts),
        num_generations=objective.samples,
        num_iterations=parts.config.train.updates,
        beta=objective.kl,
        epsilon=objective.clip,
        # GRPO: the mean over an answer's tokens, then over answers. PPO: the mean over all tokens.
        loss_type="grpo" if isinstance(objective, GRPO) else "dapo",
        scale_rewards="group",
        # With vLLM TRL would multiply the loss of an answer by the ratio of the training's probability of it to vLLM's,
        # and drop answers above 3. The equations have no such factor, nor has the loss where transformers generates.
        vllm_importance_sampling_correction=False,
    )
    cls = GRPOTrainer
    if isinstance(objective, PPO):
        from losslab.online.ppo import PPOTrainer as cls
    made = cls(
        model=parts.policy,
        reward_funcs=parts.verifier.reward,
        args=arguments,
        train_dataset=parts.questions,
        processing_class=parts.tokenizer,
        optimizers=(parts.optimizer, LambdaLR(parts.optimizer, lambda _: 1.0)),
        callbacks=callbacks,
    )
    if isinstance(objective, PPO):
        made.give(objective, parts.value, parts.verifier)
    return made


def _distillation(parts: Parts, callbacks: list[TrainerCallback]) -> Any:
    """On-policy distillation. TRL answers each of its questions once, so one with several samples is asked again."""
    with hidden("vllm", parts.device.type == "cpu"):
        from trl import DistillationConfig

        from losslab.online.distillation import OPDTrainer, teacher
    objective = parts.objective
    assert isinstance(objective, OPD)
    again = [i for i in range(len(parts.questions)) for _ in range(objective.samples)]
    made = OPDTrainer(
        model=parts.policy,
        teacher_model=teacher(parts.config),
        args=DistillationConfig(**_arguments(parts), beta=objective.beta, remove_unused_columns=False),
        train_dataset=parts.questions.select(again),
        processing_class=parts.tokenizer,
        optimizers=(parts.optimizer, LambdaLR(parts.optimizer, lambda _: 1.0)),
        callbacks=callbacks,
    )
    made.give(parts.verifier)
    return made


def check_value_model(config: Config) -> None:
    """Refuse, with ValueError, a model of a family for which transformers has no value model."""
    architecture = load_config(config.model)
    own = "AutoModelForTokenClassification" in (getattr(architecture, "auto_map", None) or {})  # in code that it brings
    if not own and type(architecture) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"loss={config.names.loss} needs a value model, and transformers has none for {architecture.model_type}: "
            "choose loss=grpo or another model"
        )


def value_model(model: ModelConfig) -> nn.Module:
    """The checkpoint with one value for each token in place of its output layer, zero at first; float32, on the CPU."""
    transformers.logging.set_verbosity_error()  # or it tells that the output layer is new
    made = AutoModelForTokenClassification.from_pretrained(
        model.path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
        dtype=torch.float32,
        num_labels=1,
    )
    output = made.score if hasattr(made, "score") else made.classifier  # as the family calls it
    for parameter in output.parameters():
        nn.init.zeros_(parameter)
    return made.eval()  # without dropout; it learns all the same


@contextmanager
def hidden(module: str, hide: bool) -> Iterator[None]:
    """Hide a module from imports in the block: TRL imports vLLM, which takes seconds, wherever it is installed."""
    if not hide or module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
