"""Of which problem a row of a benchmark is a version: intervals take the versions of a problem together."""

import re
from collections.abc import Mapping
from typing import Any

from losslab.config.benchmark import BenchmarkConfig


def original(place: str, row: Mapping[str, Any], cfg: BenchmarkConfig) -> str:
    """The name of the problem, as `HumanEval/12`, from the first number in the column `cfg.original`; else empty.

    Raises ValueError for a row without one.
    """
    if cfg.versions_of is None:
        return ""
    if (number := re.search(r"\d+", str(row.get(str(cfg.original), "")))) is None:
        raise ValueError(
            f"{place}: no number in the column {cfg.original!r}, which has to say of which problem of "
            f"{cfg.versions_of} this is a version; name another column by `original`, or set versions_of=null"
        )
    return f"{cfg.versions_of}/{int(number[0])}"
