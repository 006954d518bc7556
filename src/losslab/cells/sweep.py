"""A sweep as a whole: every cell is checked before the first one runs, and the table is printed after the last.

`Sweep` is a Hydra callback (conf/config.yaml names it), so that it works alike for one run, a multirun on this
machine, and a multirun whose cells run elsewhere.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from losslab.cells.plan import show, warn
from losslab.composition.compose import grid, read, searchpath
from losslab.config.errors import exit_on_error, tell
from losslab.config.messages import first_line
from losslab.config.schema import Config
from losslab.distributed.environment import is_main_process
from losslab.records.record import Cell, start_again
from losslab.report import page as report
from losslab.results.write_tables import write_table
from losslab.tracking import follow


class Sweep(Callback):
    def __init__(self) -> None:
        self.configs: list[Config] = []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with exit_on_error():
            self._start([config], config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with exit_on_error():
            cells = grid(config)
            self._start([compose(config.hydra.job.config_name, cell, True) for cell in cells], config)

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        with exit_on_error():
            self._end(told=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if on_slurm(config):
            return  # it has only begun; each cell publishes the table when it ends
        with exit_on_error():
            self._end()

    def _start(self, composed: list[DictConfig], sweep: DictConfig) -> None:
        """Check all cells, then say what is going to happen; with `plan=true` nothing more does."""
        mistakes = []
        for one in composed:
            try:
                self.configs.append(read(one, one.hydra.runtime.choices))
            except ValueError as error:
                mistakes.append(str(error))
        if mistakes:
            raise ValueError("; ".join(dict.fromkeys(mistakes)))
        if self.configs[0].plan:
            if is_main_process():
                show(self.configs, sweep.hydra.launcher if on_slurm(sweep) else None)
            sys.exit(0)
        if not is_main_process():
            return
        for config in self.configs:  # now, so that a table shows what is still missing
            Cell.of(config).declare(config)
        if self.configs[0].force:
            start_again([Cell.of(config) for config in self.configs])
        done = sum(Cell.of(config).done(config) for config in self.configs)
        print(f"{self.configs[0].sweep.name}: {len(self.configs)} cells, {done} of them done", flush=True)
        if not on_slurm(sweep) and (warning := warn(self.configs)):
            print(warning, flush=True)

    def _end(self, told: bool = False) -> None:
        """Print the table and the failures, unless `told` already. A failed cell makes the exit status 1."""
        if not is_main_process() or not self.configs:
            return
        config = self.configs[0]
        try:
            write_table(config.sweep, config.machine.results)
            if line := follow.hint(config):
                print(line, flush=True)
        except Exception as error:  # whatever it is, it must not hide what failed before
            print(f"the table is not written: {first_line(error)}; losslab table does it again", file=sys.stderr)
        if not told:
            _report(config)
        failures = {Cell.of(config).folder: Cell.of(config).failure(config) for config in self.configs}
        failed = {folder: failure for folder, failure in failures.items() if failure}
        for folder, failure in [] if told else failed.items():
            tell(f"failed: {folder.name}: {failure}\n        see {folder / 'error.txt'}")
        if failed:
            print(f"{len(failed)} of {len(failures)} cells failed; the same command tries them again", file=sys.stderr)
            sys.exit(1)


def _report(config: Config) -> None:
    """Write the page of a sweep that is over. What is wrong with it must not hide which cells failed."""
    try:
        print(f"report:  {report.write_report(config.sweep, config.machine.results)}", flush=True)
    except Exception as error:
        print(f"the report is not written: {first_line(error)}; losslab report does it again", file=sys.stderr)


def on_slurm(config: DictConfig) -> bool:
    """Whether the cells of a multirun become jobs."""
    return config.hydra.launcher._target_.endswith(".SlurmLauncher")


def unfinished(config: DictConfig, overrides: Sequence[Sequence[str]]) -> dict[Path, tuple[Config, list[str]]]:
    """The cells of a multirun that are not done, by folder, with their overrides; `force` has asked them already."""
    found = {}
    for cell_overrides in overrides:
        own = [*searchpath(config), *cell_overrides]
        composed = compose(config.hydra.job.config_name, own, True)
        one = read(composed, composed.hydra.runtime.choices)
        cell = Cell.of(one)
        if not cell.done(one):
            found[cell.folder] = one, [override for override in own if not override.startswith("force=")]
    return found
