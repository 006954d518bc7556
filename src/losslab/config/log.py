"""The log of a command: messages go to standard output, warnings to standard error.

On a terminal, lines are plain. Otherwise they begin with time, level and, if a job has several processes, rank. No line
contains secrets or control characters from a file.
"""

import logging
import os
import sys
import time

from losslab.config.masking import masked

TIME = "%Y-%m-%d %H:%M:%S"


class _Console(logging.Handler):
    """Writes to the current sys.stdout and sys.stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        prefix = "" if stream.isatty() else f"{time.strftime(TIME, time.localtime(record.created))} {_origin(record)} "
        print(prefix + terminal_text(record.getMessage()), file=stream, flush=True)


def terminal_text(text: str) -> str:
    """A multi-line text without secrets or control characters."""
    return "\n".join(map(printable, masked(text).split("\n")))


def printable(text: str) -> str:
    """One line that is safe on a terminal: line breaks, control characters and escape sequences are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _origin(record: logging.LogRecord) -> str:
    rank = f" rank {os.environ['RANK']}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    return f"{record.levelname}{rank}"


log = logging.getLogger("losslab")
log.setLevel(logging.INFO)
log.propagate = False  # a library that configures the root logger would print each line again
log.addHandler(_Console())
