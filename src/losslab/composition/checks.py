"""What composes but cannot run is refused here, before anything is loaded."""

import inspect
import math
from operator import attrgetter
from pathlib import Path

from hydra.utils import get_class

from losslab.composition.check_online import check_online
from losslab.config.messages import did_you_mean
from losslab.config.paths import CONF
from losslab.config.schema import BASE, EMBEDDED, Config, Normaliser, Precision, Reduction, SweepConfig, TrackerName
from losslab.data.examples import local_files, unanswered
from losslab.objectives.online import Online

ANY = math.inf
BOUNDS: dict[str, tuple[float, float]] = {  # lowest and highest value of a key
    "seed": (0, ANY),
    "dataset.rows": (1, ANY),
    "dataset.max_broken": (0, 1),
    "optimizer.lr": (0, ANY),
    "scheduler.warmup_ratio": (0, 1),
    "scheduler.warmup_steps": (0, ANY),
    "scheduler.decay_ratio": (0, 1),
    "scheduler.floor": (0, 1),
    "train.epochs": (1, ANY),
    "train.max_steps": (1, ANY),
    "train.batch_size": (1, ANY),
    "train.updates": (1, ANY),
    "train.max_length": (2, ANY),
    "train.clip": (1e-9, ANY),
    "train.micro_batch": (1, ANY),
    "adapter.rank": (0, ANY),
    "adapter.alpha": (0, ANY),
    "eval.samples": (1, ANY),
    "eval.temperature": (0, ANY),
    "eval.top_p": (1e-6, 1),
    "eval.max_new_tokens": (1, ANY),
    "machine.workers": (1, ANY),
    "machine.threads": (1, ANY),
    "machine.micro_batch_tokens": (1, ANY),
    "machine.checkpoint_steps": (1, ANY),
    "machine.keep_last": (1, ANY),
    "machine.keep_every": (1, ANY),
    "machine.export_steps": (1, ANY),
    "machine.probabilities": (1, ANY),
    "machine.tensor_parallel": (1, ANY),
}


def check_bounds(config: Config) -> None:
    """Refuse values that no run can have."""
    for key, (low, high) in BOUNDS.items():
        value = attrgetter(key)(config)
        if value is not None and not low <= value <= high:
            allowed = f"to {low:g} or more" if high == math.inf else f"between {low:g} and {high:g}"
            raise ValueError(f"{key} is {value}: set it {allowed}")


def check_built(sweep: SweepConfig) -> None:
    """Refuse a sweep that is declared for the record alone."""
    if sweep.needs:
        raise ValueError(f"{sweep.name} is declared and not built; it would need {sweep.needs}")


def check(config: Config) -> None:
    """Refuse, with one sentence, what composes but cannot run."""
    check_built(config.sweep)
    check_bounds(config)
    for name, template in {"train": config.model.train_prompt, "eval": config.model.eval_prompt}.items():
        if template != "chat" and "{problem}" not in template:
            raise ValueError(f"model.{name}_prompt must be `chat` or a text that contains {{problem}}")
    if not config.benchmark:
        raise ValueError("no benchmark is chosen: name at least one, as in benchmark=[math500]")
    if config.tracker.checkpoints and config.tracker.name != TrackerName.wandb:
        raise ValueError(
            f"tracker={config.tracker.name} keeps no models: leave tracker.checkpoints out, or set tracker=wandb"
        )
    path = Path(config.model.path)
    looks_local = path.is_absolute() or config.model.path.startswith(".") or Path(path.parts[0]).is_dir()
    if looks_local and not path.is_dir() and config.model.path != EMBEDDED:
        raise ValueError(f"model.path={path} is no folder: check the path")
    if not config.trains:
        return
    if config.names.loss == BASE:
        raise ValueError("loss=base trains nothing: choose another loss, or leave loss._target_ out")
    check_data(config)
    train, workers = config.train, config.machine.workers
    if workers is not None and train.batch_size % workers:
        raise ValueError(
            f"train.batch_size={train.batch_size} cannot be divided over machine.workers={workers}: make it a multiple"
        )
    if train.reduction == Reduction.micro_batch and train.micro_batch is None:
        raise ValueError("train.reduction=micro_batch depends on how rows are grouped: set train.micro_batch")
    if train.weights == Precision.bf16 and train.precision == Precision.fp32:
        raise ValueError("train.weights=bf16 cannot be computed with in float32: set train.precision=bf16")
    if config.adapter.rank and not config.adapter.target_modules:
        raise ValueError("adapter.target_modules is empty: name the linear layers to adapt, or choose adapter=lora")
    try:
        arguments = inspect.signature(get_class(config.optimizer._target_)).parameters
    except Exception:
        raise ValueError(f"optimizer._target_={config.optimizer._target_} cannot be imported: check it") from None
    for key in set(config.optimizer.arguments) - set(arguments):
        raise ValueError(f"unknown key optimizer.arguments.{key}{did_you_mean(key, arguments)}")
    if isinstance(config.objective, Online):
        check_online(config, config.objective)
    needs = config.objective.needs
    if ("pairs" in needs) != (config.dataset.rejected_column is not None):
        raise ValueError(
            f"loss={config.names.loss} needs pairs of answers: set dataset.rejected_column"
            if "pairs" in needs
            else f"loss={config.names.loss} does not know what to do with dataset.rejected_column: leave it out"
        )
    if ("reward" in needs) != (config.dataset.reward_column is not None):
        raise ValueError(
            f"loss={config.names.loss} needs answers with rewards: set dataset.reward_column, or dataset=self_graded"
            if "reward" in needs
            else f"loss={config.names.loss} does not know what to do with dataset.reward_column: leave it out"
        )
    for what in needs & {"pairs", "reward"}:
        if train.normaliser == Normaliser.weights:
            raise ValueError(f"train.normaliser=weights does not go with {what}, whose weights cancel: choose another")
    if train.updates > 1 and "old_logp" not in needs:
        raise ValueError(f"loss={config.names.loss} takes one step on each batch: leave train.updates at 1")


def check_data(config: Config) -> None:
    """Refuse a data set whose local files are not there; a plan may be made before the model's own answers are."""
    dataset, names = config.dataset, config.names
    if not unanswered(dataset):
        local_files(dataset)
    elif not config.plan:
        model = names.model if (CONF / "model" / f"{names.model}.yaml").exists() else config.model.path
        raise ValueError(
            f"{dataset.path} is not there yet: losslab sample model={model} dataset={dataset.source} makes it"
        )
