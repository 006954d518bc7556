"""Runs one worker process: handles signals, lost ranks, and the death of its launcher."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from losslab.distributed import process_group
from losslab.distributed.signals import WORKER_STOP_SIGNALS, raise_on_stop

LOST_RANK_SECONDS = 3  # that a rank which lost another one waits, so that the other's error is recorded first


@record
def run_worker(worker: Callable[..., None], *args: object) -> None:
    """Run `worker(*args)` in a process that torch's launcher started; torch records its error for the launcher."""
    threading.Thread(target=_exit_with_launcher, daemon=True).start()
    try:
        # Until the training loop installs its own handler: before the first step there is nothing to save.
        with raise_on_stop(WORKER_STOP_SIGNALS):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WORKER_STOP_SIGNALS)  # signals that came before arrive now
            worker(*args)
    except RuntimeError as error:
        if not _of_another_rank(error):
            raise
        time.sleep(LOST_RANK_SECONDS)
        if "Timed out" in str(error):  # the other rank reported nothing
            minutes = process_group.STEP_TIMEOUT.total_seconds() / 60
            raise TimeoutError(
                f"no answer from another rank for {minutes:g} minutes: it or its machine hangs; find out which, and "
                "repeat the command to resume from the newest checkpoint"
            ) from error
        raise
    if dist.is_initialized():  # not after an error: with NCCL it would wait for ranks that wait for this one
        dist.destroy_process_group()


def _of_another_rank(error: RuntimeError) -> bool:
    """Whether an error says that another rank is gone or does not answer."""
    return int(os.environ["WORLD_SIZE"]) > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def _exit_with_launcher() -> None:
    """Exit when the launcher is gone, since a new launcher may start the same cell.

    The pipe to the launcher closes when it exits. Its process id does not tell: a killed process keeps it until its
    parent waits for it, and afterwards another process may get it.
    """
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)
