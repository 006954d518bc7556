"""Sweeps on one machine with several cells at a time: a queue of processes, one per free GPU."""

import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from losslab.files import ROOT


def run(cells: dict[Path, list[str]], processes: int | None) -> None:
    """Run cells, given as folder and overrides, `processes` at a time (None: one per free GPU) until all ended.

    Ctrl-C reaches the cells as well: they leave with a checkpoint, and those that wait do not start.

    Raises:
        ValueError: there are GPUs, and all of them are in use.
    """
    places = queue.Queue[dict[str, str]]()
    gpus = free_gpus()
    if gpus == []:
        raise ValueError("every GPU of this machine is in use: wait, or end what uses them")
    for number in range(processes or len(gpus or [""])):
        places.put({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})

    def work(cell: Path, own: list[str]) -> None:
        place = places.get()
        command = [sys.executable, str(ROOT / "train.py"), *own, "hydra.mode=RUN"]
        log = cell / "logs" / "main.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"started: {cell.name}", flush=True)
        try:
            with log.open("a") as output:
                done = subprocess.run(command, env=os.environ | place, stdout=output, stderr=output, check=False)
        finally:
            places.put(place)  # for the next one, whatever became of this
        ended = {0: "done", os.EX_TEMPFAIL: "interrupted"}.get(done.returncode, "failed")
        print(f"{ended}: {cell.name}; its output is in {log}", flush=True)

    with ThreadPoolExecutor(places.qsize()) as pool:
        try:
            list(pool.map(work, cells, cells.values()))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def free_gpus() -> list[str] | None:
    """The GPUs, by uuid, that no process computes on, of those that are visible; None where there is no nvidia-smi."""
    try:
        known = _smi("--query-gpu=index,uuid")
        used = {line[0] for line in _smi("--query-compute-apps=gpu_uuid")}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [
        uuid
        for index, uuid in known
        if uuid not in used and (visible is None or {index, uuid} & set(visible.split(",")))
    ]


def _smi(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
