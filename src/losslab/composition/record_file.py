"""Reads the configuration of a record, which may come from somebody else, without running code that it names.

A record that is scored again runs the code of its objective only if a file names it in this installation's conf/, or in
a folder that the user names in hydra.searchpath.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from losslab.config.earlier import translate
from losslab.config.paths import CONF

OURS = "losslab."  # before the name of a class that this package has, whatever conf/ names


def read_record(file: Path) -> DictConfig:
    """The content of a cell's config.yaml; `model.trust_remote_code` is always read as false.

    Its objective may be any class: what loads it calls `refuse_unknown_objective` first. Raises ValueError if it is not
    a configuration, or if it has interpolations (`${...}`).
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read ({type(error).__name__}): restore it or remove its cell") from None
    kinds = {"model": dict, "loss": dict, "benchmark": dict, "names": dict, "machine": dict, "sweep": dict, "seed": int}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{file} is not the configuration of a cell: restore it or remove its cell")
    if not all(isinstance(benchmark, dict) for benchmark in content["benchmark"].values()):
        raise ValueError(f"{file} has a benchmark without keys: restore it or remove its cell")
    if reference := next((text for text in texts(content) if "${" in text), None):
        raise ValueError(f"{file} contains the interpolation {reference[:99]!r}: write its value instead")
    content["model"]["trust_remote_code"] = False
    record = OmegaConf.create(content)
    assert isinstance(record, DictConfig)
    translate(record)
    return record


def refuse_unknown_objective(loss: Any, file: str, folders: Iterable[Path] = (CONF,)) -> None:
    """Raise ValueError if no file of `loss` in these folders has a record's objective; the class is not loaded."""
    target = loss.get("_target_") if isinstance(loss, Mapping) else None
    if not str(target).startswith(OURS) and str(target) not in objectives(folders):
        raise ValueError(
            f"{file} names the objective {target!r}, which is in no file of conf/loss and of loss/ in the folders of "
            "hydra.searchpath: add such a file if you trust its code"
        )


def objectives(folders: Iterable[Path]) -> set[str]:
    """The classes that files of `loss` in these folders name."""
    files = [file for folder in folders for file in (folder / "loss").rglob("*.yaml")]
    contents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    return {str(content["_target_"]) for content in contents if isinstance(content, dict) and "_target_" in content}


def texts(value: Any) -> Iterator[str]:
    """All texts in nested dicts and lists, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
