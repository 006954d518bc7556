"""The names of a table's models: longer ones where two models have the same, as org1/x and org2/x are both called x.

A model is named after its file of conf/model, or after the last part of its path, while rows are grouped, ranked and
compared by that name; so two models must not share it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from losslab.config.schema import Config

if TYPE_CHECKING:
    from losslab.results.tables import Row

Checkpoint = tuple[str, str | None]  # path and revision
SHOWN = 12  # characters of a revision, which may be a commit


def of_config(config: Config) -> tuple[str, str, str | None]:
    """What tells the models of two configurations apart: name, path and revision."""
    return config.names.model, _path(config.model.path), config.model.revision


def distinct(rows: Sequence["Row"]) -> list["Row"]:
    """The rows, with longer names of models where one name has several paths or revisions.

    The model that the sweep's file declares keeps its name if it is the only declared one. A damaged record, whose
    model is not known, keeps its name too.
    """
    models: dict[str, dict[Checkpoint, bool]] = {}  # of each name, whether a row declares them
    for row in rows:
        if checkpoint := _checkpoint(row):
            of_name = models.setdefault(row.names["model"], {})
            of_name[checkpoint] = of_name.get(checkpoint, False) or row.declared
    longer: dict[tuple[str, Checkpoint], str] = {}
    for name, of_name in models.items():
        declared = [checkpoint for checkpoint, is_declared in of_name.items() if is_declared]
        for checkpoint, own in zip(of_name, _names(name, list(of_name)), strict=True):
            longer[name, checkpoint] = name if [checkpoint] == declared or len(of_name) == 1 else own
    return [_renamed(row, longer) for row in rows]


def _renamed(row: "Row", longer: dict[tuple[str, Checkpoint], str]) -> "Row":
    name, checkpoint = row.names["model"], _checkpoint(row)
    own = longer[name, checkpoint] if checkpoint else name
    return row if own == name else replace(row, names=row.names | {"model": own})


def _checkpoint(row: "Row") -> Checkpoint | None:
    path = row.config.get("model.path")
    return (_path(path), row.config.get("model.revision")) if isinstance(path, str) else None


def _path(path: str) -> str:
    """A hub id as it is; a folder that is here in one spelling."""
    return os.path.abspath(path) if Path(path).is_dir() else str(Path(path))


def _names(name: str, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """A name for each of several models of one name: as much of the path as tells them apart, and the revision."""
    paths = list(dict.fromkeys(path for path, _ in checkpoints))
    parts = {path: _parts(path, name) for path in paths}
    if len(set(parts.values())) < len(paths):  # a folder, and the folder `model` in it
        parts = {path: Path(path).parts for path in paths}
    longest = max(map(len, parts.values()))

    def tail(count: int) -> Callable[[str], str]:
        return lambda path: str(Path(*parts[path][-count:]))

    tails = (tail(count) for count in range(min(2, longest), longest + 1))
    apart = next(of for of in tails if len(set(map(of, paths))) == len(paths))
    named = {path: apart(path) if parts[path][-1] == name else f"{name} ({apart(path)})" for path in paths}
    if len(paths) == 1:
        named = {paths[0]: name}
    several = {path for path in paths if sum(path == other for other, _ in checkpoints) > 1}
    return [
        f"{named[path]}@{revision[:SHOWN]}" if path in several and revision else named[path]
        for path, revision in checkpoints
    ]


def _parts(path: str, name: str) -> tuple[str, ...]:
    """Those of a path up to the one that names the model; a cell's export lies in `model` of the cell's folder."""
    parts = Path(path).parts
    return parts[:-1] if parts[-1] == "model" and parts[-2:-1] == (name,) else parts
