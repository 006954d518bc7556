"""Progress of long steps: a bar on a terminal, a plain line now and then elsewhere."""

import sys
from typing import Any

from tqdm import tqdm

PLAIN = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n"


def bar(description: str, total: int, unit: str, **options: Any) -> tqdm:
    """A tqdm bar on standard error; ten-second lines when that is not a terminal."""
    if sys.stderr.isatty():
        return tqdm(desc=description, total=total, unit=unit, dynamic_ncols=True, leave=False, **options)
    return tqdm(desc=description, total=total, unit=unit, bar_format=PLAIN, mininterval=10, maxinterval=30, **options)
