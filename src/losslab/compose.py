"""Hydra at the edge: composed YAML becomes a checked `Config`, and a mistake becomes one sentence.

`entry` runs the scripts of the repository's root; everything below it sees plain dataclasses only.
"""

import difflib
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING as REQUIRED
from dataclasses import asdict, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from losslab.objectives import Objective
from losslab.schema import EMBEDDED, Config

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
ConfigStore.instance().store("schema", Config)  # the first of conf/config.yaml's defaults, so every key has a type
BASE = "base"  # the loss of the row that is scored as it is, without training


def entry(task: Callable[[Config], None], *overrides: str) -> None:
    """Run `task(config)` under Hydra, once for each cell. `overrides` go before the user's own.

    A user's mistake is printed as one sentence and ends the program with status 2, before anything is loaded.
    """
    arguments = [*overrides, *(part for argument in sys.argv[1:] for part in _any_model(argument))]
    sys.argv[1:] = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))  # Hydra wants it first
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions to us in place of printing them

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def run(cfg: DictConfig) -> None:
        task(read(cfg, HydraConfig.get().runtime.choices))

    try:
        run()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(2)


def read(cfg: DictConfig, choices: Any) -> Config:
    """A composed configuration as a `Config`: unknown keys, wrong types and illegal compositions raise ValueError."""
    model = choices["model"] if choices["model"] != "custom" else Path(cfg.model.path.rstrip("/")).name
    names = {"model": model, "dataset": choices["dataset"], "loss": choices["loss"], "eval": choices["eval"]}
    try:
        plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
        merged = OmegaConf.merge(OmegaConf.structured(Config), plain, {"names": names})
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(sentence(error)) from None
    assert isinstance(config, Config)
    check(config)
    return config


def check(config: Config) -> None:
    """Refuse, with one sentence, what composes but cannot run."""
    train, scoring = config.train, config.eval
    for name, value in {
        "train.batch_size": train.batch_size,
        "train.max_length": train.max_length,
        "train.epochs": train.epochs,
        "train.updates": train.updates,
        "eval.samples": scoring.samples,
        "eval.max_new_tokens": scoring.max_new_tokens,
        "machine.micro_batch_tokens": config.machine.micro_batch_tokens,
    }.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: set it to 1 or more")
    if not 0 <= config.scheduler.warmup_ratio <= 1:
        raise ValueError(f"scheduler.warmup_ratio is {config.scheduler.warmup_ratio}: set it between 0 and 1")
    for name, template in {"train": config.model.train_prompt, "eval": config.model.eval_prompt}.items():
        if template != "chat" and "{problem}" not in template:
            raise ValueError(f"model.{name}_prompt must be `chat` or a text that contains {{problem}}")
    if not config.benchmark:
        raise ValueError("no benchmark is chosen: name at least one, as in benchmark=[math500]")
    if config.names.loss == BASE:
        return
    if config.machine.workers is not None and train.batch_size % max(config.machine.workers, 1):
        raise ValueError(
            f"train.batch_size={train.batch_size} cannot be divided over machine.workers={config.machine.workers}: "
            "make it a multiple"
        )
    needs = objective_class(config).needs
    if ("pairs" in needs) != (config.dataset.rejected_column is not None):
        raise ValueError(
            f"loss={config.names.loss} needs pairs of answers: set dataset.rejected_column"
            if "pairs" in needs
            else f"loss={config.names.loss} does not know what to do with dataset.rejected_column: leave it out"
        )
    if train.updates > 1 and "old_logp" not in needs:
        raise ValueError(f"loss={config.names.loss} takes one step on each batch: leave train.updates at 1")


