"""The training loop: what one worker does from the first batch to the exported model."""

import math
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from torch import Tensor

from losslab.config.log import log
from losslab.config.messages import first_line
from losslab.config.schema import Config, NonFinite, Reduction
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.examples import Examples
from losslab.data.loader import MicroBatch, StepBatch
from losslab.distributed.environment import available_cores
from losslab.distributed.process_group import init_process_group
from losslab.models import layout
from losslab.models.export import export
from losslab.models.loading import load_config, load_tokenizer
from losslab.models.policy import build
from losslab.objectives import Objective
from losslab.training.checkpoints import Checkpoints
from losslab.training.image_rows import readable
from losslab.training.inference import Inference, frozen
from losslab.training.layout_file import MEASURED_STEPS, complete
from losslab.training.optimizer import Gradients, Sums, lr_factor, make_optimizer
from losslab.training.packing_check import run_exactly
from losslab.training.passes import loader
from losslab.training.reference_logps import Reference, batch_statistics, old_logp
from losslab.training.step_log import StepLog, StepResult
from losslab.training.step_metrics import StepSums, measure, normaliser
from losslab.training.steps import Steps, StopSignal
from losslab.training.throughput import Speed, forget_peak, gpu_peak
from losslab.training.token_view import TokenView
from losslab.training.trim_malloc import trim_malloc
from losslab.training.validation import Validation


def train(config: Config, data: str, folder: str, reference: str, held_out: tuple[str, str] | None = None) -> None:
    """Train one cell on this rank, to the exported model.

    `data` is a folder of `Examples`, `folder` the cell's, `reference` the file of the reference's log-probabilities,
    created if the objective needs it; `held_out` are both for the held-out rows. Resumes from the newest checkpoint.
    Raises Interrupted, after saving a checkpoint, on a stop request, FloatingPointError on a gradient that is not
    finite, and ValueError if every update was skipped, or on a checkpoint of another number of ranks if the gradient
    depends on it.
    """
    device, machine = start(config), config.machine
    trainer = Trainer(config, Examples.load(Path(data)), Path(folder), Path(reference), device)
    policy, tokenizer, ends = trainer.policy, load_tokenizer(config.model), trainer.examples.ends
    kept = Checkpoints(
        Path(folder) / "checkpoints", policy, trainer.optimizer, device, machine.keep_last, machine.keep_every
    )
    inference = trainer.inference
    view = TokenView(config, inference, trainer.examples, trainer.reference, Path(folder), tokenizer)
    validation = None
    if held_out is not None:
        rows, logps = map(Path, held_out)
        others = readable(Examples.load(rows), config.model, policy.model)
        validation = Validation(config, inference, others, Path(folder), logps, trainer.sampler.steps)
    with kept as checkpoints, trainer.loader, validation or nullcontext(), StopSignal() as stop:
        steps = Steps(
            machine, trainer.sampler, Path(folder), checkpoints, lambda target: export(policy, tokenizer, target, ends)
        )
        step_log = StepLog(config, trainer.examples, Speed.of(policy, device, dist.get_world_size()), steps.record)
        todo = steps.resume(same_ranks=config.train.reduction == Reduction.micro_batch)
        if not todo.start:
            view.measure("before")
        if validation is not None:
            validation.begin(todo.start)
        forget_peak(device)  # of what was before the first step
        for step in todo:
            batch, sums = trainer.forward_backward(step)
            sums = sums.all_reduce(stop.asked)
            result = trainer.update(step, batch, sums)
            if step == min(todo.start + MEASURED_STEPS, todo.stop) - 1 and dist.get_rank() == 0:
                peak = gpu_peak(device) if step == MEASURED_STEPS - 1 else None  # the plan's is that of these steps
                complete(Path(folder) / "layout.json", policy, peak)
            step_log.add(result)  # on a GPU this reads the step before, whose numbers have arrived
            if steps.due(step, step_log.asked):
                step_log.flush()
            if validation is not None and validation.due(step + 1):
                step_log.flush()
                with step_log.pause():
                    validation.measure(step + 1)
            with step_log.pause(checkpoint=True):
                steps.end(step, step_log.asked)
        step_log.flush()
        view.measure("after")
        steps.finish()


def measure_reference(config: Config, data: str, file: str) -> None:
    """Write to `file` the log-probabilities of all answer tokens under `config.reference_model`, on this rank."""
    device, examples = start(config), Examples.load(Path(data))
    policy = build(frozen(config, config.reference_model), device, reference=False)
    examples = readable(examples, config.model, policy.model)  # their images as the trained model is shown them
    run_exactly(policy, examples, device)
    policy.vocabulary = load_config(config.model).get_text_config(decoder=True).vocab_size
    assert isinstance(config.objective, Objective)
    Reference.of(config.objective, Path(file), Inference.of(policy, device, config.machine), examples)


def start_inference(config: Config, data: str) -> tuple[Inference, Examples]:
    """Set up this rank to measure `config.model`, which is checked on the examples in the folder `data`."""
    device, examples = start(config), Examples.load(Path(data))
    policy = build(config, device, reference=False)
    examples = readable(examples, config.model, policy.model)
    run_exactly(policy, examples, device)
    return Inference.of(policy, device, config.machine), examples


