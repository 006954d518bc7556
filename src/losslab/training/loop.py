"""The training loop: what one worker does from the first batch to the exported model."""

import math
import os
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType

import torch
import torch.distributed as dist
import transformers
from hydra.utils import get_class
from torch import nn
from torch.optim import Optimizer

from losslab.config.schema import Config, Decay, NonFinite, OptimizerConfig, Reduction, SchedulerConfig, Shape
from losslab.data.batches import Schedule, collate, micro_batches, micro_batches_of, rewards
from losslab.data.examples import Examples
from losslab.distributed.environment import available_cores
from losslab.distributed.process_group import init_process_group
from losslab.distributed.signals import WORKER_STOP_SIGNALS, Interrupted
from losslab.files import append_line, read_lines, write_lines
from losslab.models.loading import load_tokenizer
from losslab.models.policy import build, export, gradient_norm
from losslab.objectives import Objective
from losslab.progress import bar
from losslab.training import step_metrics
from losslab.training.checkpoints import Checkpoints
from losslab.training.packing_check import run_exactly
from losslab.training.reference_logps import Reference, batch_nll, old_logp
from losslab.training.throughput import Speed
from losslab.training.trim_malloc import trim_malloc


def train(config: Config, data: str, folder: str, reference: str) -> None:
    """Train one cell on this rank, to the exported model.

    `data` is a folder of `Examples`, `folder` the cell's, `reference` the file of the reference's log-probabilities,
    made where the objective needs it. Goes on from the newest checkpoint. Raises Interrupted, with a checkpoint behind
    it, when asked to leave, FloatingPointError on a gradient that is not finite, and ValueError on a checkpoint of
    another number of ranks where the gradient depends on it.
    """
    device = start(config)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    examples = Examples.load(Path(data))
    schedule = Schedule.of(config.train, config.seed, examples)
    objective = config.objective
    assert isinstance(objective, Objective)
    tokenizer = load_tokenizer(config.model)
    policy = build(config, device, "reference_distribution" in objective.needs)
    run_exactly(policy, examples, device, Path(folder) / "packing.json")
    optimizer = make_optimizer(config.optimizer, policy)
    budget = config.machine.micro_batch_tokens
    known = Reference.of(objective, Path(reference), policy, examples, budget, device)

    metrics, model, steps = (Path(folder) / name for name in ("metrics.jsonl", "model", "steps"))
    machine, recipe = config.machine, config.train
    kept = Checkpoints(Path(folder) / "checkpoints", policy, optimizer, device, machine.keep_last, machine.keep_every)
    with kept as checkpoints, StopSignal() as stop:
        first = checkpoints.resume(same_ranks=recipe.reduction == Reduction.micro_batch)
        if rank == 0:  # steps after the checkpoint are taken, and recorded, again
            write_lines(metrics, [row for row in read_lines(metrics) if row["step"] <= first])
        speed, stalled = Speed.of(policy, device, ranks), 0.0
        progress = bar(f"training {model.parent.name}", schedule.steps, "step", initial=first, disable=rank > 0)

        for step in range(first, schedule.steps):
            began = time.perf_counter()
            units = schedule.batch(step)
            if recipe.micro_batch is None:
                shares = micro_batches(units, examples.units, budget, rank, ranks)
            else:
                shares = micro_batches_of(units, recipe.micro_batch, rank, ranks)
            batch, groups = examples.expand(units), [examples.expand(share) for share in shares]
            waited = time.perf_counter() - began
            statistics = batch_nll(objective, policy, examples, batch, groups, device)
            if step == first or step % schedule.updates == 0:
                old = old_logp(objective, policy, examples, groups, device)
            sums = step_metrics.zeros(device)
            for group, before in zip(groups, old, strict=True):
                clock = time.perf_counter()
                micro = collate(examples, group).to(device)
                waited += time.perf_counter() - clock
                context = known.context(group) | statistics.context(group) | rewards(examples, group, device) | before
                out = policy(micro, objective, context)
                if recipe.reduction == Reduction.micro_batch:
                    own = step_metrics.measure(out, micro, tokenizer.eos_token_id, stop.asked)
                    out["loss"] = out["loss"] / (step_metrics.normaliser(own, recipe.normaliser) * ranks)
                out["loss"].backward()
                if device.type == "cpu":
                    trim_malloc()
                sums += step_metrics.measure(out, micro, tokenizer.eos_token_id, stop.asked)
            dist.all_reduce(sums)

            # Gradients are sums over the micro-batches of all ranks: one division makes them the global batch's mean.
            # Where each micro-batch had its own mean, they are left as a sum.
            whole = recipe.reduction == Reduction.batch
            count = step_metrics.normaliser(sums, recipe.normaliser) if whole else 1.0
            norm = float(gradient_norm(policy)) / count
            finite = math.isfinite(norm)
            if not finite and recipe.non_finite == NonFinite.stop:
                raise FloatingPointError(f"the gradient is not finite at step {step + 1}: lower optimizer.lr")
            lr = config.optimizer.lr * lr_factor(config.scheduler, step, schedule.steps)
            if finite:
                gradients = [p.grad for p in policy.parameters() if p.grad is not None]
                torch._foreach_mul_(gradients, min(1.0, recipe.clip / (norm + 1e-6)) / count)
                for parameters in optimizer.param_groups:
                    parameters["lr"] = lr
                optimizer.step()
            optimizer.zero_grad()
            if device.type == "cpu":
                trim_malloc()

            done = step + 1
            if rank == 0:  # before the checkpoint, so that what it has behind it is on record
                row = step_metrics.report(sums, count if whole else len(groups))
                row |= {"step": done, "gradient_norm": norm, "lr": lr}
                row |= speed.measure(examples.lengths[batch], row["answer_tokens"], time.perf_counter() - began)
                row |= {
                    "data_seconds": round(waited, 4),
                    "checkpoint_seconds": round(stalled, 4),
                    "skipped": not finite,
                }
                append_line(metrics, row)
                progress.set_postfix_str(
                    f"loss {row['loss']:.4f}, {row['tokens_per_second']:,} tokens/s", refresh=False
                )
                progress.update()
            if machine.export_steps and done % machine.export_steps == 0 and done < schedule.steps:
                export(policy, tokenizer, steps / f"{done:08d}")
            asked = float(sums[step_metrics.SUMS.index("stop")]) > 0
            began = time.perf_counter()
            if saves := schedule.saves(step, machine.checkpoint_steps, asked):
                checkpoints.save(done)
            stalled = time.perf_counter() - began
            if asked and saves:
                checkpoints.finish()
                raise Interrupted
        progress.close()
        export(policy, tokenizer, model)
        checkpoints.clear()


