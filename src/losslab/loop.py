"""The training loop: what one worker does from the first batch to the exported model."""

import math
import os
import shutil
import signal
import time
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
import transformers
from hydra.utils import get_class, instantiate
from torch.optim import Optimizer

from losslab import checkpoint, diagnostics
from losslab.batches import Schedule, collate, micro_batches
from losslab.crew import join
from losslab.data import Examples
from losslab.files import append_line, read_lines, write_lines
from losslab.launch import LEAVE, Interrupted
from losslab.objectives import Objective
from losslab.policy import Policy, build, export, gradient_norm, load_tokenizer
from losslab.prepass import Reference, batch_nll, old_logp
from losslab.progress import bar
from losslab.schema import Config, Decay, OptimizerConfig, SchedulerConfig, Shape


def train(config: Config, data: str, folder: str, reference: str) -> None:
    """Train one cell on this rank, to the exported model.

    `data` is a folder of `Examples`, `folder` the cell's, `reference` the file of the reference's log-probabilities,
    made where the objective needs it. Goes on from the newest checkpoint. Raises Interrupted, with a checkpoint behind
    it, when asked to leave, and FloatingPointError on a gradient that is not finite.
    """
    device, stop = start(config), StopSignal()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    examples = Examples.load(Path(data))
    schedule = Schedule.of(config.train, config.seed, examples)
    objective: Objective = instantiate(config.loss)
    tokenizer = load_tokenizer(config.model)
    policy = build(config.model, config.train.precision, device, "reference_distribution" in objective.needs)
    optimizer = make_optimizer(config.optimizer, policy)
    budget = config.machine.micro_batch_tokens
    known = Reference.of(objective, Path(reference), policy, examples, budget, device)

    checkpoints, metrics, model = (Path(folder) / name for name in ("checkpoints", "metrics.jsonl", "model"))
    first = checkpoint.resume(checkpoints, policy, optimizer)
    if rank == 0:  # steps after the checkpoint are taken, and recorded, again
        write_lines(metrics, [row for row in read_lines(metrics) if row["step"] <= first])
    progress = bar(f"training {model.parent.name}", schedule.steps, "step", initial=first, disable=rank > 0)

    for step in range(first, schedule.steps):
        began = time.perf_counter()
        units = schedule.batch(step)
        shares = micro_batches(units, examples.units, budget, rank, ranks)
        batch, groups = examples.expand(units), [examples.expand(share) for share in shares]
        statistics = batch_nll(objective, policy, examples, batch, groups, device)
        if step == first or step % schedule.updates == 0:
            old = old_logp(objective, policy, examples, groups, device)
        sums = diagnostics.zeros(device)
        for group, before in zip(groups, old, strict=True):
            micro = collate(examples, group).to(device)
            out = policy(micro, objective, known.context(group) | statistics.context(group) | before)
            out["loss"].backward()
            sums += diagnostics.measure(out, micro, tokenizer.eos_token_id, stop.asked)
        dist.all_reduce(sums)

        # Gradients are sums over the micro-batches of all ranks: one division makes them the global batch's mean.
        count = diagnostics.normaliser(sums, config.train.normaliser)
        norm = float(gradient_norm(policy)) / count
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {step + 1}: lower optimizer.lr")
        gradients = [p.grad for p in policy.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, min(1.0, config.train.clip / (norm + 1e-6)) / count)
        for parameters in optimizer.param_groups:
            parameters["lr"] = config.optimizer.lr * lr_factor(config.scheduler, step, schedule.steps)
        optimizer.step()
        optimizer.zero_grad()

        if rank == 0:
            seconds, tokens = time.perf_counter() - began, int(examples.units[units].sum())
            row = {"step": step + 1, **diagnostics.report(sums, config.train.normaliser), "gradient_norm": norm}
            row |= {"lr": optimizer.param_groups[0]["lr"], "tokens": tokens, "seconds": round(seconds, 4)}
            append_line(metrics, row)
            progress.set_postfix_str(f"loss {row['loss']:.4f}, {tokens / seconds:,.0f} tokens/s", refresh=False)
            progress.update()
        asked = float(sums[diagnostics.SUMS.index("stop")]) > 0
        if schedule.saves(step, config.machine.checkpoint_steps, asked):
            checkpoint.save(checkpoints, step + 1, policy, optimizer)
            if asked:
                raise Interrupted
    progress.close()
    export(policy, tokenizer, model)
    if rank == 0:
        shutil.rmtree(checkpoints, ignore_errors=True)


def start(config: Config) -> torch.device:
    """Join the other ranks and set up this process; returns its device."""
    device = join(config.machine)
    torch.set_num_threads(
        config.machine.threads or max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]))
    )
    torch.manual_seed(config.seed)
    transformers.logging.disable_progress_bar()
    return device


def make_optimizer(config: OptimizerConfig, policy: Policy) -> Optimizer:
    """The optimizer that `_target_` names; weight decay on matrices alone unless `decay=all`."""
    decayed = [p for p in policy.parameters() if p.requires_grad and (p.ndim >= 2 or config.decay == Decay.all)]
    rest = [p for p in policy.parameters() if p.requires_grad and not (p.ndim >= 2 or config.decay == Decay.all)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return get_class(config._target_)([group for group in groups if group["params"]], lr=config.lr, **config.arguments)


def lr_factor(config: SchedulerConfig, step: int, steps: int) -> float:
    """Learning rate of a step (counted from 0) as a share of the peak: linear warm-up, then the shape down to floor."""
    warmup = config.warmup_steps if config.warmup_steps is not None else round(config.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
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
        for name in (*LEAVE, signal.SIGINT):
            signal.signal(name, self._ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LEAVE)  # what came before is heard now

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
