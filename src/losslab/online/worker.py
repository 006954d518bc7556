"""What one worker does of online training, from the first question to the exported model.

The trainer is told the steps that remain, as if there were no others. Checkpoints, schedule, clipping, records and
requests to leave are those of the loop for demonstrations.
"""

import math
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer
from transformers import GenerationConfig, TrainerCallback, set_seed

from losslab import lora
from losslab.batches import Schedule
from losslab.checkpoint import Checkpoints
from losslab.evaluation.grading import Grader
from losslab.evaluation.jobs import request_seed
from losslab.files import append_line, read_lines, write_lines
from losslab.launch import Interrupted
from losslab.loop import StopSignal, lr_factor, make_optimizer, start
from losslab.online import GRPO, Online
from losslab.online.questions import schedule
from losslab.online.trainers import Parts, distinct_padding, grpo, ppo, value_model
from losslab.online.verifier import Seen, Verifier
from losslab.policy import Policy, export
from losslab.pretrained import load_config, load_model, load_tokenizer
from losslab.progress import bar
from losslab.schema import Config

GRADERS = 2  # processes that grade what text alone does not decide


def train(config: Config, data: str, folder: str) -> None:
    """Train one cell on this rank, to the exported model.

    `data` is a folder of `questions`, `folder` the cell's. Goes on from the newest checkpoint. Raises Interrupted, with
    a checkpoint behind it, when asked to leave, and FloatingPointError on a gradient that is not finite.
    """
    from datasets import load_from_disk

    device = start(config)
    rank = dist.get_rank()
    objective: Online = instantiate(config.loss)
    questions = load_from_disk(data)
    plan = schedule(config, len(questions))
    tokenizer = load_tokenizer(config.model)
    tokenizer.padding_side = "left"

    model = load_model(config.model, attention_name="sdpa")
    published = load_config(config.model).dtype or torch.float32
    assert isinstance(published, torch.dtype)
    if config.adapter.rank:
        lora.insert(model, config.adapter)
        model.load_state_dict(lora.initial(model, config.seed), strict=False)
    stops, model.generation_config = deepcopy(model.generation_config), GenerationConfig()
    policy = Policy(model, config.train.precision, published, config.adapter)
    value = None
    if not isinstance(objective, GRPO):
        value = value_model(config)
        distinct_padding(tokenizer, questions["tokens"])
    learners = nn.ModuleDict({"policy": policy} | ({} if value is None else {"value": value})).to(device)
    optimizer = make_optimizer(config.optimizer, learners)

    def publish(target: Path) -> None:
        before, model.generation_config = model.generation_config, stops
        export(policy, load_tokenizer(config.model), target)
        model.generation_config = before

    metrics, machine = Path(folder) / "metrics.jsonl", config.machine
    kept = Checkpoints(Path(folder) / "checkpoints", learners, optimizer, machine.keep_last, machine.keep_every)
    with kept as checkpoints, StopSignal() as stop, Grader(GRADERS, machine.grading_seconds) as grader:
        first = checkpoints.resume()
        if rank == 0:  # steps after the checkpoint are taken, and recorded, again
            write_lines(metrics, [row for row in read_lines(metrics) if row["step"] <= first])
        verifier = Verifier(grader, tokenizer)
        order = [i for step in range(first, plan.steps) for i in plan.batch(step)]
        parts = Parts(
            config, objective, model, value, optimizer, tokenizer, verifier, questions.select(order),
            plan.steps - first, device, checkpoints.folder,
        )  # fmt: skip
        steps = Steps(config, plan, first, verifier, optimizer, checkpoints, stop, Path(folder), publish)
        trainer = (grpo if isinstance(objective, GRPO) else ppo)(parts, [steps])
        hook = optimizer.register_step_pre_hook(steps.before_update)
        trainer.train()
        hook.remove()
        publish(Path(folder) / "model")
        checkpoints.clear()


class Steps(TrainerCallback):
    """The beginning and the end of every step, whichever the trainer is. Both log once at the end of a step, on every
    rank, which is when its row is written, and where the run leaves when it is asked to."""

    def __init__(
        self,
        config: Config,
        plan: Schedule,
        first: int,
        verifier: Verifier,
        optimizer: Optimizer,
        checkpoints: Checkpoints,
        stop: StopSignal,
        folder: Path,
        publish: Any,
    ) -> None:
        self.config, self.plan, self.done = config, plan, first
        self.verifier, self.optimizer, self.checkpoints, self.stop = verifier, optimizer, checkpoints, stop
        self.folder, self.publish = folder, publish
        self.norms: list[float] = []
        self.began = time.perf_counter()
        self.progress = bar(f"training {folder.name}", plan.steps, "step", initial=first, disable=dist.get_rank() > 0)

    def before_update(self, optimizer: Optimizer, *_: Any) -> None:
        """Set the learning rate and clip, as the loop for demonstrations does. TRL's PPO does neither."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {self.done + 1}: lower optimizer.lr")
        torch._foreach_mul_(gradients, min(1.0, self.config.train.clip / (norm + 1e-6)))
        for group in optimizer.param_groups:
            group["lr"] = self.config.optimizer.lr * lr_factor(self.config.scheduler, self.done, self.plan.steps)
        self.norms.append(norm)
        self.lr = optimizer.param_groups[0]["lr"]

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin a step in a random state of its own, so that a resumed run draws what the undisturbed one would."""
        set_seed(request_seed(self.config.seed, "step", self.done, dist.get_rank()))

    on_step_begin = on_train_begin

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        found = logs or {}
        if not self.norms:  # the summary of the whole run
            return
        seen, norms = self.verifier.seen, self.norms
        self.verifier.seen, self.norms, self.done = Seen(), [], self.done + 1
        sums = torch.tensor([seen.answers, seen.reward, seen.tokens, seen.ended, self.stop.asked], dtype=torch.float64)
        dist.all_reduce(sums)
        answers, reward, tokens, ended, asked = sums.tolist()
        if dist.get_rank() == 0:  # before the checkpoint, so that what it has behind it is on record
            row = {"step": self.done} | losses(found, self.config) | {"gradient_norm": sum(norms) / len(norms)}
            row |= {"lr": self.lr, "reward": reward / answers, "completion_length": tokens / answers}
            row |= {"truncated": 1 - ended / answers, "answers": int(answers)}
            row |= {"seconds": round(time.perf_counter() - self.began, 4)}
            append_line(self.folder / "metrics.jsonl", row)
            self.progress.set_postfix_str(f"reward {row['reward']:.3f}", refresh=False)
            self.progress.update()
        machine = self.config.machine
        if machine.export_steps and self.done % machine.export_steps == 0 and self.done < self.plan.steps:
            self.publish(self.folder / "steps" / f"{self.done:08d}")
        if saves := self.plan.saves(self.done - 1, machine.checkpoint_steps, asked > 0):
            self.checkpoints.save(self.done)
        if asked and saves:
            self.checkpoints.finish()
            raise Interrupted
        self.began = time.perf_counter()
        self.on_train_begin()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.progress.close()


def losses(logs: dict[str, Any], config: Config) -> dict[str, float]:
    """The loss of a step, and what it is made of, under our names."""
    if "loss/policy_avg" not in logs:
        return {"loss": logs["loss"], "entropy": logs["entropy"]} | ({"kl": logs["kl"]} if "kl" in logs else {})
    policy, value = logs["loss/policy_avg"], logs["loss/value_avg"]
    found = {"loss": policy + config.loss.get("value_weight", 0.1) * value, "value_loss": value}
    return found | {"entropy": logs["policy/entropy_avg"], "kl": logs["objective/kl"]}