def objective_class(config: Config) -> type[Objective]:
    """The class that `loss._target_` names, with the loss's parameters checked against its fields."""
    target = config.loss.get("_target_")
    if not target:
        raise ValueError(f"conf/loss/{config.names.loss}.yaml names no class: add a `_target_` line")
    try:
        cls = get_class(target)
    except Exception as error:
        raise ValueError(f"loss={config.names.loss}: {target} cannot be imported ({_first_line(error)})") from None
    if not (is_dataclass(cls) and issubclass(cls, Objective)):
        raise ValueError(f"loss={config.names.loss}: {target} is not a dataclass that derives from Objective")
    known = {f.name: f for f in fields(cls)}
    given = set(config.loss) - {"_target_"}
    for key in given - set(known):
        raise ValueError(f"unknown key loss.{key}{did_you_mean(key, known)}")
    for key, f in known.items():
        if key not in given and f.default is REQUIRED and f.default_factory is REQUIRED:
            raise ValueError(f"loss.{key} has no value: set it")
    hints = get_type_hints(cls)
    for key in given:
        _check_type(f"loss.{key}", config.loss[key], hints[key])
    return cls


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name}: invalid value {value!r}, expected one of {list(get_args(hint))}")
        return
    try:
        OmegaConf.merge(OmegaConf.structured(make_dataclass("Parameter", [("value", hint)])), {"value": value})
    except OmegaConfBaseException as error:
        raise ValueError(sentence(error).replace("value:", f"{name}:", 1)) from None


def identity(config: Config) -> str:
    """SHA-256 (hex) of what decides a trained model: model, data, loss, optimizer, schedule, training and seed.

    Settings of machine, tracker and evaluation are left out, and so are values equal to the schema's defaults, so
    that a new option does not change the identity of finished cells. Local files count by content, not by name.
    """
    defaults = asdict(Config())
    science: dict[str, Any] = {"seed": config.seed, "model": _changed(asdict(config.model), defaults["model"])}
    for key in ("eval_prompt", "stop", "learning_rate", "architecture", "trust_remote_code"):
        science["model"].pop(key, None)
    science["model"]["content"] = content(config.model.path)
    if config.names.loss != BASE:
        for group in ("dataset", "optimizer", "scheduler", "train"):
            science[group] = _changed(asdict(getattr(config, group)), defaults[group])
        science["dataset"]["content"] = content(config.dataset.path)
        science["loss"] = config.loss
    return _sha256(science)


def protocol(config: Config) -> str:
    """SHA-256 (hex) of what decides the samples and verdicts of a given model on a given benchmark."""
    science = asdict(config.eval) | {"prompt": config.model.eval_prompt, "stop": config.model.stop}
    science.pop("data")
    return _sha256(science)


def content(path: str) -> str:
    """A fingerprint of a local file or folder (names, sizes, first and last MiB); a hub id or pattern is itself.

    What is embedded is made by `losslab.world`, whose source stands for it.
    """
    root = Path(__file__).with_name("world.py") if path == EMBEDDED else Path(path)
    if not root.exists():
        return path
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.relative_to(root)}:{size}:".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 20))
                stream.seek(max(0, size - (1 << 20)))
                digest.update(stream.read())
    return digest.hexdigest()


def sentence(error: Exception) -> str:
    """Hydra's and OmegaConf's messages as one sentence that says what to change."""
    text = str(error.__cause__ or error)
    if match := re.search(r"Key '([^']+)' (?:is )?not in .*?full_key: (\S+)", f"{text} {error}", re.S):
        key, full = match[1], match[2]
        return f"unknown key {full}{did_you_mean(key, _siblings(full))}"
    if match := re.search(r"Could not override '([^']+)'", str(error)):
        return f"unknown key {match[1]}{did_you_mean(match[1].split('.')[-1], _siblings(match[1]))}"
    if match := re.search(r"Could not find '([^'/]+)/([^']+)'", str(error)):
        available = sorted(path.stem for path in (CONF / match[1]).glob("*.yaml"))
        return (
            f"{match[1]}={match[2]} does not exist{did_you_mean(match[2], available)}; there are {', '.join(available)}"
        )
    if match := re.search(r"missing mandatory value.*full_key: (\S+)", text, re.S):
        return f"{match[1]} has no value: set it"
    if match := re.search(r"(Invalid value|Value) (.*?)\n.*?full_key: (\S+)", text, re.S):
        return f"{match[3]}: {match[1].lower()} {match[2]}"
    return _first_line(error)


def did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _siblings(full_key: str) -> list[str]:
    node: Any = OmegaConf.structured(Config)
    for part in full_key.split(".")[:-1]:
        node = node.get(part) if OmegaConf.is_dict(node) and part in node else {}
    return [str(key) for key in node]


def _any_model(argument: str) -> list[str]:
    """`model=<hub id or folder>` works wherever `model=<shipped name>` does."""
    name = argument.removeprefix("model=")
    if name == argument or "," in name or not ("/" in name or Path(name).is_dir()):
        return [argument]
    return ["model=custom", f"model.path={name}"]


def _changed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value != defaults.get(key)}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
