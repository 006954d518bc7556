"""Sweeps on one machine with several cells at a time: a queue of processes, one per free GPU."""

import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from losslab.files import ROOT
from losslab.sweep import unfinished


def launch(config: DictConfig, parameters: dict[str, Any], overrides: list[list[str]]) -> None:
    """Run each cell as `python train.py <its overrides>`, as many at a time as there are places, until all ended.

    Ctrl-C reaches the cells as well: they leave with a checkpoint, and those that wait do not start.
    """
    places = queue.Queue[dict[str, str]]()
    free = free_gpus()
    for number in range(parameters["processes"] or max(1, len(free))):
        places.put({"CUDA_VISIBLE_DEVICES": free[number % len(free)]} if free else {})

    def run(cell: Path, own: list[str]) -> None:
        place = places.get()
        command = [sys.executable, str(ROOT / "train.py"), *own, "hydra.mode=RUN"]
        log = cell / "logs" / "main.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"started: {cell.name}", flush=True)
        with log.open("a") as output:
            done = subprocess.run(command, env=os.environ | place, stdout=output, stderr=output, check=False)
        print(f"{'failed' if done.returncode else 'done'}: {cell.name}; its output is in {log}", flush=True)
        places.put(place)

    cells = unfinished(config, overrides)
    with ThreadPoolExecutor(places.qsize()) as pool:
        try:
            list(pool.map(run, cells, cells.values()))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def free_gpus() -> list[str]:
    """The GPUs that no process computes on, of those that are visible; none where there is no nvidia-smi."""
    try:
        known = _smi("--query-gpu=index,uuid")
        used = {line[0] for line in _smi("--query-compute-apps=gpu_uuid")}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [
        index
        for index, uuid in known
        if uuid not in used and (visible is None or {index, uuid} & set(visible.split(",")))
    ]


def _smi(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
