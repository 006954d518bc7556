"""The GPUs of this machine as nvidia-smi reports them; asking CUDA would allocate a context on one of them."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")  # NVIDIA, its Jetson, AMD, WSL
FORMAT = "--format=csv,noheader,nounits"
# A line of `nvidia-smi -L` for a part of a GPU (MIG), whose name has its memory: "MIG 3g.40gb Device 0: (UUID: MIG-…)".
PART = re.compile(r"MIG \S*?\.(\d+)gb\S* .*UUID: (MIG-[^)]+)\)")
# Peak dense bfloat16 FLOPs per second, from the manufacturers' data sheets; the first key whose words are in a GPU's
# name. Of a superchip (GB200, GH200) it is that of each GPU.
PEAKS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
}


def count() -> int:
    """The number of GPUs that torch sees. Without a driver torch is not imported, since that takes seconds."""
    if not any(Path(device).exists() for device in DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()


def free() -> list[str] | None:
    """The visible GPUs, by uuid, on which no process computes; None where none is visible.

    A part of a GPU (MIG) counts as free: nvidia-smi names the whole GPU for a process on it.
    """
    if not (visible := _visible()):
        return None
    used = {line[0] for line in _query("--query-compute-apps=gpu_uuid")}
    return [uuid for uuid in visible if uuid not in used]


@cache
def name() -> str | None:
    """The name of the first visible GPU, such as `NVIDIA H200`; None without nvidia-smi."""
    if not (visible := _visible()):
        return None
    return {uuid: called for uuid, called in _query("--query-gpu=uuid,name")}.get(next(iter(visible)))


def peak(name: str) -> float | None:
    """Peak FLOPs per second of a GPU of this name; None if it is not in PEAKS."""
    if "Laptop" in name or "MIG" in name:  # a slower chip under the name of the one for desktops, a part of a GPU
        return None
    # Whole words: an RTX A1000 is no A100.
    return next((flops for words, flops in PEAKS.items() if re.search(rf"\b{words}\b", name)), None)


def memory() -> float | None:
    """Bytes of the smallest visible GPU; None if unknown, as on a system whose GPU shares the memory of the CPU."""
    return min((size for size in _visible().values() if size is not None), default=None)


def _visible() -> dict[str, float | None]:
    """The bytes of each visible GPU, or part of one, by uuid; none without nvidia-smi."""
    try:
        listed = _query("--query-gpu=index,uuid,memory.total")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {}
    indices = {index: uuid for index, uuid, _ in listed}
    sizes = {uuid: float(mib) * 2**20 if mib.replace(".", "").isdigit() else None for _, uuid, mib in listed}
    if (variable := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return sizes
    chosen = [given.strip() for given in variable.split(",")]
    if any(given.startswith("MIG-") for given in chosen):
        sizes |= {uuid: float(gigabytes) * 1e9 for gigabytes, uuid in PART.findall(_nvidia_smi("-L"))}
    seen: dict[str, float | None] = {}
    for given in chosen:
        uuid = indices.get(given) or next((uuid for uuid in sizes if given and uuid.startswith(given)), None)
        if uuid is None:
            break  # CUDA too ignores what follows a name that it does not know
        seen[uuid] = sizes[uuid]
    return seen


def _query(query: str) -> list[list[str]]:
    return [[part.strip() for part in line.split(",")] for line in _nvidia_smi(query, FORMAT).splitlines()]


def _nvidia_smi(*arguments: str) -> str:
    return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=True).stdout
