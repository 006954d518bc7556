"""What one worker does of online training, from the first question to the exported model.

On resume, the trainer is given only the remaining steps. Checkpoints, schedule, clipping, records and stop requests are
handled as in the offline loop.
"""

import math
import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from transformers import GenerationConfig, TrainerCallback, set_seed

from losslab.config.choices import Rules
from losslab.config.schema import Config
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.evaluation.engine_interface import request_seed
from losslab.evaluation.protocol import stop_tokens
from losslab.files.json_files import write_json
from losslab.grading.graders import Grader
from losslab.models import lora
from losslab.models.export import export
from losslab.models.loading import load_config, load_model, load_tokenizer
from losslab.models.policy import Policy
from losslab.objectives.online import PPO, OnPolicy
from losslab.online.padding_check import FILE, check, two_prompts
from losslab.online.trainers import Parts, trainer, value_model
from losslab.online.verifier import Verifier
from losslab.training.checkpoints import Checkpoints
from losslab.training.loop import start
from losslab.training.optimizer import lr_factor, make_optimizer
from losslab.training.steps import Steps, StopSignal

OF_TRAINER = ("entropy", "kl", "value_loss", "teacher_tokens", "teacher_seconds")  # metrics that it may log
GRADERS = 2  # processes that grade what text alone does not decide


def train(config: Config, data: str, folder: str) -> None:
    """Train one cell on this rank, to the exported model.

    `data` is a folder of `questions`, `folder` the cell's. Resumes from the newest checkpoint. Raises Interrupted,
    after saving a checkpoint, on a stop request, and FloatingPointError on a gradient that is not finite.
    """
    from datasets import load_from_disk

    device = start(config)
    objective = config.objective
    assert isinstance(objective, OnPolicy)
    questions = load_from_disk(data)
    plan = RandomBatchSampler.of_questions(config.train, config.seed, len(questions))
    if config.train.batch_size * objective.samples % dist.get_world_size():
        raise ValueError(
            f"{config.train.batch_size * objective.samples} answers of a step cannot be divided over "
            f"{dist.get_world_size()} workers: change train.batch_size"
        )
    tokenizer = load_tokenizer(config.model)
    tokenizer.padding_side = "left"

    policy = _policy(config, device)
    model = policy.model
    exported = deepcopy((model.config, model.generation_config))  # the trainer writes into them
    _, ends = stop_tokens(config, config.model.path, tokenizer)  # as in scoring
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=ends
    )
    padding = check(model, two_prompts(questions["prompt"], tokenizer))
    if dist.get_rank() == 0:
        write_json(Path(folder) / FILE, asdict(padding))
    learners = Learners.of(config, policy, device)

    def publish(target: Path) -> None:
        trained_with = model.config, model.generation_config
        model.config, model.generation_config = deepcopy(exported)
        export(policy, load_tokenizer(config.model), target, ends)
        model.config, model.generation_config = trained_with

    machine = config.machine
    kept = Checkpoints(
        Path(folder) / "checkpoints", learners.models, learners.optimizer, device, machine.keep_last, machine.keep_every
    )
    grading = Grader(GRADERS, machine.grading_seconds, unsafe_code=machine.unsafe_code)
    with kept as checkpoints, StopSignal() as stop, grading as grader:
        steps = Steps(machine, plan, Path(folder), checkpoints, publish)
        todo = steps.resume()
        verifier = Verifier(grader, tokenizer, ends, Rules(config.dataset.rules))
        order = [i for step in todo[:: plan.updates] for i in plan.batch(step)]
        around = AroundSteps(config, learners, verifier, stop, steps, todo.start)
        learners.optimizer.register_step_pre_hook(around.before_update)
        trainer(
            Parts(
                config, objective, model, learners.value, learners.optimizer, tokenizer, verifier,
                questions.select(order), len(todo), device, checkpoints.folder,
            ),
            [around],
        ).train()  # fmt: skip
        steps.finish()


