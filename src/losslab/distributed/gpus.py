"""The GPUs of this machine as nvidia-smi tells, since to ask CUDA would take memory of one of them."""

import os
import subprocess


def free() -> list[str] | None:
    """The GPUs, by uuid, that no process computes on, of those that are visible; None where there is no nvidia-smi."""
    if (known := _visible("uuid")) is None:
        return None
    used = {line[0] for line in _smi("--query-compute-apps=gpu_uuid")}
    return [uuid for uuid, _ in known if uuid not in used]


def memory() -> float | None:
    """Bytes of the smallest of the visible GPUs; None where there is no nvidia-smi."""
    known = _visible("memory.total")
    return min(float(mib) * 2**20 for _, mib in known) if known else None


def _visible(field: str) -> list[tuple[str, str]] | None:
    """(uuid, a field of nvidia-smi without its unit) of each visible GPU; None where there is no nvidia-smi."""
    try:
        known = _smi(f"--query-gpu=index,uuid,{field}")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else set(visible.split(","))
    return [(uuid, value) for index, uuid, value in known if chosen is None or {index, uuid} & chosen]


def _smi(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
