"""The share of right samples of each problem, from a folder of scores: what all differences of scores are made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losslab.records.reading import DamagedRecord, read_rows

Shares = dict[str, NDArray[np.float64]]  # of right samples of each problem, by benchmark


def right_shares(folder: Path, scores: Mapping[str, Any], verdict: str) -> Shares:
    """The share of right samples of each problem, by benchmark, from a folder of scores.

    scores.json has the counts since version 1; for older records they are computed from the samples. Raises
    DamagedRecord.
    """
    shares = {}
    for name, part in scores["benchmarks"].items():
        if "right" not in part:
            shares[name] = _from_samples(folder / f"{name}.jsonl", part.get("samples"), verdict)
            continue
        try:
            shares[name] = np.array(part["right"][verdict], float) / part["samples"]
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            raise DamagedRecord(folder / "scores.json", f"benchmarks.{name}.right holds no counts") from None
        if shares[name].ndim != 1 or not len(shares[name]):
            raise DamagedRecord(folder / "scores.json", f"benchmarks.{name}.right holds no counts")
        if len(part.get("originals", shares[name])) != len(shares[name]):
            raise DamagedRecord(folder / "scores.json", f"benchmarks.{name}.originals are not as many as its problems")
    return shares


def originals_of(scores: Mapping[str, Any]) -> dict[str, list[str]]:
    """What each problem is a version of, for those benchmarks of a scores.json that have versions of problems."""
    return {name: part["originals"] for name, part in scores["benchmarks"].items() if part.get("originals")}


def _from_samples(path: Path, samples: int | None, verdict: str) -> NDArray[np.float64]:
    if not path.exists():
        raise DamagedRecord(path, "is missing")
    try:
        marks = [[bool(sample[verdict]) for sample in row["samples"][:samples]] for row in read_rows(path)]
        if not marks or not all(len(row) == samples for row in marks):
            raise DamagedRecord(path, f"does not have {samples} samples of each problem")
    except (KeyError, TypeError):
        raise DamagedRecord(path, f"a problem lacks its samples, or a sample its {verdict} verdict") from None
    return np.array(marks, float).mean(1)
