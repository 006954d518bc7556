"""Checkpoints of a run in progress: model, optimizer, position and random state, by torch's distributed checkpoint.

A checkpoint is copied to host memory at once and written by a thread while training goes on. It is written beside its
place; rank 0 renames it when every rank is done and the hash of every file is beside it. What is there is therefore
whole, and what was damaged later is noticed and set aside. It can be read by another number of ranks.
"""

import hashlib
import json
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
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

from losslab.distributed.load_state import last_line, load_state
from losslab.files import appear, read_json, write_json

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)  # what is frozen comes from its own files
MANIFEST = "whole.json"  # step, ranks, the SHA-256 of every file, and its own
DAMAGED = "damaged-"  # before the name of a checkpoint that was set aside


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
        self.group = dist.new_group(backend="gloo")  # the thread's own, since training uses the other
        self.stager = HostCopy(device)
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error too, what is being written is written to its end, unless other ranks are gone."""
        self.thread.shutdown()
        self.stager.close()

    def save(self, step: int) -> None:
        """Begin to write the state after `step` steps, the one before being finished. Called on every rank."""
        self.finish()
        temporary = self._temporary(step)
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        dist.barrier(self.group)
        model_state, optimizer_state = get_state_dict(self.policy, self.optimizer, options=TRAINED)
        state = {
            "model": model_state,
            "optimizer": optimizer_state,
            "random": {str(dist.get_rank()): random_state(self.device)},
        }
        written = dcp.async_save(state, checkpoint_id=temporary, process_group=self.group, async_stager=self.stager)
        self.writing = self.thread.submit(self._complete, step, written)

    def _complete(self, step: int, written: Any) -> None:
        """In the thread: when every rank is done, which is when rank 0 is, the checkpoint gets its name."""
        temporary, target = self._temporary(step), self.folder / f"step-{step:08d}"
        try:
            written.result()
            if dist.get_rank() == 0:
                files = {str(file.relative_to(temporary)): sha256(file) for file in sorted(temporary.rglob("*"))}
                manifest = {"step": step, "ranks": dist.get_world_size(), "device": self.device.type, "files": files}
                write_json(temporary / MANIFEST, manifest | {"sha256": seal(manifest)})
        except BaseException:  # as a CheckpointException is no Exception
            shutil.rmtree(temporary, ignore_errors=True)  # so that there is room for the record of the failure
            raise
        if dist.get_rank() == 0:
            appear(temporary, target)
            forget(existing(self.folder)[: -self.keep_last], self.keep_every)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written. Called on every rank.

        Raises OSError when it cannot be written; the ones before it stay.
        """
        if self.writing is None:
            return
        writing, self.writing = self.writing, None
        error = writing.exception()
        failures: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(failures, error and last_line(error), group=self.group)
        if any(failures):
            reason = next(reason for reason in failures if reason)
            raise OSError(f"no checkpoint can be written to {self.folder}: {reason}")

    def _temporary(self, step: int) -> Path:
        return self.folder / f".step-{step:08d}.writing"

    def resume(self, same_ranks: bool = False) -> int:
        """Load the newest checkpoint that is whole, if any; returns the steps behind it. Called on every rank.

        A damaged one is set aside: it would count as the newest, and those to come as old. Raises OSError when one
        cannot be read now, which says nothing of what is in it, and with `same_ranks` ValueError when it was written
        by another number of ranks.
        """
        found: list[Any] = [None, None]
        if dist.get_rank() == 0:
            for half in self.folder.glob(".step-*.writing"):  # what a kill left
                shutil.rmtree(half)
            for candidate in reversed(existing(self.folder)):
                if (damage := damaged(candidate)) is None:
                    found = [str(candidate), read_json(candidate / MANIFEST)]
                    break
                aside = candidate.with_name(DAMAGED + candidate.name)
                print(f"{candidate} is set aside as {aside.name}: {damage}", file=sys.stderr, flush=True)
                shutil.rmtree(aside, ignore_errors=True)
                candidate.rename(aside)
            for old in sorted(self.folder.glob(f"{DAMAGED}*"))[:-1]:  # the newest is the one worth a look
                shutil.rmtree(old)
        dist.broadcast_object_list(found, src=0, group=self.group)
        path, manifest = found
        if path is None:
            return 0
        ranks, own = dist.get_world_size(), str(dist.get_rank())
        same = manifest["ranks"] == ranks
        if same_ranks and not same:
            raise ValueError(
                f"the run began with {manifest['ranks']} workers and goes on with {ranks}, which changes its gradient "
                f"under train.reduction=micro_batch: start {manifest['ranks']} again, or begin anew with force=true"
            )
        model_state, optimizer_state = get_state_dict(self.policy, self.optimizer, options=TRAINED)
        state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
        if same := same and manifest.get("device", self.device.type) == self.device.type:
            state["random"] = {own: random_state(self.device)}
        load_state(state, checkpoint_id=path, process_group=self.group)
        set_state_dict(
            self.policy,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=TRAINED,
        )
        if same:
            torch.set_rng_state(state["random"][own]["cpu"])
            if "cuda" in state["random"][own]:
                torch.cuda.set_rng_state(state["random"][own]["cuda"])
        return manifest["step"]

    def clear(self) -> None:
        """Remove what only a run in progress needs. Called on every rank."""
        self.finish()
        if dist.get_rank() == 0:
            clear(self.folder, self.keep_every)
        dist.destroy_process_group(self.group)


class HostCopy(AsyncStager):
    """Copies a state to host memory, pinned beside a GPU. The memory is kept for the next copy.

    Allocating it anew for each copy takes six times as long on a CPU. torch's `DefaultStager` cannot serve: that of
    torch 2.11 frees its memory after each copy and fails at the second one.
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
    """By the run's device alone: to ask for another one's would set it up."""
    cuda = {"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state()} | cuda


def existing(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def forget(checkpoints: list[Path], keep_every: int | None) -> None:
    """Remove checkpoints, but for those at multiples of `keep_every` steps."""
    for old in checkpoints:
        if keep_every is None or int(old.name.removeprefix("step-")) % keep_every:
            shutil.rmtree(old)


def clear(folder: Path, keep_every: int | None) -> None:
    """Remove what is of no use beside the finished model; checkpoints at multiples of `keep_every` steps stay."""
    forget(existing(folder), keep_every)
    for damage in folder.glob(f"{DAMAGED}*"):
        shutil.rmtree(damage)
    if folder.exists() and not existing(folder):
        shutil.rmtree(folder)


def damaged(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None. OSError when they cannot be read, though they are there."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or manifest.pop("sha256", None) != seal(manifest):
            return f"{MANIFEST} is damaged"
        for name, expected in manifest["files"].items():
            if sha256(checkpoint / name) != expected:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except ValueError:
        return f"{MANIFEST} is damaged"
    except OSError as error:
        raise OSError(f"{checkpoint} cannot be read now ({error.strerror}): run the same again when it can") from error
    return None


def seal(manifest: dict[str, Any]) -> str:
    """The SHA-256 (hex) of what a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
