"""Checkpoints of a run in progress: model, optimizer, position and random state, by torch's distributed checkpoint.

A checkpoint is written beside its place and renamed when every rank is done, so what is there is whole. It can be
read by another number of ranks.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from losslab.policy import Policy

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)  # a frozen reference comes from its own files
KEEP = 1


def save(folder: Path, step: int, policy: Policy, optimizer: Optimizer) -> None:
    """Write the state after `step` steps. Called on every rank."""
    target = folder / f"step-{step:08d}"
    temporary = folder / f".{target.name}.writing"
    if dist.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    model_state, optimizer_state = get_state_dict(policy, optimizer, options=TRAINED)
    random = {str(dist.get_rank()): torch.get_rng_state()}
    dcp.save({"model": model_state, "optimizer": optimizer_state, "random": random}, checkpoint_id=temporary)
    if dist.get_rank() == 0:
        (temporary / "position.json").write_text(json.dumps({"step": step, "ranks": dist.get_world_size()}))
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in existing(folder)[:-KEEP]:
            shutil.rmtree(old)
    dist.barrier()


def resume(folder: Path, policy: Policy, optimizer: Optimizer) -> int:
    """Load the newest checkpoint, if any, and return the number of steps it has behind it. Called on every rank."""
    checkpoints = existing(folder)
    if not checkpoints:
        return 0
    position = json.loads((checkpoints[-1] / "position.json").read_text())
    model_state, optimizer_state = get_state_dict(policy, optimizer, options=TRAINED)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    own = str(dist.get_rank())
    if position["ranks"] == dist.get_world_size():
        state["random"] = {own: torch.get_rng_state()}
    dcp.load(state, checkpoint_id=checkpoints[-1])
    set_state_dict(
        policy, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=TRAINED
    )
    if "random" in state:
        torch.set_rng_state(state["random"][own])
    return position["step"]


def existing(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))
