"""Reads the cells of a results folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import NoneType
from typing import Any

from losslab.config.log import printable
from losslab.config.paths import names_folder
from losslab.config.schema import Config
from losslab.records.reading import (
    NAMES,
    DamagedRecord,
    check_form,
    read_cell,
    read_yaml,
    short,
)


@dataclass(frozen=True)
class CellRecord:
    """A cell's folder with the content of its cell.json or, if that is damaged, the part that config.yaml gives."""

    folder: Path
    state: dict[str, Any]  # {} if neither can be read
    faults: list[str] = field(default_factory=list)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.yaml, not to be modified. Raises DamagedRecord."""
        path = self.folder / "config.yaml"
        config = read_yaml(path)
        form = {"names": {**NAMES, "method": (str, NoneType)}, "machine": {"results": str}, "seed": int}
        check_form(path, config, {"names": NAMES, "machine": {"results": str}, "seed": int}, form)
        if fault := _wrong_number(config):
            raise DamagedRecord(path, fault)
        return config

    @property
    def sweeps(self) -> Sequence[str]:
        return self.state.get("sweeps", [])


def cell_records(results: str | Path) -> list[CellRecord]:
    """All cells of a results folder that have a cell.json, sorted by folder name."""
    try:
        names = sorted(entry.name for entry in os.scandir(Path(results) / "cells") if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    folders = (Path(results) / "cells" / name for name in names)
    return [record for folder in folders if (record := cell_record(folder)) is not None]


def cell_record(folder: Path) -> CellRecord | None:
    """The record of a folder; None if it has no cell.json."""
    try:
        state = read_cell(folder / "cell.json")
    except DamagedRecord as damage:
        return CellRecord(folder, _from_config(folder), [str(damage)])
    if not state:
        return None
    refused = [name for name in state["sweeps"] if not names_folder(name)]
    state["sweeps"] = [name for name in state["sweeps"] if name not in refused]
    faults = [printable(f"{folder}/cell.json: {name!r} cannot be the name of a sweep") for name in refused]
    return CellRecord(folder, state, faults)


def training_device_seconds(state: Mapping[str, Any], devices: int) -> float:
    """Seconds of training times the devices of each attempt, summed over the attempts of a cell.json.

    An older one has seconds alone: they are taken as those of `devices`.
    """
    return state.get("training_device_seconds", state.get("training_seconds", 0.0) * devices)


def _from_config(folder: Path) -> dict[str, Any]:
    """The part of cell.json that config.yaml determines."""
    try:
        config = CellRecord(folder, {}).config
        sweep = config.get("sweep", {}).get("name")
    except (DamagedRecord, AttributeError):
        return {}
    named = isinstance(sweep, str) and names_folder(sweep)
    about = {"names": config["names"], "seed": config["seed"], "declared": "", "updated": ""}
    return about | {"sweeps": [sweep] if named else [], "state": "damaged"}


@lru_cache(maxsize=1)
def _numbers() -> dict[str, list[str]]:
    """The keys of the schema that are numbers, by section."""
    wanted = (int, float, int | None, float | None)
    sections = {name: getattr(kind, "__annotations__", {}) for name, kind in Config.__annotations__.items()}
    keys = {name: [key for key, of in section.items() if of in wanted] for name, section in sections.items()}
    return {name: numbers for name, numbers in keys.items() if numbers}


def _wrong_number(config: Mapping[str, Any]) -> str | None:
    """Name the first section that is not a mapping, or the first number of the schema whose value has another type."""
    for name, keys in _numbers().items():
        section = config.get(name, {})
        if not isinstance(section, dict):
            return f"{name} is {short(section)}, not a mapping"
        for key in keys:
            value = section.get(key)
            if value is not None and (not isinstance(value, float | int) or isinstance(value, bool)):
                return f"{name}.{key} is {short(value)}, not a number"
    return None
