"""Runs one cell from start to end, skipping what is finished: data → training → scores → record."""

import hashlib
import json
import os
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from losslab.cells.measurements import check_answers, measure_kl_to_base, measure_probabilities
from losslab.cells.scoring import score
from losslab.cells.sizing import settings, sized
from losslab.composition.record_file import read_record
from losslab.config.errors import tell
from losslab.config.log import log
from losslab.config.messages import of_the_disk, under_key
from losslab.config.schema import (
    EMBEDDED,
    EMBEDDED_MODELS,
    EMBEDDED_VISION,
    Config,
    DatasetConfig,
    ModelConfig,
    Names,
    OptimizerConfig,
    Precision,
    ReferenceConfig,
    Stage,
    TrainConfig,
)
from losslab.data import held_out_rows
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.examples import Examples, prepare
from losslab.data.mismatched import mismatched
from losslab.data.tokenise import Tokeniser
from losslab.distributed.environment import is_main_process, is_worker, node_count
from losslab.distributed.launch import launch
from losslab.distributed.process_group import WorkerError, all_equal, decide_on_main
from losslab.distributed.signals import REQUEUE, Interrupted, came_of_stop, ignore_stop_signals, raise_on_stop
from losslab.distributed.worker_count import worker_count
from losslab.evaluation.evaluate import check as check_scoring
from losslab.files import RECORD_VERSION, content, lock, write_json
from losslab.models import lora, merged_adapters
from losslab.models.loading import check_checkpoint, check_tokens, check_vocabulary, load_tokenizer, structure
from losslab.models.processors import image_inputs
from losslab.objectives import Objective
from losslab.objectives.online import OnPolicy
from losslab.online import questions
from losslab.online.worker import train as train_online
from losslab.records.identity import identity
from losslab.records.lock import Busy, cell_lock, slurm_job, slurm_restarts
from losslab.records.record import Cell
from losslab.tracking import follow
from losslab.training.checkpoints import clear
from losslab.training.loop import measure_reference, train
from losslab.training.reference_logps import files as reference_files


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
                    cell.update(state="trained")
                    return
                cell.update(state="scoring")
                with cell.timed("scoring_seconds"):
                    score_model(config, cell, model)
                cell.update(state="done")
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
        if cell.state().get("state") not in ("done", "failed", ended):  # what a kill left
            cell.update(state=ended, error=None)
        log.info(f"{cell.folder.name}: already done, skipped (force=true runs it again)")
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
    check_scoring(config)  # a benchmark that cannot be read fails before the hours of training
    if config.stage == Stage.score and not cell.trained(config):
        raise ValueError("stage=score finds no trained model: run stage=train first")
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
    with cell.timed("training_seconds") if is_main_process() else nullcontext():
        if decide_on_main(config.machine, lambda: not cell.model.exists()):
            if is_main_process():
                cell.update(state="training", devices=worker_count(config.machine))
            train_model(replace(config, model=base, reference=merged_reference(config)), cell.folder)
        measure_probabilities(config, cell, base)
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


def base_model(config: Config) -> ModelConfig:
    """The model to start from. An adapter is merged; the embedded model is pre-trained here, once, by the same loop.

    The recipe of that pre-training is in the model's YAML: whatever a sweep varies, its cells start from the same base.
    """
    model = config.model
    if model.path not in EMBEDDED_MODELS:
        cache = Path(config.machine.results) / "cache"
        return replace(model, path=merged_adapters.merged(model.path, cache, model.trust_remote_code))
    seed = model.pretrain_seed
    assert seed is not None, "Config.seeded gives it one"
    frozen = model.path != EMBEDDED_VISION  # whose tower learns to see
    adam = {"betas": [0.9, 0.95], "eps": 1e-8, "fused": True}
    recipe = Config(
        model=model,
        dataset=DatasetConfig(path=EMBEDDED, split=model.pretrain_split, rows=model.pretrain_rows, seed=seed),
        loss={"_target_": "losslab.objectives.sft.SFT"},
        optimizer=OptimizerConfig("torch.optim.AdamW", model.pretrain_learning_rate, weight_decay=0.01, arguments=adam),
        train=TrainConfig(batch_size=model.pretrain_batch, precision=Precision.fp32, freeze_vision=frozen),
        names=Names(model="embedded", dataset="corpus", loss="sft", eval=""),
        machine=replace(config.machine, export_steps=None, keep_every=None),
        seed=seed,
    )
    folder = Path(config.machine.results) / "cache" / "models" / identity(recipe)[:16]
    with lock(folder) if is_main_process() else nullcontext():
        if decide_on_main(config.machine, lambda: not (folder / "model").exists()):
            train_model(recipe, folder)
        elif is_main_process():
            clear(folder / "checkpoints", None)  # as `tidy` does
    return replace(model, path=str(folder / "model"))


