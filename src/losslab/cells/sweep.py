"""Runs a sweep: checks every cell before the first one runs, and prints the table after the last.

`Sweep` is a Hydra callback (named in conf/config.yaml), so that it works for a single run, a multirun on this machine,
and a multirun whose cells run elsewhere.
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from losslab.composition.check_unread import check_unread
from losslab.composition.checks import check_device
from losslab.composition.compose import read, read_cell
from losslab.composition.grid import configurations, searchpath
from losslab.composition.words import last_of_each
from losslab.config.errors import exit_on_error, tell
from losslab.config.log import log
from losslab.config.machine import MachineConfig
from losslab.config.messages import first_line
from losslab.config.schema import Config
from losslab.distributed.environment import is_main_process, is_worker, node_count
from losslab.launchers.settings import check as check_launcher
from losslab.launchers.settings import check_stage
from losslab.planning import plan
from losslab.planning.sweep_cells import by_protocol
from losslab.records.lock import is_held
from losslab.records.record import Cell, protocol_name, start_again

ONE_BY_ONE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # runs cells in this process

T = TypeVar("T")  # a value that JSON can represent

# Cells, as folder and protocol of the scores, that this process has run or rejected.
_over: set[tuple[Path, str]] = set()


def run(config: Config) -> None:
    """Run a cell of a sweep, unless it was rejected or is a duplicate of one that has run.

    A cell that is scored under several protocols, such as prompts, is run once for each, and trained by the first.
    """
    asked = Cell.of(config).folder, protocol_name(config)
    if asked in _over:
        return
    _over.add(asked)
    from losslab.cells.run import run as run_cell

    run_cell(config)


def _plan(configs: list[Config], job: Any) -> int:
    """Print the plan of a sweep, and with `check=true` check its models too; returns the exit status."""
    status = plan.show(configs, job)
    if configs[0].check:
        from losslab.cells import plan_check  # imports torch, which a plan without check does not need

        status |= plan_check.show(configs)
    return status


class Sweep(Callback):
    def __init__(self) -> None:
        self.cells: dict[Cell, list[Config]] = {}  # that passed all checks, with one configuration for each protocol
        self.rejected = 0

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with exit_on_error():
            self._start([read(config, config.hydra.runtime.choices)], config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with exit_on_error():
            configs = configurations(config, read_cell)
            check_unread(configs)
            check_stage(config.hydra.launcher, configs[0].stage)  # here, since the jobs of both have a stage
            self._start(configs, config)
            if on_slurm(config):
                _hide_launcher(config)

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        with exit_on_error():
            self._end(told=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if on_slurm(config):
            return  # it has only been submitted; each cell writes the table at its end
        with exit_on_error():
            self._end()

    def _start(self, configs: list[Config], sweep: DictConfig) -> None:
        """Check all cells and log what will run; with `plan=true`, print the plan and exit.

        A cell that cannot be planned because its model or data cannot be read is rejected with a message; the others
        run. Raises ValueError if all are rejected.
        """
        check_launcher(sweep.hydra.launcher)
        job = sweep.hydra.launcher if on_slurm(sweep) else None
        if job is None:
            check_device(configs[0].machine)
        if configs[0].plan:
            sys.exit(_plan(configs, job) if is_main_process() else 0)
        over = _of_main(configs[0].machine, lambda: self._begin(configs, sweep, job))
        _over.update((Path(folder), protocol) for folder, protocol in over)

    def _begin(self, configs: list[Config], sweep: DictConfig, job: Any) -> list[tuple[str, str]]:
        """Check and declare the cells; returns folder and protocol of those that are rejected."""
        cells = by_protocol(configs)
        if sweep.hydra.launcher._target_ != ONE_BY_ONE and (several := _several(cells)):
            raise ValueError(
                f"{several.folder.name} is to be scored in {len(cells[several])} ways, but a launcher runs each cell "
                "in one job: leave hydra/launcher out, or use a separate command for each prompt and eval"
            )
        missing = {cell: scorings for cell, scorings in cells.items() if not _done(cell, scorings)}
        _, rejected = plan.make_all({cell: scorings[0] for cell, scorings in missing.items()}, job)
        self._reject(rejected, cells)
        for cell, scorings in self.cells.items():  # now, so that a table shows the missing cells
            cell.declare(scorings[0])
        if configs[0].force:
            start_again(list(self.cells))
        done = sum(_done(cell, scorings) for cell, scorings in self.cells.items())
        log.info(f"{configs[0].sweep.name}: {len(self.cells)} cells, {done} of them done")
        if job is None and (warning := plan.warn([scorings[0] for scorings in self.cells.values()])):
            log.info(warning)
        out = {cell for group in rejected.values() for cell in group}
        return [(str(cell.folder), protocol_name(config)) for cell in out for config in cells[cell]]

    def _reject(self, rejected: Mapping[str, Collection[Cell]], cells: Mapping[Cell, list[Config]]) -> None:
        """Log the rejected cells, each reason once, and keep the others."""
        out = {cell for group in rejected.values() for cell in group}
        self.cells = {cell: scorings for cell, scorings in cells.items() if cell not in out}
        self.rejected = len(out)
        if not self.cells:
            raise ValueError("; ".join(rejected))
        for line in plan.rejections(rejected):
            log.warning(line)

    def _end(self, told: bool = False) -> None:
        """Write the table and, unless `told` already, the report and the failures. Exit with 1 if a cell failed, was
        rejected, or came to no end.
        """
        if not is_main_process() or not self.cells:
            return
        from losslab.results.write_tables import renew_table
        from losslab.tracking import follow

        config = next(iter(self.cells.values()))[0]
        try:
            renew_table(config.sweep, config.machine.results)
            if line := follow.hint(config):
                log.info(line)
        except Exception as error:  # of any kind: it must not hide which cells failed
            log.warning(f"the table was not written: {first_line(error)}; `losslab table` tries again")
        if not told:
            _report(config)
        failures = {
            cell.folder: next(filter(None, map(cell.failure, scorings)), None) for cell, scorings in self.cells.items()
        }
        failed = {folder: failure for folder, failure in failures.items() if failure}
        for folder, failure in [] if told else failed.items():
            tell(f"failed: {folder.name}: {failure}\n        see {folder / 'error.txt'}")
        if failed:
            log.warning(f"{len(failed)} of {len(failures)} cells failed; the same command retries them")
        left = [] if told else self._left(failed)
        if left:
            log.warning(
                f"{len(left)} of {len(failures)} cells came to no end: see {_output(left[0])}; the same command "
                "continues them"
            )
        if self.rejected:
            total = len(failures) + self.rejected
            log.warning(f"{self.rejected} of {total} cells were rejected: see the first lines of the output")
        if failed or left or self.rejected:
            sys.exit(1)

    def _left(self, failed: Collection[Path]) -> list[Path]:
        """The cells that are neither done nor failed, as of a process that was killed, and that no other job runs."""
        cells = {cell.folder: scorings for cell, scorings in self.cells.items() if not _done(cell, scorings)}
        return [folder for folder in cells if folder not in failed and not is_held(folder)]


def _of_main(machine: MachineConfig, decide: Callable[[], T]) -> T:
    """What the first process decides, on every process of torchrun or srun; they skip the same cells by it."""
    if not is_worker() and node_count() == 1:
        return decide()  # without torch, which a launcher does not need
    from losslab.distributed.process_group import WorkerError, decide_on_main

    try:
        return decide_on_main(machine, decide)
    except WorkerError:  # the first process tells it
        sys.exit(1)


def _report(config: Config) -> None:
    """Write the report of a finished sweep. An error in it must not hide which cells failed."""
    from losslab.report import page

    try:
        log.info(f"report:  {page.write_report(config.sweep, config.machine.results)}")
    except Exception as error:
        log.warning(f"the report was not written: {first_line(error)}; `losslab report` tries again")


def _output(folder: Path) -> Path:
    """Where to read what became of a cell: the output of its process, if it had one of its own."""
    return file if (file := folder / "logs" / "main.txt").exists() else folder


def _done(cell: Cell, configs: Sequence[Config]) -> bool:
    return all(cell.done(config) for config in configs)


def _several(cells: Mapping[Cell, list[Config]]) -> Cell | None:
    """A cell that is scored under several protocols."""
    return next((cell for cell, scorings in cells.items() if len(scorings) > 1), None)


def on_slurm(config: DictConfig) -> bool:
    """Whether the cells of a multirun become jobs."""
    return config.hydra.launcher._target_.endswith(".SlurmLauncher")


def _hide_launcher(config: DictConfig) -> None:
    """Let the owner alone read the file to which Hydra will write the launcher's settings, which may hold secrets."""
    file = Path(config.hydra.sweep.dir) / "multirun.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(0o600)


def unfinished(config: DictConfig, overrides: Sequence[Sequence[str]]) -> dict[Path, tuple[Config, list[str]]]:
    """The cells of a multirun that are neither done nor rejected, by folder, each with its overrides.

    `force=` is removed from the overrides: the cells were reset when the sweep started.
    """
    cells = {}
    for words in overrides:
        words = last_of_each([*searchpath(config), *words])  # an experiment's file and a command may set one key
        composed = compose(config.hydra.job.config_name, words, True)
        cell_config = read_cell(composed, composed.hydra.runtime.choices)
        cell = Cell.of(cell_config)
        if not cell.done(cell_config) and (cell.folder, protocol_name(cell_config)) not in _over:
            cells[cell.folder] = cell_config, [word for word in words if not word.startswith("force=")]
    return cells
