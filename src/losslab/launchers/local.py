"""Runs several cells of a sweep at a time on one machine: a queue of processes, one on each free GPU."""

import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from losslab.config.log import log
from losslab.config.paths import ROOT
from losslab.distributed.gpus import free
from losslab.distributed.signals import REQUEUE


def run(cells: dict[Path, list[str]], processes: int | None) -> None:
    """Run cells, given as folder and overrides, until all have ended.

    `processes` of them run at a time, None for one on each free GPU. Ctrl-C reaches the running cells, which save a
    checkpoint and exit; those in the queue do not start.

    Raises:
        ValueError: all GPUs of the machine are in use.
    """
    slots = queue.Queue[dict[str, str]]()  # environment variables of a process
    gpus = free()
    if gpus == []:
        raise ValueError("every GPU of this machine is in use: wait, or end what uses them")
    for number in range(processes or len(gpus or [""])):
        slots.put({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})

    def run_cell(cell: Path, overrides: list[str]) -> None:
        slot = slots.get()
        command = [sys.executable, str(ROOT / "train.py"), *overrides, "hydra.mode=RUN"]
        file = cell / "logs" / "main.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        log.info(f"started: {cell.name}")
        try:
            with file.open("a") as output:
                process = subprocess.run(command, env=os.environ | slot, stdout=output, stderr=output, check=False)
        finally:
            slots.put(slot)  # for the next cell, whether or not this one succeeded
        outcome = {0: "done", REQUEUE: "interrupted"}.get(process.returncode, "failed")
        log.info(f"{outcome}: {cell.name}; its output is in {file}")

    with ThreadPoolExecutor(slots.qsize()) as pool:
        try:
            list(pool.map(run_cell, cells, cells.values()))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