def merged_reference(config: Config) -> ReferenceConfig:
    """The reference with the path of a whole checkpoint, which `base_model` makes."""
    if config.reference.path is None:
        return config.reference
    with under_key("reference.path"):
        return replace(config.reference, path=base_model(replace(config, model=config.reference_model)).path)


def train_model(config: Config, folder: Path) -> None:
    """Tokenise the data and train into `folder`, whose `model` appears once training is complete."""
    online = isinstance(config.objective, OnPolicy)
    data, held_out = decide_on_main(config.machine, lambda: prepared(config, folder))
    config = sized(config, None if online else Examples.load(Path(data)).report["tokens"] * config.train.epochs)
    if is_main_process():
        write_json(folder / "layout.json", settings(config.machine))
    if online:
        launch(train_online, config, data, str(folder), machine=config.machine, logs=folder / "logs")
        return
    rows = (held_out, _reference(config, held_out)) if held_out else None
    arguments = (config, data, str(folder), _reference(config, data), rows)
    launch(train, *arguments, machine=config.machine, logs=folder / "logs")


def prepared(config: Config, folder: Path) -> tuple[str, str | None]:
    """The folders of the training and held-out data, created if missing; data.json describes them.

    Raises ValueError for data that cannot be trained.
    """
    cache, about, lines = Path(config.machine.results) / "cache", dict[str, Any](), list[str]()
    tokenizer, held_out = load_tokenizer(config.model), None
    if config.adapter.rank:
        lora.Targets.of(structure(config.model), config.adapter)
    if config.reference.path is not None:
        with under_key("reference.path"):
            check_vocabulary(config.model, config.reference_model)
    model = replace(config.model, train_prompt=config.train_prompt)
    tokeniser = Tokeniser(model, config.dataset, tokenizer, image_inputs(config.model))
    if isinstance(config.objective, OnPolicy):
        if config.machine.probabilities:  # of the answers in the data, which the training does not need
            check_answers(tokeniser, config.train, cache)
        data, report, steps = questions.prepare(config, tokenizer, cache)
    else:
        examples = Examples.load(data := prepare(tokeniser, config.train, cache))
        check_tokens(int(examples.tokens.max()), tokenizer, config.model)
        if "mismatched_kl" in config.objective.needs:
            mismatched(examples)  # raises ValueError if there are none
        report, lines = examples.report, examples.notes
        about |= {"notes": lines} if lines else {}
        steps = RandomBatchSampler.of(config.train, config.seed, examples).steps
        if config.dataset.validation is not None:
            held_out = prepare(tokeniser, config.train, cache, held_out=True)
            about["validation"], sentences = held_out_rows.describe(Examples.load(held_out), examples)
            lines = [*lines, *sentences]
    if steps == 0:
        raise ValueError("the rows do not fill one batch: lower train.batch_size or take more of them")
    write_json(folder / "data.json", report | {"version": RECORD_VERSION, "steps": steps} | about)
    for line in (", ".join(f"{v:,} {k}" for k, v in report.items()), *lines):
        log.info(f"{config.names.dataset}: {line}")
    return str(data), str(held_out) if held_out else None


def _reference(config: Config, data: str) -> str:
    """The file of the reference's log-probabilities of some examples. Training measures those of its own
    base; another model's are measured here, in processes that hold that model alone, since memory may be short."""
    model = config.reference_model
    about = [content(model.path), model.revision, Path(data).name, str(config.train.precision)]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    file = Path(config.machine.results) / "cache" / "reference" / f"{name}.npy"
    assert isinstance(config.objective, Objective)
    kept = reference_files(config.objective, file).values()
    if config.reference.path is not None and kept:
        with lock(file.with_suffix(""), quiet=True) if is_main_process() else nullcontext():
            if decide_on_main(config.machine, lambda: not all(path.exists() for path in kept)):
                launch(measure_reference, config, data, str(file), machine=config.machine, logs=file.with_suffix(""))
    return str(file)
