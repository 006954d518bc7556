"""A race of objectives and rates: all start on an eighth of the rows, and objectives that are worse are not trained on
more.

A rung is an ordinary sweep, `<name>/eighth` and so on, whose cells have a complete schedule over their share of the
rows, and whose records are read for the next one. So a race resumes where it was interrupted, runs under every
launcher, and shares its last rung with a sweep of the same cells. The base, scored once, stands beside the rows of
every rung. `losslab.statistics.racing` decides which rows are worse; an objective is dropped when all of its rows are.
Its rates stay together until the last rung, since the best rate depends on the number of steps: on little data it is
often one that is too high for all of it (Bjorck et al., *Scaling Optimal LR Across Token Horizons*, ICLR 2025, arXiv
2409.19913; results/benchmarks/racing.md).
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from losslab.composition import grid
from losslab.composition.check_unread import CHECKED, check_unread
from losslab.composition.compose import read_cell
from losslab.composition.words import last_of_each
from losslab.config.log import log
from losslab.config.schema import BASE, Config
from losslab.data.table import held_out_count
from losslab.planning.plan import rows_drawn
from losslab.records.reading import read_scores
from losslab.records.record import Cell, protocol_name
from losslab.results.load_records import problem_hashes
from losslab.results.model_names import of_config
from losslab.results.right_shares import Shares, originals_of, right_shares
from losslab.results.threats import engines
from losslab.statistics.racing import FEWEST_SEEDS, Standing, level, look

ALL_GIVEN = "hydra.sweeper.params=null"  # the rows have the values that an experiment's file sweeps over
LAST = "all"
RUNGS = {"eighth": 8, "quarter": 4, "half": 2, LAST: 1}  # what the rows are divided by


@dataclass(frozen=True)
class Entrant:
    """A row of a race, or its base: the overrides of its cells, except the seed."""

    label: str  # the overrides that differ between rows
    objective: str  # its name, with the constants by which it differs from others of the name
    overrides: tuple[str, ...]
    configs: list[Config]  # one for each seed, on all rows


@dataclass(frozen=True)
class Race:
    entrants: list[Entrant]
    base: Entrant  # the model before training, with the settings that all rows share
    seeds: list[str]  # overrides
    launcher: list[str]  # overrides of Hydra itself
    rows: int  # that are drawn from the data set, of which dataset.validation may hold out a share

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "Race":
        """From a sweep's command line. Raises ValueError, before anything is loaded, if it does not define a race."""
        with grid.multirun(arguments) as multirun:
            cells = grid.by_seed(multirun)
        if min(map(len, cells.values())) < FEWEST_SEEDS:  # checked before rows are composed, which takes a second each
            raise ValueError(f"a race needs {FEWEST_SEEDS} seeds or more, since fewer show nothing: add seed=0,1,2")
        configs = {rest: configurations(*rest, _seeds(seeds)) for rest, seeds in cells.items()}
        trained = {rest: of for rest, of in configs.items() if of[0].trains}
        objectives = _objectives({rest: of[0] for rest, of in trained.items()})
        if len(set(objectives.values())) < 2:
            raise ValueError(
                "a race is between two objectives or more, as in loss=sft,dft: compare rows of one objective, such as "
                "its learning rates, in a sweep on all of the data, as with sweep.tune=optimizer.lr"
            )
        shared = set.intersection(*map(set, trained))
        labels = {rest: " ".join(w.removeprefix("loss=") for w in rest if w not in shared) for rest in trained}
        entrants = [Entrant(labels[rest], objectives[rest], rest, of) for rest, of in trained.items()]
        seeds = next(seeds for rest, seeds in cells.items() if rest in trained)
        untrained = (*(word for word in entrants[0].overrides if word in shared and not _of_loss(word)), f"loss={BASE}")
        base = Entrant(BASE, BASE, untrained, configurations(*untrained, _seeds(seeds)))
        launcher = [argument for argument in arguments if argument.startswith("hydra")]
        return cls(entrants, base, seeds, launcher, _checked(entrants, base))

    @property
    def name(self) -> str:
        return self.entrants[0].configs[0].sweep.name

    @property
    def results(self) -> Path:
        return Path(self.entrants[0].configs[0].machine.results)

    @cached_property
    def problems(self) -> dict[str, str]:
        """The hash of each benchmark's problems in the cells that were read so far."""
        return {}

    @cached_property
    def level(self) -> float:
        return level(len(self.entrants) + 1, len(RUNGS))

    def drawn(self, rung: str) -> int:
        return self.rows // RUNGS[rung]

    def training_rows(self, rung: str) -> int:
        """Those that are drawn for a rung, without the share that is held out of them."""
        drawn = self.drawn(rung)
        return drawn - held_out_count(self.entrants[0].configs[0].dataset, drawn)

    def words(self, rung: str) -> list[str]:
        """The overrides that make a sweep the rung of this race; the last one is the sweep of all rows."""
        of_rows = [] if RUNGS[rung] == 1 else [f"dataset.rows={self.drawn(rung)}"]
        return [*of_rows, f"sweep.name={self.name}/{rung}"]

    def command(self, rung: str, entrants: Sequence[Entrant]) -> list[str]:
        """The arguments of `losslab train` that run the base and these rows on a rung, as one sweep."""
        rows = [self.base.overrides, *(entrant.overrides for entrant in entrants)]
        shared = [word for word in rows[0] if all(word in row for row in rows)]
        not_shared = [[word for word in row if word not in shared] for row in rows]
        listed = ",".join(f"[{','.join(map(_quoted, row))}]" for row in not_shared)
        sweeper = ["hydra/sweeper=rows", f"hydra.sweeper.rows=[{listed}]"]
        given = [*self.launcher, *sweeper, ALL_GIVEN, *shared, _seeds(self.seeds), *self.words(rung)]
        return ["-m", *last_of_each(given)]  # a rung has its own name and rows

    def cells(self, rung: str, entrant: Entrant) -> list[tuple[Cell, Config]]:
        """The cells of a row, or of the base, on a rung, one for each seed."""
        return [(Cell.of(c), c) for c in configurations(*entrant.overrides, _seeds(self.seeds), *self.words(rung))]

    def ran(self, rung: str, entrant: Entrant) -> bool:
        """Whether the cells of a row have all their scores, and are in the table of the rung."""
        name = f"{self.name}/{rung}"
        return all(cell.done(c) and name in cell.state().get("sweeps", []) for cell, c in self.cells(rung, entrant))

    def shares(self, rung: str, entrant: Entrant) -> Shares | None:
        """(seeds, problems) shares of right samples on each benchmark; None where a cell has no scores yet."""
        parts: list[Shares] = []
        cells = self.cells(rung, entrant)
        for cell, config in cells:
            if not cell.done(config):
                return None
            folder = cell.scores(config)
            hashes = problem_hashes(folder)
            self._check_problems(cell, {name: hashes[name] for name in config.benchmark if name in hashes})
            parts.append(right_shares(folder, read_scores(folder / "scores.json"), str(config.eval.verdict)))
        return {name: np.stack([part[name] for part in parts]) for name in cells[0][1].benchmark}

    def _check_problems(self, cell: Cell, problems: dict[str, str]) -> None:
        """Raise ValueError for a cell that was scored on other problems than those before it."""
        for name, sha256 in problems.items():
            if self.problems.setdefault(name, sha256) != sha256:
                raise ValueError(
                    f"the problems of {name} have changed between the cells of the race: score {cell.folder} and the "
                    "others on the same ones, or give the race another sweep.name"
                )


