"""Overrides and configurations of a sweep's cells; those that differ only in the seed are composed once if possible."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from losslab.composition.composing import composing
from losslab.composition.words import expanded
from losslab.config.schema import Config
from losslab.keys import LARGEST_SEED
from losslab.progress import bar

SLOW = 50  # compositions, of which one takes a tenth of a second


def overrides(config: DictConfig) -> list[list[str]]:
    """The overrides of each cell of a multirun: those that the sweeper will take, and the search path."""
    # Left unresolved: an interpolation may resolve differently in each cell.
    task: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    declared = sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in declared.items()), *task]
    parsed, folders = OverridesParser.create().parse_overrides(words), searchpath(config)
    return [[*folders, *cell] for cell in of_rows(sweeper.get("rows") or [[]], parsed)]


def of_rows(rows: Sequence[Sequence[str]], rest: Sequence[Override]) -> list[list[str]]:
    """The overrides of each cell: every row's own, with each combination of the values of the keys that no row sets."""
    set_by_rows = {word.partition("=")[0] for row in rows for word in row}
    free = [override for override in rest if override.get_key_element() not in set_by_rows]
    (cells,) = BasicSweeper.split_arguments(free, None)
    return [[*cell, *row] for row in rows for cell in cells]


def searchpath(config: DictConfig) -> list[str]:
    """The override that adds folders with YAML files, without which a cell by itself may not compose."""
    return [override for override in config.hydra.overrides.hydra if override.startswith("hydra.searchpath=")]


def by_seed(config: DictConfig) -> dict[tuple[str, ...], list[str]]:
    """The overrides of a multirun's cells without the seed, each with those of its seeds; "" is the default seed."""
    cells: dict[tuple[str, ...], dict[str, None]] = {}  # ordered sets of seeds
    for words in overrides(config):
        of_seed = [word for word in words if word.lstrip("+~").partition("=")[0] == "seed"]
        seed = _seed(of_seed[-1]) if of_seed else ""  # the last one counts, as in the cell itself
        rest = tuple(word for word in words if not (seed and word in of_seed))
        cells.setdefault(rest, {})[seed] = None
    return {rest: list(seeds) for rest, seeds in cells.items()}


@contextmanager
def multirun(arguments: Sequence[str]) -> Iterator[DictConfig]:
    """The composed command line of a multirun; the other functions compose its cells while this is open.

    Raises ValueError if it does not compose.
    """
    words = expanded(arguments)
    with composing():
        shared = [word for word in words if word.startswith(("experiment=", "hydra"))]
        config = compose("config", shared, return_hydra_config=True)
        OmegaConf.set_readonly(config, False)
        config.hydra.overrides.task = [word for word in words if not word.startswith("hydra")]
        yield config


def configurations(config: DictConfig, make: Callable[[DictConfig, Any], Config]) -> list[Config]:
    """The configurations of a multirun's cells, each once; `make` is `read_cell` or `typed` of the composition.

    Cells that differ only in the seed come one after another and share their parts. Raises HydraException for a
    cell that does not compose, else ValueError with all that `make` refuses.
    """
    cells = by_seed(config)
    made: list[Config] = []
    mistakes: dict[str, None] = {}
    with bar("composing", len(cells), "cell", disable=len(cells) < SLOW) as progress:
        for rest, seeds in cells.items():
            try:
                made += _of_seeds(config.hydra.job.config_name or "config", list(rest), list(seeds), make)
            except ValueError as error:
                mistakes[str(error)] = None
            progress.update()
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return made


def _seed(override: str) -> str:
    """The override of a seed without its prefix; "" for one that Hydra or the schema must refuse or resolve."""
    match = re.fullmatch(r"(?:\+\+)?(seed=(\d+))", override)
    return match[1] if match and int(match[2]) <= LARGEST_SEED else ""


def _of_seeds(name: str, rest: list[str], seeds: list[str], make: Callable[[DictConfig, Any], Config]) -> list[Config]:
    """The configurations of cells whose overrides differ only in the seed, if there is one."""
    first = compose(name, [*rest, *filter(None, seeds[:1])], return_hydra_config=True)
    config = make(first, first.hydra.runtime.choices)
    if len(seeds) > 1 and "${seed}" in OmegaConf.to_yaml(first):  # something else follows the seed: each is composed
        others = [compose(name, [*rest, seed], return_hydra_config=True) for seed in seeds[1:]]
        return [config, *(make(other, other.hydra.runtime.choices) for other in others)]
    return [config, *(_with_seed(config, int(seed.removeprefix("seed="))) for seed in seeds[1:])]


def _with_seed(config: Config, seed: int) -> Config:
    """A copy with the same parts; `replace` would take ten times as long, and there may be many seeds."""
    other = copy(config)
    other.seed = seed
    return other
