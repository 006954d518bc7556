"""How fast this CPU trains a model: what the newest record says of a cell that trained it here."""

import json
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from losslab.config.schema import Config
from losslab.distributed.worker_count import worker_count
from losslab.records.cell_records import CellRecord, cell_record
from losslab.records.environment import processor
from losslab.records.reading import DamagedRecord, read_facts, read_metrics

# What decides how many tokens a second are trained, beside the processor and the number of workers.
KEYS = {"model": ("path", "revision"), "adapter": ("rank", "target_modules"), "train": ("precision",),
        "machine": ("threads", "recompute", "compile")}  # fmt: skip


def training(config: Config) -> tuple[float, str] | None:
    """Tokens a second of all workers, and the name of the cell of which they are; None if no such cell trained here."""
    chosen, workers = json.dumps(_chosen(asdict(config)), default=str), worker_count(config.machine)
    return _newest(config.machine.results, config.names.model, chosen, workers)


@lru_cache(maxsize=256)  # a plan of many rates asks for one setting again and again, and there may be many records
def _newest(results: str, model: str, chosen: str, workers: int) -> tuple[float, str] | None:
    own = [path for path in Path(results).glob("cells/*/metrics.jsonl") if path.parent.name.startswith(f"{model}-")]
    for path in sorted(own, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            record = cell_record(path.parent)
            if record is not None and _alike(record, chosen, workers) and (rate := _rate(path)):
                return rate, path.parent.name
        except DamagedRecord:
            continue
    return None


def _alike(record: CellRecord, chosen: str, workers: int) -> bool:
    about = read_facts(record.folder / "environment.json")
    here = {"cpu": processor(), "cpus": os.cpu_count(), "workers": workers}
    if {key: about.get(key) for key in here} != here:  # before the configuration is read, which takes longer
        return False
    used = about.get("gpus") and record.config["machine"].get("device") != "cpu"
    return not used and json.dumps(_chosen(record.config), default=str) == chosen


def _chosen(config: dict[str, Any]) -> list[Any]:
    """The values of KEYS; None for those that an older record lacks."""
    return [config.get(section, {}).get(key) for section, keys in KEYS.items() for key in keys]


def _rate(metrics: Path) -> float | None:
    """Tokens a second of the steps after the first, which warms up; None if there are none."""
    rows = [row for row in read_metrics(metrics)[1:] if {"tokens", "seconds"} <= row.keys()]
    seconds = sum(row["seconds"] for row in rows)
    return sum(row["tokens"] for row in rows) / seconds if seconds else None