@dataclass(frozen=True)
class Rung:
    name: str
    rows: int
    standings: list[Standing]
    base: float  # the average of the base, in percent
    engines: dict[str, list[str]]  # rows by the engine of their scores
    objectives: dict[str, str]  # of the rows

    @property
    def left(self) -> list[str]:
        """The rows of objectives of which some row is not worse; on the last rung the rows that are not worse."""
        equal = [row.name for row in self.standings if not row.worse]
        kept = {self.objectives[name] for name in equal}
        return equal if self.name == LAST else [r.name for r in self.standings if self.objectives[r.name] in kept]


def run(race: Race, train: Any = None) -> list[Rung]:
    """Run the rungs one after another; those whose cells are done are read. `train` runs one command line.

    Ends with the rung that leaves one row, with the last one, or before a rung whose cells are not all scored.
    """
    rungs: list[Rung] = []
    entrants = race.entrants
    for name in RUNGS:
        log.info(f"{race.name}/{name}: {len(entrants)} rows on {race.training_rows(name):,} training rows")
        if not all(race.ran(name, entrant) for entrant in (race.base, *entrants)):
            (train or _train)(race.command(name, entrants))
        if (rung := _rung(race, name, entrants)) is None:
            break
        rungs.append(rung)
        entrants = [entrant for entrant in entrants if entrant.label in rung.left]
        if len(entrants) == 1:
            break
    return rungs