def start(config: Config) -> torch.device:
    """Join the other ranks and set up this process; returns its device."""
    layout.set_up(config.machine)
    device = init_process_group(config.machine)
    torch.set_num_threads(config.machine.threads or max(1, available_cores() // int(os.environ["LOCAL_WORLD_SIZE"])))
    torch.manual_seed(config.seed)
    transformers.logging.disable_progress_bar()
    return device


class Trainer:
    """The model, its data and its optimizer on this rank, and the two halves of a step. Called on every rank.

    Nothing in a step makes the host wait for a GPU.
    """

    def __init__(self, config: Config, examples: Examples, folder: Path, reference: Path, device: torch.device) -> None:
        self.config, self.device = config, device
        self.ranks = dist.get_world_size()
        self.sampler = RandomBatchSampler.of(config.train, config.seed, examples)
        assert isinstance(config.objective, Objective)
        self.objective = config.objective
        self.eos = load_tokenizer(config.model).eos_token_id
        self.policy = build(config, device, "reference_distribution" in self.objective.needs)
        self.examples = examples = readable(examples, config.model, self.policy.model)
        run_exactly(self.policy, examples, device, folder / "packing.json")
        self.optimizer = make_optimizer(config.optimizer, self.policy)
        self.sums = Sums(self.policy)
        self.inference = Inference.of(self.policy, device, config.machine)
        self.reference = Reference.of(self.objective, reference, self.inference, examples)
        self.loader = loader(config, examples, self.sampler, self.reference, device)
        self.old: list[dict[str, Tensor]] = []  # of each micro-batch: its log-probabilities under the old policy

    def forward_backward(self, step: int) -> tuple[StepBatch, StepSums]:
        """Add up the gradients of this rank's micro-batches; returns the data of the step and this rank's sums.

        When a GPU runs out of memory, the step begins anew with micro-batches of half the size.
        """
        while True:
            batch = self.loader.take(step)
            try:
                return batch, self._accumulate(step, batch)
            except torch.OutOfMemoryError as error:
                if not self._can_halve(step):
                    raise
                reason = first_line(error)
            self._halve(reason)  # not in the handler, which keeps the tensors of the failed micro-batch alive

    def _accumulate(self, step: int, batch: StepBatch) -> StepSums:
        statistics = batch_statistics(self.objective, self.policy, batch, self.device)
        if step % self.sampler.updates == 0:
            self.old = old_logp(self.objective, self.policy, batch, self.device)
        sums = StepSums.zeros(self.device, len(self.objective.metrics))
        for number, (micro, old) in enumerate(zip(batch.micro_batches, self.old, strict=True), start=1):
            last = number == len(batch.micro_batches)
            layout.before_micro_batch(self.policy, self.config.machine, last)
            sums += self._micro_batch(micro.to(self.device), statistics.context(micro) | old)
            self.sums.add(last)
            if self.device.type == "cpu":
                trim_malloc()
        return sums

    def _micro_batch(self, micro: MicroBatch, context: dict[str, Tensor]) -> StepSums:
        out = self.policy(micro.batch, self.objective, micro.context | context)
        sums, loss, recipe = measure(out, micro.batch, self.eos), out["loss"], self.config.train
        if recipe.reduction == Reduction.micro_batch:
            loss = loss / (normaliser(sums, recipe.normaliser) * self.ranks).to(loss.dtype)
            sums = replace(sums, loss=loss.detach().double())
        loss.backward()
        return sums

    def update(self, step: int, batch: StepBatch, sums: StepSums) -> StepResult:
        """Divide the gradient once, clip it and let the optimizer take its step. `sums` are those of all ranks.

        Gradients are sums over the micro-batches of all ranks: one division makes them the global batch's mean. Where
        each micro-batch had its own mean, they are left as a sum.
        """
        self.policy.end_backward()
        recipe, gradients = self.config.train, Gradients(self.policy, self.sums)
        norm = gradients.norm()
        count = torch.ones_like(norm)
        if recipe.reduction == Reduction.batch:
            count = normaliser(sums, recipe.normaliser).to(norm.device)
        norm = norm / count
        lr = self.config.optimizer.lr * lr_factor(self.config.scheduler, step, self.sampler.steps)
        # Under `stop` the host learns of a gradient that is not finite a step later, and ends the run then.
        skipped = recipe.non_finite == NonFinite.skip and not math.isfinite(float(norm))
        if not skipped:
            gradients.scale((recipe.clip / (norm + 1e-6)).clamp(max=1.0) / count)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        self._clear()
        if self.device.type == "cpu":
            trim_malloc()
        return StepResult.of(step, batch, sums, norm, lr, skipped)

    def _can_halve(self, step: int) -> bool:
        """Alone: other ranks would wait. Not where rows make a micro-batch, or within the updates on one batch."""
        alone = self.ranks == 1 and self.config.train.micro_batch is None and step % self.sampler.updates == 0
        return alone and self.loader.size.tokens > 1

    def _halve(self, reason: str) -> None:
        tokens = self.loader.size.tokens // 2
        log.warning(f"{reason}\ntrying the step again with machine.micro_batch_tokens={tokens}")
        self.loader.resize(tokens)
        layout.abandon_backward(self.policy)
        self.policy.end_backward()
        self._clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _clear(self) -> None:
        self.optimizer.zero_grad()
        self.sums.totals.clear()
