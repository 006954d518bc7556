"""Limits of this machine that a cell would run into in the middle, and of what a file may make a program do."""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

OPEN_FILES = 256  # that a cell's processes may each need: connections, logs, shared memory


def check_open_files() -> None:
    """Raise the limit of open files as far as it may be; ValueError where that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise ValueError(f"this shell allows {hard} open files, and a cell needs {OPEN_FILES}: raise ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Raise ValueError with a message when the block takes longer; in the main thread alone, where signals arrive."""
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
