"""What makes a cell another cell, and samples other samples: hashes of the science of a configuration."""

import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from typing import Any, cast

from losslab.composition.check_unread import unread
from losslab.config.machine import MachineConfig
from losslab.config.prompt import PromptConfig
from losslab.config.schema import Config
from losslab.files.content import content
from losslab.files.python_source import syntax

SEED = "the seed of a cell"


def identity(config: Config) -> str:
    """SHA-256 (hex) of what decides a trained model: its recipe and its seed."""
    return _sha256(_science(config) | {"seed": config.seed})


def identities(config: Config, seeds: Iterable[int]) -> list[str]:
    """The identities of cells that differ from `config` in their seed; of many in little time."""
    before, after = json.dumps(_science(config) | {"seed": SEED}, sort_keys=True, default=str).split(f'"{SEED}"')
    return [hashlib.sha256(f"{before}{seed}{after}".encode()).hexdigest() for seed in seeds]


def recipe(config: Config) -> str:
    """SHA-256 (hex) of what is alike for all seeds: model, data, objective, optimizer, schedule and training.

    Settings of machine, tracker and evaluation are left out, and so are values equal to the schema's defaults, so
    that a new option does not change the identity of finished cells, and keys that the cell does not read (`unread`).
    Of the machine, the limit of a verdict counts where verdicts are rewards. Local files count by content, not by
    name, and the objective by its parameters and its code (`_code`), comments and layout apart.
    """
    return _sha256(_science(config))


def _science(config: Config) -> dict[str, Any]:
    from losslab.objectives.online import Online, OnPolicy  # here, since it loads torch, which readers do not need

    defaults = asdict(Config())
    objective: Any = config.objective
    trains = config.trains
    groups = ["model", "dataset", "optimizer", "scheduler", "train"] if trains else ["model"]
    science: dict[str, Any] = {}
    for group in groups:
        science[group] = _changed(asdict(getattr(config, group)), defaults[group])
    if trains and (adapter := _changed(asdict(config.adapter), defaults["adapter"])):
        science["adapter"] = adapter
    for group, _, key in (name.partition(".") for name in unread(config)):
        science.get(group, {}).pop(key, None)
    if not science.get("adapter", True):  # with rank 0 no key of an adapter counts
        del science["adapter"]
    if trains and config.reference.path is not None:
        science["reference"] = [content(config.reference.path), config.reference.revision]
    online = isinstance(objective, OnPolicy)
    if isinstance(objective, Online) and config.machine.grading_seconds != MachineConfig.grading_seconds:
        science["grading_seconds"] = config.machine.grading_seconds
    if trains and config.dataset.template:  # in place of the model's
        science["model"]["train_prompt"] = science["dataset"].pop("template")
    for key in ("eval_prompt", "learning_rate", "architecture", "trust_remote_code"):
        science["model"].pop(key, None)
    if not online:  # whose answers end there
        science["model"].pop("stop", None)
    sampling = ("source",) if online else ("gold_column", "rules", "stop", "source")
    for key in sampling:  # they shaped the rows of a file, whose content counts
        science.get("dataset", {}).pop(key, None)
    if isinstance(config.dataset.validation, str):  # a share takes rows from training, and another file none
        science.get("dataset", {}).pop("validation", None)
    for group in {"model", "dataset"} & set(groups):
        science[group]["path"] = content(science[group]["path"])
    if trains:
        science["loss"] = [type(objective).__qualname__, _code(cast(Any, type(objective)))]
        parameters = {key: float(v) if type(v) is int else v for key, v in asdict(objective).items()}  # 2 is 2.0
        science["loss"].append(parameters)
    return science


def protocol(config: Config) -> str:
    """SHA-256 (hex) of what decides the samples of a given model on a given benchmark, alike for all seeds of a study.

    How many samples, and which verdict counts, is not part of it: both can be had from the same samples.
    """
    science = asdict(config.eval)
    for key in ("samples", "full_samples", "verdict"):
        science.pop(key)
    science["seed"] = 0 if science["seed"] is None else f"fixed {science['seed']}"
    science["data"] = _data(science["data"]) if science["data"] else None
    arguments = [config.model.template_arguments] if config.model.template_arguments else []
    prompt = _changed(asdict(config.prompt), asdict(PromptConfig()))
    return _sha256(
        [science, config.model.eval_prompt, config.model.stop, *arguments, *([{"prompt": prompt}] if prompt else [])]
    )


@cache  # the name of a protocol must not change within a process, though results may be written into the folder
def _data(folder: str) -> str:
    return content(folder)


@cache
def _code(cls: Any) -> str:
    """The code of an objective; empty where its source cannot be had.

    Of losslab's own ones it is their class, so that records keep their identity while the package around them changes.
    Of others it is the whole modules of the class and its bases, whose functions it may call.
    """
    ours = {"losslab", *sys.stdlib_module_names}
    theirs = [base for base in cls.__mro__ if base.__module__.split(".")[0] not in ours]
    modules = dict.fromkeys(module for base in theirs if (module := inspect.getmodule(base)))
    try:
        return "\n".join(syntax(inspect.getsource(module)) for module in modules) or _source(cls)
    except (OSError, TypeError):  # a notebook's cells have no file
        return _source(cls)


def _source(cls: Any) -> str:
    try:
        return syntax(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return ""


def _changed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value != defaults.get(key)}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
