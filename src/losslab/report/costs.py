"""What the rows of a sweep have in common, what sets them apart, and what they took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from losslab.files import read_json
from losslab.report.cells import Group, Run

MISSING = "–"


@dataclass(frozen=True)
class Settings:
    differing: list[tuple[str, list[str]]]  # key and its value in each row; MISSING where a row has no such key
    common: list[tuple[str, str]]


def settings(groups: Sequence[Group]) -> Settings:
    """The science of the rows by dotted key. A base has few keys, and none of those that it lacks sets it apart."""
    configs = [group.row.config for group in groups]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing, common = [], []
    for key in keys:
        values = [_text(config[key]) if key in config else MISSING for config in configs]
        if len(set(values) - {MISSING}) > 1:
            differing.append((key, values))
        else:
            common.append((key, next(value for value in values if value != MISSING)))
    return Settings(differing, sorted(common))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class Cost:
    """What the cells of a row took, all seeds together."""

    label: str
    model: str
    style: int
    cells: int
    device: str
    training: float  # device hours
    scoring: float
    tokens: int  # of training
    samples: int
    sampled: int  # tokens of the samples
    speed: float | None  # tokens of training a second
    memory: int | None  # bytes of a device at the peak


def costs(groups: Sequence[Group]) -> list[Cost]:
    return [_cost(group.label, group.model, group.style, group.runs) for group in groups]


def total(groups: Sequence[Group]) -> Cost:
    """Of all rows; a cell that is in two of them counts once."""
    runs = {run.folder: run for group in groups for run in group.runs}
    return _cost("total", "", 0, list(runs.values()))


def devices(groups: Sequence[Group]) -> list[str]:
    """The kinds of devices that worked."""
    return list(dict.fromkeys(_kind(run) for group in groups for run in group.runs if run.environment))


def _cost(label: str, model: str, style: int, runs: Sequence[Run]) -> Cost:
    rows = [row for run in runs for row in run.metrics]
    scored = [part for run in runs for part in _scores(run)]
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    tokens = sum(row.get("tokens", 0) for row in rows)
    memory = [row["peak_memory"] for row in rows if row.get("peak_memory")]
    used = dict.fromkeys(_device(run) for run in runs if run.environment)
    return Cost(
        label,
        model,
        style,
        len(runs),
        ", ".join(used) or MISSING,
        sum(run.state.get("training_seconds", 0.0) * _count(run) for run in runs) / 3600,
        sum(run.state.get("scoring_seconds", 0.0) * _local(run) for run in runs) / 3600,
        tokens,
        sum(part["problems"] * part["samples"] for part in scored),
        round(sum(part["problems"] * part["samples"] * part["mean_tokens"] for part in scored)),
        tokens / seconds if seconds and tokens else None,
        max(memory, default=None),
    )


def _scores(run: Run) -> Iterator[dict[str, Any]]:
    """Of the finished model and of its steps."""
    for path in (*run.folder.glob("scores/*/scores.json"), *run.folder.glob("scores/*/steps/*/scores.json")):
        for part in read_json(path)["benchmarks"].values():
            if "problems" in part:
                yield part


def _machine(run: Run) -> dict[str, Any]:
    return run.config.get("machine", {})


def _gpus(run: Run) -> list[str]:
    return [] if _machine(run).get("device") == "cpu" else run.environment.get("gpus", [])


def _local(run: Run) -> int:
    """Devices of the cell's node that score: all of its GPUs, or its CPU."""
    return max(1, len(_gpus(run)))


def _count(run: Run) -> int:
    """Devices that trained, on all nodes; what an older record does not say is taken to be one node."""
    return run.state.get("devices") or _machine(run).get("workers") or _local(run)


def _device(run: Run) -> str:
    count = _count(run)
    return _kind(run) if count == 1 else f"{count} × {_kind(run)}"


def _kind(run: Run) -> str:
    gpus = _gpus(run)
    return gpus[0].removeprefix("NVIDIA ") if gpus else "CPU"
