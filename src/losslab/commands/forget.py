"""Remove cells from a sweep's table. Their records stay, except those of cells that were never started.

losslab forget SWEEP                   all cells of the sweep
losslab forget SWEEP model=tiny seed=3 those that have all of these values: of seed, model, dataset, loss, method,
                                       state, or any key of the configuration such as optimizer.lr
losslab forget SWEEP CELL ...          those named, as in results/cells/CELL
  results=FOLDER                       the folder of the records, if not results
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from losslab.config.messages import among
from losslab.launchers.status import sweeps
from losslab.records.cell_records import CellRecord, cell_records
from losslab.records.record import Cell

ABSENT = object()


def main(arguments: list[str]) -> None:
    wanted = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    names = [argument for argument in arguments if "=" not in argument]
    results = wanted.pop("results", "results")
    if not names or names[0].startswith("-"):
        raise ValueError("give the sweep: losslab forget SWEEP [KEY=VALUE ...] [CELL ...]")
    sweep, *chosen = names
    members = sweeps(cell_records(results))
    if sweep not in members:
        raise ValueError(f"no record of the sweep {sweep} under {results}{among(sweep, members)}")
    records = {record.folder.name: record for record in members[sweep]}
    for name in chosen:
        if Path(name).name not in records:
            raise ValueError(f"{name} is not a cell of {sweep}{among(Path(name).name, records)}")
    candidates = [records[Path(name).name] for name in chosen] or list(records.values())
    matching = [record for record in candidates if matches(record, sweep, wanted)]
    if not matching:
        asked = " ".join(f"{key}={value}" for key, value in wanted.items())
        raise ValueError(f"no cell of {sweep} has {asked}: `losslab status {sweep}` lists its cells")
    for record in matching:
        Cell(record.folder, str(record.state.get("identity"))).leave(sweep)
        gone = "" if record.folder.exists() else ", and deleted, since it was never started"
        print(f"{record.folder.name}: removed from {sweep}{gone}")
    print(f"{len(matching)} of {len(records)} cells removed: losslab table {sweep} rebuilds the table")


def matches(record: CellRecord, sweep: str, wanted: dict[str, str]) -> bool:
    """Whether a cell has all of these values. Raises ValueError for a key that its configuration does not have."""
    state = record.state
    values: dict[str, Any] = {**state["names"], "seed": state["seed"], "state": state.get("state", "waiting")}
    values["method"] = state.get("methods", {}).get(sweep)
    for key, value in wanted.items():
        if key not in values:
            values[key] = OmegaConf.select(OmegaConf.create(record.config), key, default=ABSENT)
        if values[key] is ABSENT:
            del values[key]
            raise ValueError(f"unknown key {key}{among(key, values)}, and the keys of docs/configuration.md")
        if values[key] != yaml.safe_load(value) and not same_number(values[key], value):
            return False
    return True


def same_number(mine: Any, value: str) -> bool:
    """Whether a value equals the number that a text denotes: 1e-4 is 0.0001."""
    try:
        return not isinstance(mine, str | bool) and float(mine) == float(value)
    except (TypeError, ValueError):
        return False
