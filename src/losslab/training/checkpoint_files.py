"""The files of a checkpoint: tensors as safetensors, one file for each rank, and everything else as JSON.

Reading them runs no code from the file. The header of a tensor file says which shards of the tensors it holds; the
format is torch's, whose reader gives each rank the shards that it needs, for any number of ranks.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult

from losslab.files.json_files import write_json

MANIFEST = "whole.json"
VERSION = 2  # of the format; version 1 was pickled and had no version in its manifest
WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")  # in the names of parameters, not in those of a state


class ShardWriter(HuggingFaceStorageWriter):
    """torch's writer of one file per rank, without the two copies that torch's own makes first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_distributed=True)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        pieces = {item.index.fqn: cast(Tensor, planner.resolve_data(item)).contiguous() for item in plan.items}
        assert len(pieces) == len(plan.items), "a rank has one piece of a tensor"
        offsets = {
            item.index.fqn: {"saved_offsets": list(item.tensor_data.chunk.offsets)}
            for item in plan.items
            if item.tensor_data is not None
        }
        storages: set[int] = set()
        for name, piece in pieces.items():  # safetensors refuses tensors that share storage, as some shards do
            storage = piece.untyped_storage().data_ptr()
            if storage in storages:
                pieces[name] = piece.clone()
            storages.add(storage)
        if pieces:
            file = Path(self.path) / f"rank-{plan.storage_data['shard_index'] - 1:05d}.safetensors"
            save_file(pieces, file, metadata={"format": "pt", "DCP_SHARDING_INFO": json.dumps(offsets)})
        written: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        written.set_result([WriteResult(item.index, 0, None) for item in plan.items])
        return written


def tied_names(module: nn.Module) -> set[str]:
    """Names under which a state holds a parameter a second time, such as a tied output layer."""

    def names(every: bool) -> set[str]:
        return {name for name, _ in module.named_parameters(remove_duplicate=not every)}

    tied = names(every=True) - names(every=False)
    for wrapper in WRAPPERS:
        tied = {name.replace(wrapper, "") for name in tied}
    return tied


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves of nested dicts and lists: name, container and key, so that a leaf can be replaced."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", tree, key


def tensors_of(state: dict[str, Any], tied: set[str]) -> dict[str, Tensor]:
    """The tensors of a state by name, not copied; a tied one once."""
    again = {f"model.{name}" for name in tied}
    named = {name: container[key] for name, container, key in leaves(state)}
    return {name: value for name, value in named.items() if isinstance(value, Tensor) and name not in again}


def values_of(state: dict[str, Any]) -> dict[str, Any]:
    """The values of a state that are not tensors, by name: numbers, texts, None and tuples of them.

    Raises ValueError on anything else.
    """
    values = {name: container[key] for name, container, key in leaves(state) if not isinstance(container[key], Tensor)}
    for name, value in values.items():
        parts = value if isinstance(value, tuple) else (value,)
        if not all(part is None or isinstance(part, bool | int | float | str) for part in parts):
            raise ValueError(
                f"{name} is a {type(value).__name__}, which cannot be checkpointed: use an optimizer whose state "
                "consists of tensors and numbers"
            )
    return values


def put_values(state: dict[str, Any], values: dict[str, Any]) -> None:
    """Set the values of a state that are not tensors to those read from a checkpoint, which `misfit` has checked."""
    for name, container, key in leaves(state):
        if name in values:
            container[key] = tuple(values[name]) if isinstance(container[key], tuple) else values[name]


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a checkpoint with the hash of every file and of itself."""
    files = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    content = manifest | {"version": VERSION, "files": files}
    write_json(folder / MANIFEST, content | {"sha256": digest(content)})


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None. OSError if they exist but cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("sha256", None) != digest(content):
            return f"{MANIFEST} is damaged"
        if content.get("version") != VERSION:
            return "another version of losslab wrote it"
        kinds = {"step": int, "ranks": int, "device": str, "values": dict, "files": dict}
        if not all(type(content.get(key)) is kind for key, kind in kinds.items()):
            return f"{MANIFEST} is damaged"
        if folder.name != name(content["step"]):
            return f"{MANIFEST} is that of step {content['step']}"
        files = {file.name for file in folder.iterdir()} - {MANIFEST}
        if odd := sorted(files ^ set(content["files"])):
            return f"{odd[0]} is {'not in the manifest' if odd[0] in files else 'missing'}"
        for file, expected in content["files"].items():
            if sha256(folder / file) != expected:
                return f"{file} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, RecursionError):
        return f"{MANIFEST} is damaged"
    except OSError as error:
        raise OSError(f"{folder} cannot be read now ({error.strerror}): repeat the command when it can") from error
    return None


def misfit(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any], stored_values: dict[str, Any]) -> str:
    """Why an undamaged checkpoint does not fit this state, or an empty string; checked before anything is loaded."""
    try:
        stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except OSError:
        raise
    except Exception as error:  # a malformed header raises many kinds
        return f"its tensors cannot be read ({type(error).__name__})"
    for name, tensor in tensors.items():
        if not _covers(stored.get(name), tensor):
            return f"{name} is {'of another shape or dtype' if name in stored else 'missing'}"
    if any(name.startswith("random.") for name in tensors) and (rank := _unusable_random_state(folder)):
        return f"{rank} is not a random state"
    for name in sorted(values.keys() | stored_values.keys()):
        if name not in values or name not in stored_values or not _like(stored_values[name], values[name]):
            return f"{name} differs from this run's value"
    return ""


def _unusable_random_state(folder: Path) -> str | None:
    """The name of the first random state of a rank that the CPU's generator refuses, or None."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():
                if name.startswith("random.") and name.endswith(".cpu"):
                    try:
                        torch.Generator().set_state(stored.get_tensor(name))
                    except (RuntimeError, TypeError):
                        return name
    return None


def _covers(stored: Any, tensor: Tensor) -> bool:
    """Whether the pieces on disk make up a tensor."""
    if not isinstance(stored, TensorStorageMetadata):
        return False
    if stored.size != tensor.shape or stored.properties.dtype != tensor.dtype:
        return False
    inside = all(offset >= 0 for chunk in stored.chunks for offset in chunk.offsets)
    return inside and sum(math.prod(chunk.sizes) for chunk in stored.chunks) == tensor.numel()


def _like(stored: Any, value: Any) -> bool:
    """Whether a stored value can replace `value`: a text must be equal, a number may differ."""
    if isinstance(value, tuple):
        return isinstance(stored, list) and len(stored) == len(value) and all(map(_like, stored, value))
    return stored == value if isinstance(value, str) else stored is None or isinstance(stored, bool | int | float)


def name(step: int) -> str:
    """The folder name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def digest(manifest: dict[str, Any]) -> str:
    """The SHA-256 (hex) of a manifest's content."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
