"""Files and folders that are there as a whole or not at all, also after a kill or a power cut."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from losslab.config.masking import masked


def write(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file atomically, with permissions `mode` minus the umask. Secrets of the environment are masked in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", opener=partial(os.open, mode=mode)) as file:
        file.write(masked(text))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush(path.parent)


def appear(temporary: Path, folder: Path) -> None:
    """Rename a folder that was written under a temporary name, once it is on disk, replacing an old one.

    Its files get the umask's default permissions: safetensors writes files that only their owner can read.
    """
    os.umask(umask := os.umask(0o077))
    for path in (*temporary.rglob("*"), temporary):
        if path.is_file():
            path.chmod(0o666 & ~umask)
        flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    flush(folder.parent)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into, which is renamed to `folder` if the block ends without an exception."""
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)  # to make room for the record of the failure
        raise
    appear(temporary, folder)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
