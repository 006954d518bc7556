"""Sweeps on one machine with several cells at a time: a queue of processes, one per free GPU."""

import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from losslab.config.paths import ROOT
from losslab.distributed.gpus import free


def run(cells: dict[Path, list[str]], processes: int | None) -> None:
    """Run cells, given as folder and overrides, `processes` at a time (None: one per free GPU) until all ended.

    Ctrl-C reaches the cells as well: they leave with a checkpoint, and those that wait do not start.

    Raises:
        ValueError: there are GPUs, and all of them are in use.
    """
    places = queue.Queue[dict[str, str]]()
    gpus = free()
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
