"""Hydra at the edge: composed YAML becomes a checked `Config`, and a mistake becomes one sentence.

`entry` runs what `losslab train`, `sample` and `evaluate` do; everything below it sees plain dataclasses only.
"""

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from losslab.composition.check_unread import check_unread
from losslab.composition.composing import composing
from losslab.composition.record_file import read_record, refuse_unknown_objective
from losslab.composition.words import TASKS, check_group, expanded, shipped_paths
from losslab.config.benchmark import HARNESS
from losslab.config.errors import exit_on_error
from losslab.config.limits import check_open_files
from losslab.config.messages import sentence
from losslab.config.paths import CONF
from losslab.config.schema import BASE, Config

SEARCHPATH = "hydra.searchpath"
SCORING = ("eval", "prompt", "benchmark", "machine")  # what may be set for a cell that is trained

ConfigStore.instance().store("schema", Config)  # the first of conf/config.yaml's defaults, so every key has a type


def entry(task: str, arguments: list[str]) -> None:
    """Run the function that `task` names, as task(config), under Hydra, once for each cell of a command line.

    A user's mistake is raised before anything is loaded. Help and shell completion import no torch.
    """
    arguments = expanded(arguments)
    for argument in arguments:
        check_group(argument)
    flags, unknown = get_args_parser().parse_known_args(arguments)
    if unknown := [argument for argument in unknown if argument.startswith("-")]:
        raise ValueError(f"{unknown[0]} is not an option: options are written key=value, as in plan=true")
    if not (flags.help or flags.shell_completion):
        from losslab.distributed.environment import adopt_srun_variables, check_launch

        adopt_srun_variables()
        check_launch()
        check_open_files()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its exceptions instead of printing them

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def run(cfg: DictConfig) -> None:
        with exit_on_error():  # Hydra would print the overrides of a cell before what it raises
            of_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            get_method(task)((read_cell if of_sweep else read)(cfg, HydraConfig.get().runtime.choices))

    # Hydra takes the flag before the overrides.
    sys.argv[1:] = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))
    try:
        run()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if (wrong := culprit(error, flags.overrides)) is None:
            raise
        raise ValueError(f"{wrong}: {sentence(error)}") from None


