"""Requests to stop: which signals they are, and what a process does on them.

SLURM sends SIGTERM or SIGUSR1/2 before a time limit and on preemption. A cell then saves a checkpoint and exits with
status 75 (EX_TEMPFAIL): the same command continues it.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

REQUEUE = 75  # EX_TEMPFAIL
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
WORKER_STOP_SIGNALS = (*STOP_SIGNALS, signal.SIGINT, signal.SIGHUP)  # those that a worker handles


class Interrupted(SystemExit):
    """The run was asked to stop, and has saved a checkpoint. Its exit status asks for a requeue."""

    def __init__(self) -> None:
        super().__init__(REQUEUE)


def came_of_stop(error: BaseException | None) -> bool:
    """Whether an error is Interrupted, or was raised while one propagated: clean-up in libraries may replace it."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def heeded(signals: tuple[signal.Signals, ...]) -> list[signal.Signals]:
    """The signals to install a handler for: all except a SIGHUP that is ignored, as under `nohup`."""
    return [n for n in signals if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


@contextmanager
def raise_on_stop(signals: tuple[signal.Signals, ...] = STOP_SIGNALS) -> Iterator[None]:
    """Raise Interrupted in the block on the first of `signals`; further ones are ignored.

    Python drops an exception that a destructor raises: this process then sends itself `signals[0]` a moment later.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        ignore_stop_signals(signals)
        raise Interrupted

    def tell(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            tell_before(unraisable)
            return
        signal.signal(signals[0], stop)
        again.append(threading.Timer(0.1, os.kill, (os.getpid(), signals[0])))
        again[-1].start()

    again: list[threading.Timer] = []
    tell_before, sys.unraisablehook = sys.unraisablehook, tell
    before = {number: signal.signal(number, stop) for number in heeded(signals)}
    try:
        yield
    finally:
        sys.unraisablehook = tell_before
        for timer in again:
            timer.cancel()
            timer.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_stop_signals(signals: tuple[signal.Signals, ...] = STOP_SIGNALS) -> None:
    """Ignore requests to stop from here on: the process is already stopping."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes started in the block inherit a mask that blocks requests to stop.

    SLURM sends its signals to every process of the job, and a terminal sends Ctrl-C to every process of a command, but
    only this process has to handle them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WORKER_STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
