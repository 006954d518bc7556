"""A sweep as a whole: every cell is checked before the first one runs, and the table is printed after the last.

`Sweep` is a Hydra callback (conf/config.yaml names it), so that it works alike for one run, a multirun on this
machine, and a multirun whose cells run elsewhere.
"""

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from losslab.compose import grid, read
from losslab.crew import main_process
from losslab.messages import sentence
from losslab.plan import show
from losslab.publish import publish
from losslab.records import Cell
from losslab.report import page as report
from losslab.schema import Config


class Sweep(Callback):
    def __init__(self) -> None:
        self.configs: list[Config] = []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with refusing():
            self._start([config])

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with refusing():
            self._start([compose(config.hydra.job.config_name, cell, True) for cell in grid(config)])

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        with refusing():
            self._end(told=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.launcher._target_.endswith(".SlurmLauncher"):
            return  # it has only begun; each cell publishes the table when it ends
        with refusing():
            self._end()

    def _start(self, composed: list[DictConfig]) -> None:
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
            if main_process():
                show(self.configs)
            sys.exit(0)
        if not main_process():
            return
        for config in self.configs:  # now, so that a table shows what is still missing
            Cell.of(config).declare(config)
        done = sum(Cell.of(config).done(config) for config in self.configs)
        print(f"{self.configs[0].sweep.name}: {len(self.configs)} cells, {done} of them done", flush=True)

    def _end(self, told: bool = False) -> None:
        """Print the table and the failures, unless `told` already. A failed cell makes the exit status 1."""
        if not main_process() or not self.configs:
            return
        config = self.configs[0]
        try:
            publish(config.sweep, config.machine.results)
        except OSError as error:  # a full disk must not hide what failed before
            print(f"the table is not written: {error}; python table.py does it again", file=sys.stderr)
        if not told:
            _report(config)
        cells = {Cell.of(one).folder: Cell.of(one).state() for one in self.configs}
        failed = {folder: state for folder, state in cells.items() if state.get("state") == "failed"}
        for folder, state in [] if told else failed.items():
            print(f"failed: {folder.name}: {state['error']}\n        see {folder / 'error.txt'}", file=sys.stderr)
        if failed:
            print(f"{len(failed)} of {len(cells)} cells failed; the same command tries them again", file=sys.stderr)
            sys.exit(1)


def _report(config: Config) -> None:
    """Write the page of a sweep that is over. What is wrong with it must not hide which cells failed."""
    try:
        for path in report.publish([config.sweep.name], config.machine.results):
            print(f"report:  {path}", flush=True)
    except (OSError, ValueError) as error:
        print(f"the report is not written: {error}; python report.py does it again", file=sys.stderr)


def unfinished(config: DictConfig, overrides: Sequence[Sequence[str]]) -> dict[Path, list[str]]:
    """The folders and overrides of the cells of a multirun that are not done."""
    found = {}
    for own in overrides:
        composed = compose(config.hydra.job.config_name, list(own), True)
        one = read(composed, composed.hydra.runtime.choices)
        cell = Cell.of(one)
        if one.force or not cell.done(one):
            found[cell.folder] = list(own)
    return found


@contextmanager
def refusing() -> Iterator[None]:
    """End the program on an error: Hydra would turn what a callback raises into a warning and go on."""
    try:
        yield
    except (HydraException, ValueError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        place = error.filename or "results"
        print(f"error: {place}: {error.strerror}: make room there, or set machine.results", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