def _policy(config: Config, device: torch.device) -> Policy:
    """The model of a cell on a device, with new adapters where it has any."""
    model = load_model(config.model, packed=False)
    published = load_config(config.model).dtype or torch.float32
    assert isinstance(published, torch.dtype)
    if config.adapter.rank:
        lora.insert(model, config.adapter)
        model.load_state_dict(lora.initial(model, config.seed), strict=False)
    return Policy(model, config.train.precision, published, config.adapter).to(device).eval()


@dataclass(frozen=True)
class Learners:
    """The models that are trained, under one optimizer."""

    models: nn.ModuleDict  # "policy", and "value" where the objective has a value model
    optimizer: Optimizer
    factors: list[float]  # of the learning rate of each of the optimizer's groups

    @classmethod
    def of(cls, config: Config, policy: Policy, device: torch.device) -> "Learners":
        optimizer, models = make_optimizer(config.optimizer, policy), nn.ModuleDict({"policy": policy})
        factors = [1.0] * len(optimizer.param_groups)
        if isinstance(config.objective, PPO):
            models["value"] = value_model(config.model).to(device)
            for group in make_optimizer(config.optimizer, models["value"]).param_groups:
                optimizer.add_param_group(group)
                factors.append(config.objective.value_lr)
        return cls(models, optimizer, factors)

    @property
    def value(self) -> nn.Module | None:
        return self.models["value"] if "value" in self.models else None


class AroundSteps(TrainerCallback):
    """The beginning and the end of every step.

    The trainer logs once at the end of each step on every rank; the metrics are then written and a pending stop request
    is honoured.
    """

    def __init__(
        self,
        config: Config,
        learners: Learners,
        verifier: Verifier,
        stop: StopSignal,
        steps: Steps,
        first: int,  # step, counted from 0
    ) -> None:
        self.config, self.learners, self.verifier = config, learners, verifier
        self.stop, self.steps, self.done = stop, steps, first
        self.norm = self.lr = 0.0
        self.began = time.perf_counter()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Seed the random state by the step, so that a resumed run samples what an uninterrupted one would."""
        self.began = time.perf_counter()
        set_seed(request_seed(self.config.seed, "step", self.done, dist.get_rank()))

    def before_update(self, optimizer: Optimizer, *_: Any) -> None:
        """Set the learning rates, and clip the gradients of each model, as the loop for demonstrations does."""
        self.lr = self.config.optimizer.lr * lr_factor(self.config.scheduler, self.done, self.steps.sampler.steps)
        for name, learner in self.learners.models.items():
            gradients = [p.grad for p in learner.parameters() if p.grad is not None]
            if name == "value":  # the trainer takes the mean over ranks of the policy's gradients alone
                for gradient in gradients:
                    dist.all_reduce(gradient)
                torch._foreach_div_(gradients, dist.get_world_size())
            norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(norm):
                raise FloatingPointError(f"the gradient is not finite at step {self.done + 1}: lower optimizer.lr")
            torch._foreach_mul_(gradients, min(1.0, self.config.train.clip / (norm + 1e-6)))
            if name == "policy":
                self.norm = norm
        for group, factor in zip(optimizer.param_groups, self.learners.factors, strict=True):
            group["lr"] = self.lr * factor

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        logs: dict[str, float] = given["logs"]
        if "loss" not in logs:  # the summary of the whole run
            return
        self.done += 1
        seen = self.verifier.seen
        read = [seen.answers, seen.reward, seen.tokens, seen.ended, seen.timed_out]
        sums = torch.tensor([*read, self.stop.asked], dtype=torch.float64)
        dist.all_reduce(sums)
        answers, reward, tokens, ended, late, asked = sums.tolist()
        row = {"step": self.done, "loss": logs["loss"], "gradient_norm": self.norm, "lr": self.lr}
        row |= {"reward": reward / answers, "completion_length": tokens / answers, "truncated": 1 - ended / answers}
        row |= {"timed_out": late / answers}
        row |= {key: logs[key] for key in OF_TRAINER if key in logs}
        row |= {"seconds": round(time.perf_counter() - self.began, 4)}
        self.steps.record(row, f"reward {row['reward']:.3f}")
        self.steps.end(self.done - 1, asked > 0)
