"""The GPUs of this machine as nvidia-smi reports them; asking CUDA would allocate a context on one of them."""

import os
import subprocess
from pathlib import Path

DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")  # NVIDIA, its Jetson, AMD, WSL


def count() -> int:
    """The number of GPUs that torch sees. Without a driver torch is not imported, since that takes seconds."""
    if not any(Path(device).exists() for device in DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()


def free() -> list[str] | None:
    """The visible GPUs, by uuid, on which no process computes; None without nvidia-smi."""
    if (visible := _visible("uuid")) is None:
        return None
    used = {line[0] for line in _query("--query-compute-apps=gpu_uuid")}
    return [uuid for uuid, _ in visible if uuid not in used]


def memory() -> float | None:
    """Bytes of the smallest visible GPU; None without nvidia-smi."""
    visible = _visible("memory.total")
    return min(float(mib) * 2**20 for _, mib in visible) if visible else None


def _visible(field: str) -> list[tuple[str, str]] | None:
    """(uuid, value of an nvidia-smi field without its unit) of each visible GPU; None without nvidia-smi."""
    try:
        gpus = _query(f"--query-gpu=index,uuid,{field}")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if variable is None else set(variable.split(","))
    return [(uuid, value) for index, uuid, value in gpus if chosen is None or {index, uuid} & chosen]


def _query(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [[part.strip() for part in line.split(",")] for line in output.splitlines()]