def culprit(error: Exception, overrides: list[str]) -> str | None:
    """The override that raises the same error alone, where an error of Hydra or OmegaConf names no override."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    ours = frame.f_globals.get("__name__", "").split(".")[0] not in ("hydra", "omegaconf")
    text = sentence(error)
    if ours or any(override.lstrip("+~").partition("=")[0] in text for override in overrides):
        return None
    GlobalHydra.instance().clear()
    with composing():
        for override in overrides:
            try:
                composed = hydra.compose("config", [override], return_hydra_config=True)
                typed(composed, composed.hydra.runtime.choices)
            except Exception as alone:
                if sentence(alone) == text:
                    return override
    return None


@cache
def schema() -> Any:
    """`Config` as an OmegaConf object, made once since that takes as long as filling it; merging copies it."""
    return OmegaConf.structured(Config)


def read(cfg: DictConfig, choices: Any) -> Config:
    """A composed configuration as a `Config`: unknown keys, wrong types and illegal compositions raise ValueError."""
    check_unread([config := read_cell(cfg, choices)])
    return config


def read_cell(cfg: DictConfig, choices: Any) -> Config:
    """As `read`, without `check_unread`, which a sweep calls once for all of its cells."""
    from losslab.composition.checks import check

    check(config := typed(cfg, choices))
    return config


def typed(cfg: DictConfig, choices: Any) -> Config:
    """As `read_cell`, without the checks of whether the cell can run."""
    model = choices["model"]
    if model == "custom" and not OmegaConf.is_missing(cfg.model, "path"):
        path = Path(cfg.model.path)
        # The export of a cell is called after the cell.
        model = path.parent.name or path.name if path.name == "model" else path.name
    dataset = choices["dataset"]
    if dataset == "file" and not OmegaConf.is_missing(cfg.dataset, "path"):
        path = Path(cfg.dataset.path)
        dataset = path.stem.replace("*", "") or path.parent.name or "file"  # of *.jsonl: its folder
    names = {"model": model, "dataset": dataset, "loss": choices["loss"], "eval": choices["eval"]}
    names["sampled"] = _sampled(model, choices["model"] == "custom", cfg)
    names["prompt"] = choices["prompt"]
    names["method"] = choices["method"] and Path(choices["method"]).name  # embedded/grpo is GRPO
    try:
        keys = [str(key) for key in cfg if key not in ("hydra", TASKS)]
        plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys))
        merged = OmegaConf.merge(schema(), plain, {"names": names, "benchmark": with_tasks(cfg)})
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, OverflowError) as error:
        raise ValueError(sentence(error)) from None
    assert isinstance(config, Config)
    if not config.trains:
        config.names.loss = BASE  # whatever its file is called
    return config


def _sampled(model: str, by_path: bool, cfg: DictConfig) -> str:
    """What the folder of a model's own answers is called: its name, with a hash where others may have the same name.

    Such is a model that is given by its path, also in place of the one in its file.
    """
    path = "" if OmegaConf.is_missing(cfg.model, "path") else str(cfg.model.path)
    if not by_path and shipped_paths().get(model, path) == path:
        return model
    return f"{model}-{hashlib.sha256(f'{Path(path)}@{cfg.model.revision}'.encode()).hexdigest()[:6]}"


def recorded_config(record: Path, overrides: list[str]) -> Config:
    """The configuration in a cell's config.yaml with `overrides` of its scoring, and with this machine's settings.

    Files of the folders that `hydra.searchpath` names may be chosen, and their objectives are known. Raises ValueError
    for overrides that are wrong, or that do not concern scoring, and for an objective that no file names.
    """
    saved = read_record(record)
    overrides = expanded(overrides)
    with composing():
        composed = hydra.compose("config", [f"seed={saved.seed}", *overrides], return_hydra_config=True)
        refuse_unknown_objective(saved.loss, str(record), searched(composed))
        for name in keys(overrides):
            if name == SEARCHPATH:
                continue
            group, _, key = name.partition(".")
            group = "benchmark" if group == TASKS else group
            if group not in SCORING and name != "model.trust_remote_code":
                raise ValueError(
                    f"a trained cell is scored as it was trained: leave {name} out; "
                    f"what can be set is {', '.join(SCORING)}"
                )
            if key:
                OmegaConf.update(saved, f"{group}.{key}", OmegaConf.select(composed, f"{group}.{key}"))
            else:
                saved[group] = with_tasks(composed) if group == "benchmark" else composed[group]
                if group in ("eval", "prompt"):
                    saved.names[group] = composed.hydra.runtime.choices[group]
        saved.machine = composed.machine
        config = OmegaConf.to_object(OmegaConf.merge(schema(), saved))
    assert isinstance(config, Config)
    from losslab.composition.checks import check_bounds, check_endpoint, check_examples, check_prompts

    check_bounds(config)
    check_prompts(config)
    check_examples(config)
    check_endpoint(config.machine)
    return config


def keys(overrides: Iterable[str]) -> list[str]:
    """The key or group that each override sets, whatever its prefix: model.stop for ++model.stop=[]."""
    words = expanded(overrides)
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(words)]


def given() -> list[str]:
    """The keys and groups that the command line of the running task sets; none outside of `entry`."""
    task = HydraConfig.get().overrides.task if HydraConfig.initialized() else OmegaConf.create([])
    words: Any = OmegaConf.to_container(task, resolve=False)
    return keys(words)


def searched(composed: DictConfig) -> Iterable[Path]:
    """The folders of YAML files that a composition looks into, conf/ and those of `hydra.searchpath`."""
    return [Path(source.path) for source in composed.hydra.runtime.config_sources if source.schema == "file"]


def with_tasks(cfg: DictConfig) -> dict[str, Any]:
    """The benchmarks of a composed configuration and the tasks that its command line names, each called after itself.

    Raises ValueError for two of one name.
    """
    chosen: dict[str, Any] = dict(cfg.benchmark or {})
    for path in cfg.get(TASKS, []):
        task = path.removeprefix(HARNESS)
        name = re.sub(r"\W", "_", Path(task).stem if task.endswith(".yaml") else task)
        if name in chosen:
            raise ValueError(f"two benchmarks are called {name}: leave one of them out")
        chosen[name] = {"path": path}
    return chosen


def composed(overrides: list[str]) -> Config:
    """The configuration of a command line, typed but not checked. Raises ValueError for what does not compose."""
    arguments = expanded(overrides)
    with composing():
        whole = hydra.compose("config", arguments, return_hydra_config=True)
        return typed(whole, whole.hydra.runtime.choices)
