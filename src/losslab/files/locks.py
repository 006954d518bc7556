"""Locks of folders, and folders of a cache that one process fills while others wait."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from losslab.config.log import log
from losslab.files.atomic import whole


@contextmanager
def lock(folder: Path, quiet: bool = False) -> Iterator[None]:
    """Hold an exclusive lock of a folder. A second process waits here, and then finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not quiet:
                log.info(f"waiting for another process that is using {folder.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache. The first process that needs it calls `make` with the folder to fill; others wait."""
    with lock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            with whole(folder) as temporary:
                make(temporary)
    return folder
