"""Scores a cell: its trained model, then the models exported during training; also a finished cell from its record."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from losslab.composition.compose import keys, recorded_config
from losslab.config.machine import MachineConfig
from losslab.config.schema import EMBEDDED_MODELS, Config, Stage
from losslab.data.rows import texts
from losslab.evaluation import benchmarks
from losslab.evaluation.contamination import Corpus
from losslab.evaluation.evaluate import evaluate, show
from losslab.evaluation.write_scores import graded_here
from losslab.files.content import content
from losslab.models import merged_adapters
from losslab.records.lock import cell_lock
from losslab.records.reading import DamagedRecord
from losslab.records.record import Cell
from losslab.results import learning_curves
from losslab.results.load_records import problem_hashes

MACHINE = (  # what of it scoring uses
    "results", "device", "threads", "engine", "tensor_parallel", "grading_seconds", "unsafe_code",
    "api_url", "api_model", "api_concurrency", "api_retries", "api_prices",
)  # fmt: skip


def score(config: Config, cell: Cell, models: dict[int | None, str]) -> None:
    """Score models of a cell, by step (None: the finished one) and in order; only missing samples are generated.

    Prints the table of the finished model, and accuracy over steps if there are several.
    """
    folder, seen = cell.scores(config), corpus(config)
    graded = [name for name, benchmark in config.benchmark.items() if benchmark.task is None]
    for step, model in models.items():
        if step is None:
            show(evaluate(config, model, folder, seen), folder)
        elif not (cell.scored(config, step) and graded_here(cell.scores(config, step), graded)):
            evaluate(config, model, cell.scores(config, step), seen)  # all steps by one version of the grader
    if set(models) - {None}:
        print(learning_curves.markdown(learning_curves.scores_by_step(folder, cell.metrics)), flush=True)


def changed_benchmarks(config: Config, cell: Cell) -> list[str]:
    """The benchmarks whose questions, gold answers or prompt are others now than when the cell was scored."""
    try:
        stored = problem_hashes(cell.scores(config))
    except DamagedRecord:  # which the table tells
        return []
    return benchmarks.changed(stored, config.benchmark, config.eval.data)


def corpus(config: Config) -> Corpus | None:
    """The rows that a cell is trained on; None for a base model."""
    if not config.trains:
        return None
    dataset = config.seeded.dataset
    about = asdict(dataset) | {"path": content(dataset.path)}
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    return Corpus(key, lambda: texts(dataset))


def find(path: str) -> Cell | None:
    """The cell whose folder, model or steps a path names; None for any other path."""
    for folder in (Path(path), *Path(path).parents[:2]) if path and Path(path).is_dir() else ():
        if (folder / "cell.json").is_file() and (folder / "config.yaml").is_file():
            return Cell.at(folder)
    return None


def _check_machine(machine: MachineConfig, overrides: list[str]) -> None:
    """Refuse keys of the machine that are of training or of its measurements, which scoring again leaves out."""
    for name in ("kl_to_base", "probabilities"):
        if getattr(machine, name) is not None:
            raise ValueError(f"machine.{name} is measured where a cell is trained: leave it out, or run train.py again")
    for key in keys(overrides):
        group, _, name = key.partition(".")
        if group == "machine" and name and name not in MACHINE:
            raise ValueError(
                f"machine.{name} has no effect on scores: leave it out; what can be set is {', '.join(MACHINE)}"
            )


def score_again(path: str, overrides: list[str]) -> None:
    """Score the models that a path names: all for a cell or its `steps`, or a single one.

    Raises:
        ValueError: the path names no model, or an override does not concern scoring.
    """
    cell = find(path)
    assert cell is not None
    config = recorded_config(cell.folder / "config.yaml", overrides)
    _check_machine(config.machine, overrides)
    models: dict[int | None, str] = {step: str(folder) for step, folder in cell.steps().items()}
    if cell.model.is_dir():
        models = {None: str(cell.model), **models}
    elif not config.trains and config.model.path not in EMBEDDED_MODELS:
        cache = Path(config.machine.results) / "cache"
        models = {None: merged_adapters.merged(config.model.path, cache, config.model.trust_remote_code)}
    if Path(path).resolve() not in (cell.folder.resolve(), (cell.folder / "steps").resolve()):
        models = {step: model for step, model in models.items() if Path(model).resolve() == Path(path).resolve()}
    if not models:
        raise ValueError(f"{path} holds no model: give a cell's folder, its model, or its steps")
    if config.served and len(models) > 1:
        raise ValueError(f"an endpoint serves one model: give {cell.model}, or one of the steps")
    with cell_lock(cell.folder):
        score(config, cell, models)
        config = replace(config, stage=Stage.all)
        if cell.state().get("state") == "failed" and cell.done(config):  # what had failed is done since
            cell.end(config)