def _rung(race: Race, name: str, entrants: Sequence[Entrant]) -> Rung | None:
    """None where a cell has no scores."""
    base = race.shares(name, race.base)
    shares = {entrant.label: race.shares(name, entrant) for entrant in entrants}
    rows = {label: of for label, of in shares.items() if of is not None}
    if base is None or len(rows) < len(shares):
        return None
    scores = {
        entrant.label: [read_scores(cell.scores(config) / "scores.json") for cell, config in race.cells(name, entrant)]
        for entrant in (race.base, *entrants)
    }
    average = float(np.mean([100 * part.mean() for part in base.values()]))
    objectives = {entrant.label: entrant.objective for entrant in entrants}
    originals = {name: of for each in scores.values() for content in each for name, of in originals_of(content).items()}
    standings = look(rows, base, race.level, originals)
    return Rung(name, race.training_rows(name), standings, average, engines(scores), objectives)


def _train(words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "losslab", "train", *words]
    subprocess.run(command, env=os.environ | {CHECKED: "1"}, check=False)  # records show what is missing


@lru_cache(maxsize=4096)
def configurations(*words: str) -> list[Config]:
    """The cells of a rung, without what an experiment's file sweeps over; not to be modified.

    Composed once, since the same records are read before a rung and after it.
    """
    with grid.multirun([*words, ALL_GIVEN]) as multirun:
        return grid.configurations(multirun, read_cell)


def _checked(entrants: Sequence[Entrant], base: Entrant) -> int:
    """The number of rows that are drawn. Raises ValueError if the entrants do not make a race."""
    check_unread(config for entrant in entrants for config in entrant.configs)
    if len({of_config(entrant.configs[0]) for entrant in entrants}) > 1:
        raise ValueError("a race is between rows of one model: give each model a race of its own")
    first = [entrant.configs[0] for entrant in entrants]
    if len({_measure(entrant.configs[0]) for entrant in (base, *entrants)}) > 1:
        raise ValueError("the rows of a race are scored in one way: give all of them one prompt, eval and benchmark")
    if any(config.train.max_steps is not None for config in first):
        raise ValueError("a rung is a share of the rows, which train.max_steps would cut: leave it out")
    if any(config.dataset.keep for config in first):
        raise ValueError(
            "a rung is a share of the rows, and how many dataset.keep leaves is not known before: name a file with "
            "these rows alone, and leave it out"
        )
    drawn = {(rows_drawn(config.dataset), config.dataset.validation) for config in first}
    (count, _), *others = drawn
    if count is None or others:
        raise ValueError(
            "all rows of a race train on the same number of training rows, known before it starts: set dataset.rows, "
            "and one dataset.validation"
        )
    batch = max(config.train.batch_size for config in first)
    eighth = count // max(RUNGS.values())
    if eighth - held_out_count(first[0].dataset, eighth) < batch:
        raise ValueError(
            f"an eighth of the {count:,} rows does not fill one batch of {batch}: take more rows or a smaller batch"
        )
    return count


def _seeds(seeds: Sequence[str]) -> str:
    """The override that names all seeds of the race; an entrant without one (the default seed) is left out."""
    return "seed=" + ",".join(seed.removeprefix("seed=") for seed in seeds if seed)


def _measure(config: Config) -> tuple[str, str, int, tuple[str, ...]]:
    """What scores that compare have in common."""
    return protocol_name(config), str(config.eval.verdict), config.eval.samples, tuple(config.benchmark)


def _objectives(configs: Mapping[tuple[str, ...], Config]) -> dict[tuple[str, ...], str]:
    """The objective of each row: its name, and the constants that differ between the rows of this name."""
    names = {}
    for row, config in configs.items():
        alike = [other.loss for other in configs.values() if other.names.loss == config.names.loss]
        differing = [key for key in config.loss if any(loss.get(key) != config.loss[key] for loss in alike)]
        names[row] = " ".join([config.names.loss, *(f"{key}={config.loss[key]}" for key in differing)])
    return names


def _of_loss(word: str) -> bool:
    """Whether an override concerns the objective, which the base lacks."""
    return word.lstrip("+~").startswith(("loss=", "loss.", "method="))


def _quoted(word: str) -> str:
    """An override as an element of a list on the command line, where backslashes before a quote count double."""
    return "'" + re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + ("\\'" if end[2] else ""), word) + "'"
