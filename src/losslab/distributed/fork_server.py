"""The server that workers and engines are forked from: one for each Python process.

It imports what they need once, so that all but the first start at once.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from typing import Any

from losslab.distributed.signals import stop_signals_blocked


def start(modules: Sequence[str]) -> Any:
    """Start the server, which imports `modules` in the background, and return its context at once.

    A server that runs already stays as it is; what it has not imported, the forked processes import themselves.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: a quarter off the fused loss's time on a CPU
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    with stop_signals_blocked():
        resource_tracker.ensure_running()  # it unblocks SIGTERM at its end, so the server needs a block of its own
    with stop_signals_blocked(), _environment(PYTHONPATH=path, VLLM_LOGGING_LEVEL="ERROR"):
        forkserver.ensure_running()
    return context


def wait() -> None:
    """Wait until the server has imported its modules and answers."""
    process = multiprocessing.get_context("forkserver").Process(target=int)
    process.start()
    process.join()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
