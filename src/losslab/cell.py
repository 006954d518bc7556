"""One cell from its configuration to its scores, straight down."""

import hashlib
import json
import signal
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

from losslab import tracking
from losslab.compose import BASE, content, identity
from losslab.data import prepare
from losslab.evaluation.run import evaluate
from losslab.launch import REQUEUE, Interrupted, launch, main_first, main_process
from losslab.loop import train
from losslab.policy import load_tokenizer
from losslab.records import Cell, lock, write
from losslab.schema import EMBEDDED, Config, DatasetConfig, ModelConfig, Names, SchedulerConfig


def run(config: Config) -> None:
    """Train and score one cell, or what is missing of it. A failure is recorded and does not stop a sweep."""
    cell = Cell.of(config)
    if not main_process():
        train_missing(config, cell)
        return
    with lock(cell.folder):
        if config.force:
            cell.clear()
        cell.declare(config)
        if cell.done(config):
            print(f"{cell.folder.name}: already done, skipped (force=true runs it again)", flush=True)
            return
        cell.begin(config)
        try:
            with tracking.follow(config, cell):
                began = time.monotonic()
                model = train_missing(config, cell)
                cell.update(training_seconds=round(time.monotonic() - began, 1))
                signal.signal(signal.SIGTERM, _leave)  # samples are on disk as they finish
                cell.update(state="scoring")
                began = time.monotonic()
                evaluate(config, model, cell.scores(config))
            cell.update(state="done", scoring_seconds=round(time.monotonic() - began, 1))
        except (KeyboardInterrupt, Interrupted):
            cell.update(state="interrupted")
            print(f"{cell.folder.name}: interrupted; the same command goes on from here", file=sys.stderr, flush=True)
            sys.exit(REQUEUE)
        except Exception as error:
            write(cell.folder / "error.txt", getattr(error, "trace", "") or traceback.format_exc())
            cell.update(state="failed", error=f"{type(error).__name__}: {error}")
            print(f"{cell.folder.name}: failed: {error}", file=sys.stderr, flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def train_missing(config: Config, cell: Cell) -> str:
    """The path of the cell's model, trained now if it is not there."""
    base = base_model(config)
    if config.names.loss == BASE:
        return base.path
    if not cell.trained(config):
        cell.update(state="training")
        train_model(replace(config, model=base), cell.folder)
    return str(cell.model)


def base_model(config: Config) -> ModelConfig:
    """The model to start from. The embedded one is pre-trained on the spot, once, by the same loop."""
    model = config.model
    if model.path != EMBEDDED:
        return model
    recipe = replace(
        config,
        dataset=DatasetConfig(path=EMBEDDED, split="corpus", rows=model.pretrain_rows, seed=model.pretrain_seed),
        loss={"_target_": "losslab.objectives.sft.SFT"},
        optimizer=replace(config.optimizer, lr=model.pretrain_learning_rate),
        scheduler=SchedulerConfig(),
        train=replace(config.train, batch_size=model.pretrain_batch, epochs=1, max_steps=None),
        names=Names(model="embedded", dataset="corpus", loss="sft", eval=""),
        seed=model.pretrain_seed,
    )
    folder = Path(config.machine.results) / "cache" / "models" / identity(recipe)[:16]
    with lock(folder) if main_process() else nullcontext():
        with main_first(config.machine):
            missing = not (folder / "model").exists()
        if missing:
            train_model(recipe, folder)
    return replace(model, path=str(folder / "model"))


def train_model(config: Config, folder: Path) -> None:
    """Tokenise the data and train into `folder`, whose `model` appears when all is well."""
    cache = Path(config.machine.results) / "cache"
    with main_first(config.machine):
        data = prepare(config.dataset, config.train, load_tokenizer(config.model), config.model.train_prompt, cache)
    about = [content(config.model.path), config.model.revision, data.name, str(config.train.precision)]
    reference = cache / "reference" / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.npy"
    launch(train, config, str(data), str(folder), str(reference), machine=config.machine, logs=folder / "logs")
