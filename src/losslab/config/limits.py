"""Limits of the process: open files, checked before a cell starts, and time that reading a file may take."""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

OPEN_FILES = 256  # needed by each process of a cell: connections, logs, shared memory


def check_open_files() -> None:
    """Raise the limit of open files to OPEN_FILES if it is lower. Raises ValueError if the hard limit forbids this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise ValueError(f"this shell allows {hard} open files, but a cell needs {OPEN_FILES}: raise ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Raise ValueError(message) if the block takes longer. Only in the main thread, which receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise ValueError(message)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
