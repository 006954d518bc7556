"""Checkpoints of a run in progress: model, optimizer, position and random state, by torch's distributed checkpoint.

A checkpoint is copied to host memory at once and written by a thread while training continues. It is written under a
temporary name; rank 0 renames it when every rank is done and the hash of every file is stored. A checkpoint is
therefore complete; one that was damaged later, or does not fit the run, is detected and set aside. Another number of
ranks can read it. `checkpoint_files` defines the format.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from losslab.config.log import log
from losslab.distributed.load_state import last_line, load_state
from losslab.files.atomic import appear
from losslab.files.json_files import read_json
from losslab.training import checkpoint_files
from losslab.training.checkpoint_files import MANIFEST, ShardWriter, put_values, tensors_of, values_of

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)  # frozen weights are read from the base checkpoint
DAMAGED = "damaged-"  # prefix of a checkpoint that was set aside


class Checkpoints:
    """The checkpoints of a run under `folder`: the last `keep_last`, and those at multiples of `keep_every` steps."""

    def __init__(
        self,
        folder: Path,
        policy: nn.Module,
        optimizer: Optimizer,
        device: torch.device,
        keep_last: int,
        keep_every: int | None,
    ) -> None:
        self.folder, self.policy, self.optimizer, self.device = folder, policy, optimizer, device
        self.keep_last, self.keep_every = keep_last, keep_every
        self.group = dist.new_group(backend="gloo")  # for the thread, since training uses the default group
        self.tied = checkpoint_files.tied_names(policy)
        self.stager = HostCopy(device)
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the write in progress, even after an error, unless other ranks are gone."""
        self.thread.shutdown()
        self.stager.close()

    def save(self, step: int) -> None:
        """Start to write the state after `step` steps, once the previous write is done. Called on every rank."""
        self.finish()
        temporary = self._temporary(step)
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        dist.barrier(self.group)
        state = self._state()
        tensors = tensors_of(state, self.tied) | self._random()
        manifest = {
            "step": step,
            "ranks": dist.get_world_size(),
            "device": self.device.type,
            "values": values_of(state),
        }
        written = dcp.async_save(
            tensors, storage_writer=ShardWriter(temporary), process_group=self.group, async_stager=self.stager
        )
        self.writing = self.thread.submit(self._complete, manifest, written)

    def _complete(self, manifest: dict[str, Any], written: Any) -> None:
        """In the thread: give the checkpoint its name when every rank has written, which is when rank 0 is done."""
        temporary = self._temporary(manifest["step"])
        try:
            written.result()
            if dist.get_rank() == 0:
                checkpoint_files.seal(temporary, manifest)
        except BaseException:  # CheckpointException derives from BaseException
            shutil.rmtree(temporary, ignore_errors=True)  # to make room for the record of the failure
            raise
        if dist.get_rank() == 0:
            appear(temporary, self.folder / checkpoint_files.name(manifest["step"]))
            forget(existing(self.folder)[: -self.keep_last], self.keep_every)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written. Called on every rank.

        Raises OSError if it cannot be written; earlier checkpoints stay.
        """
        if self.writing is None:
            return
        writing, self.writing = self.writing, None
        error = writing.exception()
        failures: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(failures, error and last_line(error), group=self.group)
        if any(failures):
            reason = next(reason for reason in failures if reason)
            raise OSError(f"a checkpoint cannot be written to {self.folder}: {reason}")

    def _temporary(self, step: int) -> Path:
        return self.folder / f".{checkpoint_files.name(step)}.writing"

    def _state(self) -> dict[str, Any]:
        """What is trained and its optimizer's state, as torch names them; the tensors are those that are in use."""
        model_state, optimizer_state = get_state_dict(self.policy, self.optimizer, options=TRAINED)
        return {"model": model_state, "optimizer": optimizer_state}

    def _random(self) -> dict[str, torch.Tensor]:
        """This rank's random state by name."""
        return {f"random.{dist.get_rank()}.{name}": value for name, value in random_state(self.device).items()}

    def resume(self, same_ranks: bool = False) -> int:
        """Load the newest usable checkpoint, if any; returns the number of its steps. Called on every rank.

        A checkpoint that is damaged or does not fit this run is renamed: under its own name it would count as the
        newest one, and those that this run writes as older. Raises OSError if a checkpoint cannot be read now, since it
        may be whole all the same; with `same_ranks`, raises ValueError if another number of ranks wrote it.
        """
        if dist.get_rank() == 0:
            for half in self.folder.glob(".step-*.writing"):  # of a write that was killed
                shutil.rmtree(half)
        state: dict[str, Any] = {}
        while (newest := self._decide(self._newest)) is not None:
            path, manifest = Path(newest), read_json(Path(newest) / MANIFEST)
            same = manifest["ranks"] == dist.get_world_size()
            if same_ranks and not same:
                raise ValueError(
                    f"the run started with {manifest['ranks']} workers and resumes with {dist.get_world_size()}, which "
                    f"changes its gradient under train.reduction=micro_batch: use {manifest['ranks']} workers, or "
                    "start from the beginning with force=true"
                )
            state = state or self._state()
            random = self._random() if same and manifest["device"] == self.device.type else {}
            tensors, values = tensors_of(state, self.tied) | random, manifest["values"]
            if self._decide(partial(self._refuse, path, tensors, values_of(state), values)):
                continue
            load_state(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(path)), process_group=self.group)
            put_values(state, values)
            set_state_dict(
                self.policy,
                self.optimizer,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
                options=TRAINED,
            )
            for name, value in random.items():
                set_random_state(name.rpartition(".")[2], value)
            return manifest["step"]
        self.optimizer.state.clear()  # `_state` filled it by taking a step
        return 0

    def _decide(self, decide: Callable[[], Any]) -> Any:
        """The result of `decide()` on rank 0, on every rank."""
        decision = [decide() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(decision, src=0, group=self.group)
        return decision[0]

    def _newest(self) -> str | None:
        """The newest checkpoint whose files are undamaged."""
        for candidate in reversed(existing(self.folder)):
            if (damage := checkpoint_files.damage(candidate)) is None:
                return str(candidate)
            set_aside(candidate, damage)
        return None

    def _refuse(self, path: Path, *state: dict[str, Any]) -> bool:
        """Set aside a checkpoint that does not fit this run; returns whether it was."""
        if misfit := checkpoint_files.misfit(path, *state):
            set_aside(path, misfit)
        return bool(misfit)

    def clear(self) -> None:
        """Remove the checkpoints that are not kept for good. Called on every rank."""
        self.finish()
        if dist.get_rank() == 0:
            clear(self.folder, self.keep_every)
        dist.destroy_process_group(self.group)


class HostCopy(AsyncStager):
    """Copies a state to host memory, pinned beside a GPU. The memory is kept for the next copy.

    Allocating for each copy takes six times as long on a CPU. torch's `DefaultStager` cannot be used: in torch 2.11 it
    frees its memory after each copy and fails at the second one.
    """

    _synchronize_after_execute = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copies = StateDictStager(pin_memory=device.type == "cuda")

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        copied = self.copies.stage(state_dict, non_blocking=self.device.type == "cuda")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return copied

    def synchronize_staging(self) -> None:
        """Nothing to wait for: `stage` returns when the copy is complete."""

    def close(self) -> None:
        self.copies.close()


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The random state of the CPU and of the run's own device: querying another device would initialise it."""
    cuda = {"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state()} | cuda


def set_random_state(kind: str, value: torch.Tensor) -> None:
    if kind == "cuda":
        torch.cuda.set_rng_state(value)
    else:
        torch.set_rng_state(value)


def set_aside(checkpoint: Path, reason: str) -> None:
    """Rename a checkpoint that cannot be used, so that it can be inspected; only the newest such one is kept."""
    aside = checkpoint.with_name(DAMAGED + checkpoint.name)
    log.warning(f"{checkpoint} is set aside as {aside.name}: {reason}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    for older in sorted(checkpoint.parent.glob(f"{DAMAGED}*"))[:-1]:
        shutil.rmtree(older)


def existing(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(folder.glob("step-" + 8 * "[0-9]"))


def forget(checkpoints: list[Path], keep_every: int | None) -> None:
    """Remove checkpoints, except those at multiples of `keep_every` steps."""
    for old in checkpoints:
        if keep_every is None or int(old.name.removeprefix("step-")) % keep_every:
            shutil.rmtree(old)


def clear(folder: Path, keep_every: int | None) -> None:
    """Remove the checkpoints that the finished model replaces; those at multiples of `keep_every` steps stay."""
    forget(existing(folder), keep_every)
    for damage in folder.glob(f"{DAMAGED}*"):
        shutil.rmtree(damage)
    if folder.exists() and not existing(folder):
        shutil.rmtree(folder)
