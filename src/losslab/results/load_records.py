"""The cells of a sweep, from their records and from what its file declares."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from losslab.config.schema import BASE, Config
from losslab.files import read_json
from losslab.records.record import Cell
from losslab.statistics.intervals import Estimate

IDLE = {"model.learning_rate", "model.architecture", "model.trust_remote_code", "dataset.source"}  # act through others
NOT_SCIENCE = {"machine", "tracker", "sweep", "names", "seed", "stage", "plan", "force", "benchmark", "eval"}


@dataclass(frozen=True)
class Entry:
    """A cell under one protocol of its scores; one that has no score yet, or that nobody has begun."""

    folder: Path
    names: dict[str, Any]  # `method` is the one of this sweep
    seed: int
    config: dict[str, Any]  # flat: the science of the cell, by dotted key
    protocol: str | None  # name and hash of the protocol of its scores; None where not scored
    scores: dict[str, float]  # percent, by benchmark; empty where not scored
    halves: dict[str, float | None]  # of the 95% interval over problems; None where there is none
    samples: dict[str, int] = field(default_factory=dict)  # answers to each problem, by benchmark
    verdict: str | None = None  # of the scores
    recipe: str | None = None  # alike for the seeds of one configuration, objective's code and data
    touched: str = ""  # when the record was last written, as ISO 8601


def recorded(sweep: str, results: str) -> Iterator[Entry]:
    """The cells of a sweep, in the order in which they were asked for, each once for each protocol of its scores."""
    states = {path.parent: read_json(path) for path in sorted(Path(results).glob("cells/*/cell.json"))}
    members = [folder for folder, state in states.items() if sweep in state.get("sweeps", [])]
    for folder in sorted(members, key=lambda folder: states[folder]["declared"]):
        state = states[folder]
        names = state["names"] | {"method": state.get("methods", {}).get(sweep)}
        config = science(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        protocols: list[Path | None] = [*sorted(folder.glob("scores/*/scores.json"))]
        for path in protocols or [None]:
            whole = read_json(path) if path else {}
            found = whole.get("benchmarks", {})
            yield Entry(
                folder,
                names,
                state["seed"],
                config,
                path.parent.name if path else None,
                {name: part["score"] for name, part in found.items()},
                {name: Estimate.recorded(part["score"], part["interval"]).half for name, part in found.items()},
                {name: part["samples"] for name, part in found.items()},
                whole["verdict"] if whole else None,
                state.get("recipe"),
                state["updated"],
            )


def promised(config: Config) -> Entry:
    """A declared cell that has no record."""
    plain = yaml.safe_load(OmegaConf.to_yaml(OmegaConf.structured(config)))
    return Entry(Cell.of(config).folder, asdict(config.names), config.seed, science(plain), None, {}, {})


def science(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the results of a cell but for its seed, by dotted key; of a base its model alone.

    Files under the results folder are named from there, so that records can be moved.
    """
    names, results = config["names"], config["machine"]["results"]
    groups = ("model",) if names["loss"] == BASE else [key for key in config if key not in NOT_SCIENCE]
    flat = flatten({key: {k: v for k, v in config[key].items() if f"{key}.{k}" not in IDLE} for key in groups})
    flat = {k: v.removeprefix(f"{results}/") if isinstance(v, str) else v for k, v in flat.items()}
    return flat | ({} if names["loss"] == BASE else {"dataset": names["dataset"]}) | {"loss": names["loss"]}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
