"""Progress of long operations: a bar on a terminal, otherwise a plain line every few seconds."""

import sys
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 10  # between two lines
PLAIN = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Lines:
    """A file for tqdm that writes each update as a line on standard error, without control characters."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(description: str, total: int, unit: str, **options: Any) -> tqdm:
    """A tqdm bar on standard error that disappears when done; lines if standard error is not a terminal."""
    options |= {"desc": description, "total": total, "unit": unit}
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, leave=False, **options)
    return tqdm(file=Lines(), bar_format=PLAIN, mininterval=LINE_SECONDS, maxinterval=3 * LINE_SECONDS, **options)
