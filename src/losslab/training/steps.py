"""The end of a training step, for offline and online training: metrics, exports, checkpoints, and requests to stop."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist

from losslab.config.log import log
from losslab.config.machine import MachineConfig
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.distributed.process_group import decide_on_main
from losslab.distributed.signals import WORKER_STOP_SIGNALS, Interrupted, heeded
from losslab.files.json_files import append_line, read_lines, write_lines
from losslab.progress import bar
from losslab.training.checkpoints import Checkpoints


class Steps:
    """The steps of a run in `folder`. Its methods are called on every rank."""

    def __init__(
        self,
        machine: MachineConfig,
        sampler: RandomBatchSampler,
        folder: Path,
        checkpoints: Checkpoints,
        export: Callable[[Path], None],
    ) -> None:
        self.machine, self.sampler, self.checkpoints, self.export = machine, sampler, checkpoints, export
        self.folder, self.metrics = folder, folder / "metrics.jsonl"
        self.main = dist.get_rank() == 0

    def resume(self, same_ranks: bool = False) -> range:
        """Load the newest checkpoint, if any; returns the remaining steps, counted from 0.

        Steps after the checkpoint are repeated, and recorded again. Errors are those of `Checkpoints.resume`.
        """
        first = self.checkpoints.resume(same_ranks)
        if self.main:
            write_lines(self.metrics, [row for row in read_lines(self.metrics) if row["step"] <= first])
        title = f"training {self.folder.name}"
        self.progress = bar(title, self.sampler.steps, "step", initial=first, disable=not self.main)
        return range(first, self.sampler.steps)

    def record(self, row: dict[str, Any], note: str) -> None:
        """Append the metrics of a step; `note` is shown beside the progress bar."""
        if self.main:
            append_line(self.metrics, row)
            self.progress.set_postfix_str(note, refresh=False)
            self.progress.update()

    def exports(self, step: int) -> bool:
        """Whether the model is exported after a step (counted from 0), beside the export at the end."""
        every, done = self.machine.export_steps, step + 1
        return every is not None and done % every == 0 and done < self.sampler.steps

    def saves(self, step: int, asked: bool) -> bool:
        """Whether a checkpoint follows a step."""
        return self.sampler.saves(step, self.machine.checkpoint_steps, asked)

    def due(self, step: int, asked: bool) -> bool:
        """Whether `end` exports or saves after this step."""
        return self.exports(step) or self.saves(step, asked)

    def end(self, step: int, asked: bool) -> None:
        """Export and save what is due after a step. If asked to stop, raise Interrupted once the checkpoint is written.

        Metrics are recorded first, so that they include every step before a checkpoint.
        """
        if self.exports(step):
            self.export(self.folder / "steps" / f"{step + 1:08d}")
        if self.saves(step, asked):
            self.checkpoints.save(step + 1)
            if asked:
                self.checkpoints.finish()
                raise Interrupted

    def finish(self) -> None:
        """Export the model, and remove the checkpoints that are not kept for good.

        Raises ValueError if every update was skipped.
        """
        self.progress.close()
        self._check_skipped()
        self.export(self.folder / "model")
        self.checkpoints.clear()

    def _check_skipped(self) -> None:
        """Say how many updates were skipped, before a resume too. Raises ValueError if all were."""
        skipped, steps = decide_on_main(self.machine, self._skipped), self.sampler.steps
        if skipped == steps:
            raise ValueError(
                f"all {steps:,} updates were skipped, since no gradient was finite, and the model is still its base: "
                "set train.non_finite=stop to end at the first one, and correct the rows, the objective or optimizer.lr"
            )
        if skipped and self.main:
            log.warning(f"{skipped:,} of {steps:,} updates were skipped: their gradient was not finite")

    def _skipped(self) -> int:
        return sum(row.get("skipped", False) for row in read_lines(self.metrics))


class StopSignal:
    """Records a signal to stop, so that the process can stop at the end of a step, with a checkpoint."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "StopSignal":
        self.before = {number: signal.signal(number, self._ask) for number in heeded(WORKER_STOP_SIGNALS)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
