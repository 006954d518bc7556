"""How fast this CPU trains a model: what the newest record says of a cell that trained it here."""

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from losslab.composition.compose import schema
from losslab.composition.record_file import read_record, refuse_unknown_objective
from losslab.config.messages import sentence
from losslab.config.schema import Config
from losslab.distributed.environment import available_cores
from losslab.distributed.worker_count import worker_count
from losslab.planning import cost
from losslab.records.cell_records import CellRecord, cell_record
from losslab.records.environment import processor
from losslab.records.reading import DamagedRecord, read_facts, read_metrics

# What decides how many tokens a second are trained, beside the processor and the number of workers.
KEYS = {"model": ("path", "revision"), "adapter": ("rank", "target_modules"), "train": ("precision",),
        "machine": ("threads", "recompute", "compile")}  # fmt: skip


def training(config: Config, parameters: int) -> tuple[float, str] | None:
    """Tokens a second of all workers in forward and backward, and the name of the cell of which they are.

    The passes without gradients in that cell's steps are taken out by their cost, so that the rate serves every
    objective. None if no such cell trained here. `parameters` are those of the model.
    """
    chosen, workers = json.dumps(_chosen(asdict(config)), default=str), worker_count(config.machine)
    return _newest(config.machine.results, config.names.model, chosen, workers, parameters)


@lru_cache(maxsize=256)  # a plan of many rates asks for one setting again and again, and there may be many records
def _newest(results: str, model: str, chosen: str, workers: int, parameters: int) -> tuple[float, str] | None:
    files = [path for path in Path(results).glob("cells/*/metrics.jsonl") if path.parent.name.startswith(f"{model}-")]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            record = cell_record(path.parent)
            if record is not None and _alike(record, chosen, workers) and (rate := _rate(path)):
                return rate * cost.slowdown(_trained(record), parameters), path.parent.name
        except ValueError:  # a damaged record, or one of an objective or a reference that is not here any more
            continue
    return None


def _trained(record: CellRecord) -> Config:
    """The configuration that a cell was trained with. Raises ValueError, also for an objective that is not in conf/."""
    file = record.folder / "config.yaml"
    saved = read_record(file)
    refuse_unknown_objective(saved.loss, str(file))  # a record from elsewhere must not have its code run by a plan
    try:
        config = OmegaConf.to_object(OmegaConf.merge(schema(), saved))
    except OmegaConfBaseException as error:
        raise DamagedRecord(file, sentence(error)) from None
    assert isinstance(config, Config)
    return config


def _alike(record: CellRecord, chosen: str, workers: int) -> bool:
    about = read_facts(record.folder / "environment.json")
    here = {"cpu": processor(), "cpus": available_cores(), "workers": workers}
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
