"""Runs several cells of a sweep at a time on one machine: a queue of processes, on each free GPU or share of cores."""

import os
import queue
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from losslab.config.log import log
from losslab.config.paths import ROOT
from losslab.distributed.signals import REQUEUE


def run(cells: dict[Path, list[str]], processes: int, gpus: list[str]) -> None:
    """Run cells, given as folder and overrides, `processes` of them at a time, until all have ended.

    Each sees one of the GPUs (their uuids), in turn; without any it sees what this process sees. Ctrl-C reaches the
    running cells, which save a checkpoint and exit; those in the queue do not start.
    """
    slots = queue.Queue[dict[str, str]]()  # environment variables of a process
    for number in range(processes):
        slots.put({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})
    ended = count(1)

    def run_cell(cell: Path, overrides: list[str]) -> None:
        slot = slots.get()
        command = [sys.executable, str(ROOT / "train.py"), *overrides, "hydra.mode=RUN"]
        file = cell / "logs" / "main.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        log.info(f"started: {cell.name}")
        began = time.monotonic()
        try:
            with file.open("a") as output:
                process = subprocess.run(command, env=os.environ | slot, stdout=output, stderr=output, check=False)
        finally:
            slots.put(slot)  # for the next cell, whether or not this one succeeded
        outcome = {0: "done", REQUEUE: "interrupted"}.get(process.returncode, "failed")
        progress = f"{next(ended)} of {len(cells)}, {time.monotonic() - began:.0f} s"
        log.info(f"{outcome}: {cell.name} ({progress}); its output is in {file}")

    with ThreadPoolExecutor(slots.qsize()) as pool:
        try:
            list(pool.map(run_cell, cells, cells.values()))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
