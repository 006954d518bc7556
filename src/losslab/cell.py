"""One cell from its configuration to its scores, straight down."""

import hashlib
import json
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

from losslab import adapters, tracking
from losslab.batches import Schedule
from losslab.data import Examples, prepare
from losslab.evaluation.run import check as check_scoring
from losslab.files import content, lock, write_json
from losslab.identity import identity
from losslab.launch import REQUEUE, Interrupted, agree, joined, launch, main_process
from losslab.loop import train
from losslab.pretrained import load_tokenizer
from losslab.records import Cell
from losslab.schema import (
    BASE,
    EMBEDDED,
    Config,
    DatasetConfig,
    ModelConfig,
    Names,
    OptimizerConfig,
    Precision,
    TrainConfig,
)
from losslab.scoring import score


def run(config: Config) -> None:
    """Train and score one cell, or what is missing of it. A failure is recorded and does not stop a sweep.

    Among processes that torchrun or srun started, rank 0 decides and keeps the records, the others train along, and
    a failure ends them all.
    """
    cell = Cell.of(config)
    with lock(cell.folder) if main_process() else nullcontext():
        if agree(config.machine, lambda: finished(config, cell)):
            return
        if not main_process():
            trained_model(config, cell)
            return
        try:
            check_scoring(config)  # a benchmark that cannot be read shows before the hours of training
            with tracking.follow(config, cell):
                model = trained_model(config, cell)
                signal.signal(signal.SIGTERM, _leave)  # samples are on disk as they finish
                cell.update(state="scoring")
                began = time.monotonic()
                score(config, cell, {None: model} | {step: str(path) for step, path in cell.steps().items()})
                cell.update(state="done", scoring_seconds=round(time.monotonic() - began, 1))
        except (KeyboardInterrupt, Interrupted):
            cell.update(state="interrupted")
            print(f"{cell.folder.name}: interrupted; the same command goes on from here", file=sys.stderr, flush=True)
            sys.exit(REQUEUE)
        except Exception as error:
            print(f"{cell.folder.name}: failed: {error}", file=sys.stderr, flush=True)
            try:
                cell.fail(error)
            except OSError as full:  # the next cell would fare no better
                print(f"{cell.folder}: {full.strerror}: make room there, and run the same again", file=sys.stderr)
                sys.exit(1)
            if joined():
                sys.exit(1)


def finished(config: Config, cell: Cell) -> bool:
    """Whether nothing is left to do; else the record of this attempt is begun.

    `force` starts afresh what has come to an end; what was interrupted or killed on its way goes on.
    """
    if config.force and cell.state().get("state") in ("done", "failed"):
        cell.clear()
    cell.declare(config)
    if cell.done(config):
        print(f"{cell.folder.name}: already done, skipped (force=true runs it again)", flush=True)
        return True
    cell.begin(config)
    return False


def _leave(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def trained_model(config: Config, cell: Cell) -> str:
    """The path of the cell's model, trained now if it is not there."""
    base = base_model(config)
    if config.names.loss == BASE:
        return base.path
    if agree(config.machine, lambda: not cell.model.exists()):
        if main_process():
            cell.update(state="training")
        began = time.monotonic()
        train_model(replace(config, model=base), cell.folder)
        if main_process():
            before = cell.state().get("training_seconds", 0.0)
            cell.update(training_seconds=round(before + time.monotonic() - began, 1))
    return str(cell.model)


def base_model(config: Config) -> ModelConfig:
    """The model to start from: an adapter merged, the embedded one pre-trained on the spot, once, by the same loop.

    Its recipe is its own: whatever a sweep varies, the cells start from the same base.
    """
    model = config.model
    if model.path != EMBEDDED:
        cache = Path(config.machine.results) / "cache"
        return replace(model, path=adapters.merged(model.path, cache, model.trust_remote_code))
    adam = {"betas": [0.9, 0.95], "eps": 1e-8, "fused": True}
    recipe = Config(
        model=model,
        dataset=DatasetConfig(path=EMBEDDED, split="corpus", rows=model.pretrain_rows, seed=model.pretrain_seed),
        loss={"_target_": "losslab.objectives.sft.SFT"},
        optimizer=OptimizerConfig("torch.optim.AdamW", model.pretrain_learning_rate, weight_decay=0.01, arguments=adam),
        train=TrainConfig(batch_size=model.pretrain_batch, precision=Precision.fp32),
        names=Names(model="embedded", dataset="corpus", loss="sft", eval=""),
        machine=replace(config.machine, export_steps=None, keep_every=None),
        seed=model.pretrain_seed,
    )
    folder = Path(config.machine.results) / "cache" / "models" / identity(recipe)[:16]
    with lock(folder) if main_process() else nullcontext():
        if agree(config.machine, lambda: not (folder / "model").exists()):
            train_model(recipe, folder)
    return replace(model, path=str(folder / "model"))


def train_model(config: Config, folder: Path) -> None:
    """Tokenise the data and train into `folder`, whose `model` appears when all is well."""
    cache = Path(config.machine.results) / "cache"

    def prepared() -> str:
        tokenizer = load_tokenizer(config.model)
        data = prepare(config.dataset, config.train, tokenizer, config.model.train_prompt, cache)
        examples = Examples.load(data)
        if Schedule.of(config.train, config.seed, examples).steps == 0:
            raise ValueError("train.drop_last leaves no batch: lower train.batch_size or take more rows")
        write_json(folder / "data.json", examples.report)
        print(f"{config.names.dataset}: " + ", ".join(f"{v:,} {k}" for k, v in examples.report.items()), flush=True)
        return str(data)

    data = agree(config.machine, prepared)
    about = [content(config.model.path), config.model.revision, Path(data).name, str(config.train.precision)]
    reference = cache / "reference" / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.npy"
    launch(train, config, data, str(folder), str(reference), machine=config.machine, logs=folder / "logs")
