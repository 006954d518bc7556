"""Runs several cells of a sweep at a time on one machine: a queue of processes, on each free GPU or share of cores."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from losslab.composition.check_unread import CHECKED
from losslab.config.log import log
from losslab.config.paths import ROOT
from losslab.distributed.signals import REQUEUE, Interrupted, raise_on_stop


def run(cells: dict[Path, list[str]], processes: int, gpus: list[str]) -> None:
    """Run cells, given as folder and overrides, `processes` of them at a time, until all have ended.

    Each sees one of the GPUs (their uuids), in turn; without any it sees what this process sees. A request to stop
    is passed on to the running cells, as a terminal does with Ctrl-C: they save a checkpoint and exit, and those in the
    queue do not start. Raises Interrupted then.
    """
    slots = queue.Queue[dict[str, str]]()  # environment variables of a process
    for number in range(processes):
        slots.put({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})
    running, stopping, ended = set[subprocess.Popen](), threading.Event(), count(1)
    starting = threading.Lock()  # so that no cell starts after the running ones were asked to stop

    def run_cell(cell: Path, overrides: list[str]) -> None:
        slot = slots.get()
        command = [sys.executable, str(ROOT / "train.py"), *overrides, "hydra.mode=RUN"]
        environment = os.environ | {CHECKED: "1"} | slot
        file = cell / "logs" / "main.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            with starting, file.open("a") as output:
                if stopping.is_set():
                    return
                log.info(f"started: {cell.name}")
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
                running.add(process)
            process.wait()
            running.discard(process)
        finally:
            slots.put(slot)  # for the next cell, whether or not this one succeeded
        outcome = {0: "done", REQUEUE: "interrupted", -signal.SIGTERM: "interrupted"}.get(process.returncode, "failed")
        progress = f"{next(ended)} of {len(cells)}, {time.monotonic() - began:.0f} s"
        log.info(f"{outcome}: {cell.name} ({progress}); its output is in {file}")

    with raise_on_stop(), ThreadPoolExecutor(slots.qsize()) as pool:
        try:
            list(pool.map(run_cell, cells, cells.values()))
        except (KeyboardInterrupt, Interrupted) as request:
            with starting:
                stopping.set()
                for process in list(running) if isinstance(request, Interrupted) else []:
                    process.terminate()
            pool.shutdown(cancel_futures=True)
            raise
