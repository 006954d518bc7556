"""Metrics on held-out rows, over the steps of training.

Held-out rows are processed in order, in batches of the training batch size, without gradients. The metrics that a
training step writes to metrics.jsonl for its batch are written to validation.jsonl for all held-out rows, under the
same names. For an objective with an old policy, that policy equals the current one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from losslab.config.schema import Config
from losslab.data.examples import Examples
from losslab.files.json_files import append_line, read_lines, write_lines
from losslab.files.record_names import VALIDATION
from losslab.models.loading import load_tokenizer
from losslab.objectives import Objective
from losslab.training.inference import Inference
from losslab.training.passes import InOrder, loader, outputs
from losslab.training.reference_logps import Reference
from losslab.training.step_metrics import StepSums, measure, normaliser, report

TIMES = 10  # measurements over a run, unless the configuration sets another interval


class Validation:
    """Measures the held-out rows of a cell. Its methods are called on every rank."""

    def __init__(
        self,
        config: Config,
        inference: Inference,
        examples: Examples,
        folder: Path,
        reference: Path,
        steps: int,
    ) -> None:
        """Args: `folder` is the cell's, `reference` the file of `Reference.of`, `steps` those of the whole run."""
        assert isinstance(config.objective, Objective)
        self.objective, self.inference, self.steps = config.objective, inference, steps
        self.file, self.normaliser = folder / VALIDATION, config.train.normaliser
        self.eos = load_tokenizer(config.model).eos_token_id
        self.every = config.machine.validation_steps or -(-steps // TIMES)
        reference_logps = Reference.of(self.objective, reference, inference, examples)
        sampler = InOrder(np.arange(len(examples) // examples.unit), config.train.batch_size)
        self.loader = loader(config, examples, sampler, reference_logps, inference.device)

    def __enter__(self) -> "Validation":
        self.loader.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.loader.__exit__(*error)

    def begin(self, done: int) -> None:
        """Measure the model before its first step; after a resume at step `done`, remove the rows of later steps
        instead.
        """
        if dist.get_rank() == 0:
            write_lines(self.file, [row for row in read_lines(self.file) if row["step"] <= done] if done else [])
        if not done:
            self.measure(0)

    def due(self, done: int) -> bool:
        """Whether the rows are measured after `done` steps."""
        return done % self.every == 0 or done == self.steps

    def measure(self, done: int) -> None:
        """Measure the rows after `done` steps and append the result to validation.jsonl."""
        sums = StepSums.zeros(self.inference.device, len(self.objective.metrics))
        for number in range(self.loader.sampler.steps):
            for micro, out in outputs(self.inference, self.objective, self.loader.take(number)):
                sums += measure(out, micro.batch, self.eos)
        sums = sums.all_reduce(asked=False)
        if dist.get_rank() == 0:
            count = float(normaliser(sums, self.normaliser))
            append_line(self.file, {"step": done} | report(sums, count, self.objective.metrics))