def start(config: Config) -> torch.device:
    """Join the other ranks and set up this process; returns its device."""
    device = init_process_group(config.machine)
    torch.set_num_threads(config.machine.threads or max(1, available_cores() // int(os.environ["LOCAL_WORLD_SIZE"])))
    torch.manual_seed(config.seed)
    transformers.logging.disable_progress_bar()
    return device


def make_optimizer(config: OptimizerConfig, policy: nn.Module) -> Optimizer:
    """The optimizer that `_target_` names; weight decay on matrices alone unless `decay=all`."""
    decayed = [p for p in policy.parameters() if p.requires_grad and (p.ndim >= 2 or config.decay == Decay.all)]
    rest = [p for p in policy.parameters() if p.requires_grad and not (p.ndim >= 2 or config.decay == Decay.all)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return get_class(config._target_)([group for group in groups if group["params"]], lr=config.lr, **config.arguments)


def lr_factor(config: SchedulerConfig, step: int, steps: int) -> float:
    """Learning rate of a step (counted from 0) as a share of the peak: linear warm-up, then the shape down to floor."""
    warmup = config.warmup_steps if config.warmup_steps is not None else round(config.warmup_ratio * steps)
    if step < warmup:
        return (step if config.warmup_at_zero else step + 1) / warmup
    start = steps - round(config.decay_ratio * steps) if config.shape == Shape.wsd else warmup
    progress = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
    match config.shape:
        case Shape.constant:
            return 1.0
        case Shape.cosine:
            share = 0.5 * (1 + math.cos(math.pi * progress))
        case Shape.linear | Shape.wsd:
            share = 1 - progress
    return config.floor + (1 - config.floor) * share


class StopSignal:
    """Remembers that the process was asked to leave, so that it leaves at the end of a step with a checkpoint."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "StopSignal":
        self.before = {number: signal.signal(number, self._ask) for number in WORKER_STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
