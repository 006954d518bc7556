"""Copies the metrics of a step from the device and writes them as a row of metrics.jsonl.

On a GPU they are read while the next step is computed, so that the host never waits for the step that it has just
launched. Before a checkpoint or an export, and at the end, the current step is waited for and recorded too, so that the
rows match the checkpoint on resume.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from losslab.config.schema import Config, NonFinite, Reduction
from losslab.data.examples import Examples
from losslab.data.loader import StepBatch
from losslab.objectives import Objective
from losslab.training.step_metrics import StepSums, normaliser, report
from losslab.training.throughput import Speed


class Readback:
    """A copy of a tensor to the host; `read` waits for it."""

    def __init__(self, tensor: Tensor) -> None:
        self.host, self.copied = tensor, None
        if tensor.is_cuda:
            self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.host.copy_(tensor, non_blocking=True)
            self.copied = torch.cuda.Event(enable_timing=True)
            self.copied.record()

    def read(self) -> Tensor:
        if self.copied is not None:
            self.copied.synchronize()
        return self.host


class Clock:
    """Measures the seconds between the ends of steps, by the device's own clock on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.seconds, self.event = time.perf_counter(), None
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record()

    def lap(self, end: torch.cuda.Event | None) -> float:
        """Seconds since the last lap; on a GPU up to the event `end`, which must have completed."""
        before, self.seconds = self.seconds, time.perf_counter()
        if end is None or self.event is None:
            return self.seconds - before
        milliseconds, self.event = self.event.elapsed_time(end), end
        return milliseconds / 1e3


@dataclass(frozen=True)
class StepResult:
    """The result of a step, whose numbers may still be on the device."""

    step: int  # counted from 0
    sequences: np.ndarray  # examples of the global batch
    micro_batches: int  # of each rank
    micro_batch_tokens: int
    numbers: Readback  # the packed sums of all ranks, then the gradient's norm
    lr: float
    skipped: bool  # whether the update was left out
    waited: float  # seconds for data

    @classmethod
    def of(cls, step: int, batch: StepBatch, sums: StepSums, norm: Tensor, lr: float, skipped: bool) -> "StepResult":
        packed = sums.pack()
        numbers = Readback(torch.cat([packed, norm.to(packed.device)[None]]))
        return cls(step, batch.examples, len(batch.micro_batches), batch.tokens, numbers, lr, skipped, batch.waited)


class StepLog:
    """Turns results into rows, in order, and passes each to `record(row, note)`."""

    def __init__(
        self, config: Config, examples: Examples, speed: Speed, record: Callable[[dict[str, Any], str], None]
    ) -> None:
        self.config, self.lengths, self.speed, self.record = config, examples.lengths, speed, record
        assert isinstance(config.objective, Objective)
        self.measured = config.objective.metrics
        self.lag = 1 if speed.device.type == "cuda" else 0  # steps that may be unread
        self.pending: deque[StepResult] = deque()
        self.asked = False  # whether a rank was asked to stop, as of the newest step that was read
        self.clock, self.stalled = Clock(speed.device), 0.0

    def add(self, result: StepResult) -> None:
        """Read the steps that are due. Raises FloatingPointError for a gradient that is not finite, if the run is to
        stop.
        """
        self.pending.append(result)
        while len(self.pending) > self.lag:
            self._read(self.pending.popleft())

    def flush(self) -> None:
        """Wait for every step. Errors are those of `add`."""
        while self.pending:
            self._read(self.pending.popleft())

    @contextmanager
    def pause(self, checkpoint: bool = False) -> Iterator[None]:
        """Exclude the time of the block from the step's, if no step is pending.

        With `checkpoint` it counts as the `checkpoint_seconds` of the next row that is read.
        """
        began = time.perf_counter()
        yield
        if checkpoint:
            self.stalled += time.perf_counter() - began  # on a GPU, steps end here before the row is read
        if not self.pending:
            self.clock = Clock(self.speed.device)

    def _read(self, result: StepResult) -> None:
        numbers = result.numbers.read()
        seconds = self.clock.lap(result.numbers.copied)
        sums, norm = StepSums.unpack(numbers[:-1]), float(numbers[-1])
        self.asked = float(sums.stop) > 0
        recipe = self.config.train
        if recipe.non_finite == NonFinite.stop and not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {result.step + 1}: lower optimizer.lr")
        whole = recipe.reduction == Reduction.batch
        count = float(normaliser(sums, recipe.normaliser)) if whole else result.micro_batches
        row = report(sums, count, self.measured)
        row |= {"step": result.step + 1, "gradient_norm": norm, "lr": result.lr}
        row |= self.speed.measure(self.lengths[result.sequences], row["answer_tokens"], seconds)
        row |= {
            "micro_batch_tokens": result.micro_batch_tokens,
            "data_seconds": round(result.waited, 4),
            "checkpoint_seconds": round(self.stalled, 4),
            "skipped": result.skipped,
        }
        self.stalled = 0.0
        self.record(row, f"loss {row['loss']:.4f}, {row['tokens_per_second']:,} tokens/s")
