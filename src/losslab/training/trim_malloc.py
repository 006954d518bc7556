"""Return freed memory to the system."""

import ctypes
from functools import cache


def trim_malloc() -> None:
    """Have glibc return freed memory to the system, where there is glibc.

    It keeps what is freed in pieces that are then too small: a run held up to 1.75 times of what it had in use.
    """
    if trim := getattr(_libc(), "malloc_trim", None):
        trim(0)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
