"""The log of a command: what it does goes to standard output, warnings go to standard error.

A line is plain on a terminal. In a file it begins with the time, the level and, where a job has several processes, the
rank of the one that wrote it. No line holds a secret, nor a control character that came from a file.
"""

import logging
import os
import sys
import time

from losslab.config.masking import masked

TIME = "%Y-%m-%d %H:%M:%S"


class _Console(logging.Handler):
    """Writes to the streams that are the standard ones at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        prefix = "" if stream.isatty() else f"{time.strftime(TIME, time.localtime(record.created))} {_origin(record)} "
        print(prefix + terminal_text(record.getMessage()), file=stream, flush=True)


def terminal_text(text: str) -> str:
    """A text of several lines without secrets, each line printable."""
    return "\n".join(map(printable, masked(text).split("\n")))


def printable(text: str) -> str:
    """One line as a terminal can show it: line breaks and control characters, as of escape sequences, are spelt out."""
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
