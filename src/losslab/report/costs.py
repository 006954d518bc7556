"""The settings that a sweep's rows share, those in which they differ, and their costs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.records.cell_records import training_device_seconds
from losslab.records.reading import read_rows
from losslab.report.rows import ReportCell, ReportRow
from losslab.results.labels import DEFAULTS
from losslab.results.load_records import DAMAGED_KEY
from losslab.results.problem_shares import Scores

MISSING = "–"


@dataclass(frozen=True)
class Settings:
    differing: list[tuple[str, list[str]]]  # key and its value in each row; MISSING where a row has no such key
    common: list[tuple[str, str]]


def settings(rows: Sequence[ReportRow]) -> Settings:
    """The settings that decide the rows' results, by dotted key.

    Keys that a base or a damaged record lacks do not count as differences. A key that a trained row lacks does where it
    is of the objective; another one is newer than the row's record, and has its default.
    """
    configs = [row.row.config for row in rows]
    excused = [not row.row.trains or DAMAGED_KEY in row.row.config for row in rows]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing, common = [], []
    for key in keys:
        missing = MISSING if key.startswith("loss.") or key not in DEFAULTS else _text(DEFAULTS[key])
        values = [
            _text(config[key]) if key in config else MISSING if is_excused else missing
            for config, is_excused in zip(configs, excused, strict=True)
        ]
        compared = {value for value, out in zip(values, excused, strict=True) if not out or value != MISSING}
        if len(compared) > 1:
            differing.append((key, values))
        else:
            common.append((key, next(iter(compared))))
    return Settings(differing, sorted(common))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class RowCost:
    """The cost of a row's cells, summed over seeds."""

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


@dataclass(frozen=True)
class CellCost:
    training: float  # device seconds
    scoring: float
    seconds: float  # of the steps
    tokens: int
    memory: int
    samples: int
    sampled: float
    device: str | None


def cell_cost(cell: ReportCell, scores: Scores) -> CellCost:
    """The cost of one cell. Its metrics are not kept, since a sweep may have many more cells than are drawn."""
    seconds, tokens, memory = cell.table.attempt(_steps, cell.folder / "metrics.jsonl", (0.0, 0, 0))
    scored = list(_scored(cell, scores))
    return CellCost(
        training_device_seconds(cell.state, _devices(cell)),
        cell.state.get("scoring_seconds", 0.0) * _local_devices(cell),
        seconds,
        tokens,
        memory,
        sum(problems * samples for problems, samples, _ in scored),
        sum(problems * samples * length for problems, samples, length in scored),
        _device(cell) if cell.environment else None,
    )


def row_costs(rows: Sequence[ReportRow], costs: dict[Path, CellCost]) -> list[RowCost]:
    return [_sum(row.label, row.model, row.style, [costs[cell.folder] for cell in row.cells]) for row in rows]


def total_cost(costs: dict[Path, CellCost]) -> RowCost:
    """The cost of all rows; a cell that belongs to two rows counts once."""
    return _sum("total", "", 0, list(costs.values()))


def devices(rows: Sequence[ReportRow]) -> list[str]:
    """The kinds of devices that were used."""
    return list(dict.fromkeys(_kind(cell) for row in rows for cell in row.cells if cell.environment))


def _sum(label: str, model: str, style: int, cells: Sequence[CellCost]) -> RowCost:
    seconds, tokens = sum(cell.seconds for cell in cells), sum(cell.tokens for cell in cells)
    return RowCost(
        label,
        model,
        style,
        len(cells),
        ", ".join(dict.fromkeys(cell.device for cell in cells if cell.device)) or MISSING,
        sum(cell.training for cell in cells) / 3600,
        sum(cell.scoring for cell in cells) / 3600,
        tokens,
        sum(cell.samples for cell in cells),
        round(sum(cell.sampled for cell in cells)),
        tokens / seconds if seconds and tokens else None,
        max((cell.memory for cell in cells), default=0) or None,
    )


def _steps(metrics: Path) -> tuple[float, int, int]:
    """Seconds and tokens of all steps, and the highest peak of memory."""
    seconds, tokens, memory = 0.0, 0, 0
    for row in read_rows(metrics):
        seconds += _number(row.get("seconds"))
        tokens += int(_number(row.get("tokens")))
        memory = max(memory, int(_number(row.get("peak_memory"))))
    return seconds, tokens, memory


def _number(value: Any) -> float:
    return value if isinstance(value, float | int) and math.isfinite(value) else 0


def _scored(cell: ReportCell, scores: Scores) -> Iterator[tuple[int, int, float]]:
    """Problems, samples and mean tokens of each benchmark, for the finished model and for its steps.

    Of a benchmark of multi-step problems, each question counts: it has samples of its own.
    """
    for path in (*cell.folder.glob("scores/*/scores.json"), *cell.folder.glob("scores/*/steps/*/scores.json")):
        for part in scores.at(path.parent)["benchmarks"].values():
            if {"problems", "samples", "mean_tokens"} <= set(part):
                yield part.get("questions", part["problems"]), part["samples"], part["mean_tokens"]


def _machine(cell: ReportCell) -> dict[str, Any]:
    return cell.config.get("machine", {})


def _gpus(cell: ReportCell) -> list[str]:
    return [] if _machine(cell).get("device") == "cpu" else cell.environment.get("gpus", [])


def _local_devices(cell: ReportCell) -> int:
    """The devices that score: all GPUs of the cell's node, or its CPU."""
    return max(1, len(_gpus(cell)))


def _devices(cell: ReportCell) -> int:
    """The devices of the last training, on all nodes; for an older record without this, those of one node."""
    return cell.state.get("devices") or _machine(cell).get("workers") or _local_devices(cell)


def _device(cell: ReportCell) -> str:
    count = _devices(cell)
    return _kind(cell) if count == 1 else f"{count} × {_kind(cell)}"


def _kind(cell: ReportCell) -> str:
    gpus = _gpus(cell)
    return gpus[0].removeprefix("NVIDIA ") if gpus else "CPU"
