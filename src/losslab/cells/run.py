"""Runs one cell from start to end, skipping what is finished: data → training → scores → record."""

import os
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace

from losslab.cells import beforehand
from losslab.cells.measurements import measure_kl_to_base, measure_probabilities
from losslab.cells.scoring import changed_benchmarks, score
from losslab.cells.training import base_model, merged_reference, train_model
from losslab.composition.record_file import read_record
from losslab.config.errors import tell
from losslab.config.log import log
from losslab.config.messages import of_the_disk
from losslab.config.schema import Config, Stage
from losslab.distributed.environment import is_main_process, is_worker, node_count
from losslab.distributed.launch import PRELOAD
from losslab.distributed.process_group import WorkerError, all_equal, decide_on_main
from losslab.distributed.signals import REQUEUE, Interrupted, came_of_stop, ignore_stop_signals, raise_on_stop
from losslab.distributed.worker_count import worker_count
from losslab.evaluation.evaluate import warm_up
from losslab.models.loading import check_checkpoint
from losslab.records.lock import Busy, cell_lock, slurm_job, slurm_restarts
from losslab.records.record import Cell
from losslab.tracking import follow
from losslab.training.checkpoints import clear


def run(config: Config) -> None:
    """Train and score one cell, or what is missing of it. A failure is recorded and does not stop a sweep.

    Among processes that torchrun or srun started, the first one decides and keeps the records, the others only take
    part in training and measurements, and a failure ends them all. Raises ValueError if they were started with
    different cells.
    """
    cell = Cell.of(config)
    with ExitStack() as held, raise_on_stop():
        if not all_equal(config.machine, cell.folder.name):
            raise ValueError("srun or torchrun started different cells together: give each cell an srun of its own")
        if decide_on_main(config.machine, lambda: busy(cell, held)):
            return
        try:
            if decide_on_main(config.machine, lambda: finished(config, cell)):
                return
            if not is_main_process():
                model = trained_model(config, cell)
                if config.stage != Stage.train:
                    score_model(config, cell, model)
                return
            with follow.follow(config, cell):
                model = trained_model(config, cell)
                if config.stage == Stage.train:
                    cell.end(config)
                    return
                cell.update(state="scoring")
                with cell.timed(scoring_seconds=1):
                    score_model(config, cell, model)
                cell.end(config)
        except (Exception, KeyboardInterrupt, Interrupted) as error:
            if isinstance(error, KeyboardInterrupt) or came_of_stop(error):
                ignore_stop_signals()
                if is_main_process() and not cell.done(config):  # it may only have waited for its tracker
                    cell.update(state="interrupted")
                    log.warning(f"{cell.folder.name}: interrupted; the same command continues from here")
                sys.exit(REQUEUE)
            if not is_main_process():
                if node_count() > 1 and isinstance(error, WorkerError):
                    return  # the first process tells it
                raise
            message = f"{cell.folder.name}: failed: {error}\n        see {cell.folder / 'error.txt'}"
            tell(message)
            try:
                cell.fail(config, error)
            except OSError as full:  # the next cell would fail too
                tell(f"error: {of_the_disk(full)}; then run the same again")
                sys.exit(1)
            if is_worker():
                sys.exit(1)


def busy(cell: Cell, held: ExitStack) -> bool:
    """Whether another job runs the cell; else this process holds it until `held` is closed."""
    try:
        held.enter_context(cell_lock(cell.folder))
    except Busy as reason:
        log.info(f"{cell.folder.name}: {reason}; nothing to do here")
        return True
    return False


def finished(config: Config, cell: Cell) -> bool:
    """Whether nothing is left to do; else the record of this attempt is begun."""
    if cell.asked_again:
        cell.clear()
    cell.declare(config)
    tidy(cell)
    if cell.done(config):
        ended = "trained" if config.stage == Stage.train else "done"
        if cell.state().get("state") not in ("done", ended) or cell.failure(config):  # stale after a kill
            cell.end(config)
        log.info(f"{cell.folder.name}: already done, skipped (force=true runs it again)")
        if config.stage != Stage.train and (names := changed_benchmarks(config, cell)):
            log.warning(
                f"{cell.folder.name}: the questions, golds or prompt of {', '.join(names)} have changed since the cell "
                "was scored: give the new version another name to score the cell on it"
            )
        if config.trains and config.dataset.validation is not None and not cell.validation.exists():
            log.info(f"{cell.folder.name}: trained without held-out rows; to measure them, train again with force=true")
        return True
    tries = int(os.environ.get("LOSSLAB_TRIES", "0"))
    if tries and slurm_restarts() >= tries:
        error = f"gave up after {tries} tries: raise hydra.launcher.tries"
        cell.give_up(config, error)
        log.warning(f"{cell.folder.name}: failed: {error}")
        return True
    cell.begin(config, job=slurm_job(), attempt=slurm_restarts() + 1, tries=tries or None)
    beforehand.check(config, cell)
    if config.stage != Stage.train and not is_worker():
        warm_up(config, *PRELOAD)  # one server for workers and engines
    return False


def tidy(cell: Cell) -> None:
    """Remove the checkpoints of a finished model whose run was killed before it removed them."""
    folder = cell.folder / "checkpoints"
    if cell.model.exists() and folder.exists():
        keep_every = read_record(cell.folder / "config.yaml").machine.keep_every  # of the training
        clear(folder, keep_every if isinstance(keep_every, int) and keep_every > 0 else None)


def trained_model(config: Config, cell: Cell) -> str:
    """The path of the cell's model, trained now if it is missing, and measured if that is requested."""
    if config.served:
        return config.model.path
    config = config.seeded
    base = base_model(config)
    if not config.trains:
        if is_main_process():
            check_checkpoint(base)
        return base.path
    if decide_on_main(config.machine, lambda: not cell.model.exists()):
        with cell.training(worker_count(config.machine)) if is_main_process() else nullcontext():
            train_model(replace(config, model=base, reference=merged_reference(config)), cell.folder)
    measure_probabilities(config, cell, base)  # its time is no part of the training's
    return str(cell.model)


def score_model(config: Config, cell: Cell, model: str) -> None:
    """Score a cell's models and, if requested, measure the KL of the finished one to its base.

    Called by every process; all but the first take part in the KL only.
    """

    def scores() -> None:
        score(config, cell, {None: model} | {step: str(path) for step, path in cell.steps().items()})

    if config.machine.kl_to_base is None or not config.trains:  # the others need not wait
        if is_main_process():
            scores()
        return
    decide_on_main(config.machine, scores)
    measure_kl_to_base(config, cell, base_model(config.seeded))
