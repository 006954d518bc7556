"""Cells that end together share one writing of their sweep's table: a thousand of them would wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from losslab.files.json_files import read_json, write_json
from losslab.files.locks import lock

FILE = "writings.json"  # {"begun": n, "ended": n}: the numbers of the last writing that began, and that ended


def begun(folder: Path) -> int:
    """The number of the last writing that began; 0 before the first."""
    return _numbers(folder)[0]


@contextmanager
def writing(folder: Path, since: int | None = None) -> Iterator[bool]:
    """Hold the lock of the cache folder of a table while it is written.

    Args:
        folder: of the table's cache, in which the writings are counted.
        since: of `begun`, before the caller waits. It gets False, and need not write, where a writing that began
            afterwards has ended, since that has read all that was there. None: it writes in any case.
    """
    with lock(folder, quiet=True):
        last, ended = _numbers(folder)
        if since is not None and ended > since:
            yield False
            return
        write_json(folder / FILE, {"begun": last + 1, "ended": ended})
        yield True
        write_json(folder / FILE, {"begun": last + 1, "ended": last + 1})


def _numbers(folder: Path) -> tuple[int, int]:
    try:
        counted = read_json(folder / FILE)
    except ValueError:  # the cache may be removed at any time, and so may what is damaged
        counted = {}
    return counted.get("begun", 0), counted.get("ended", 0)
