"""Hydra at the edge: composed YAML becomes a checked `Config`, and a mistake becomes one sentence.

`entry` runs the scripts of the repository's root; everything below it sees plain dataclasses only.
"""

import ast
import difflib
import hashlib
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import MISSING as REQUIRED
from dataclasses import asdict, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from losslab.launch import join_slurm
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
    join_slurm()
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
    model = choices["model"]
    if model == "custom" and not OmegaConf.is_missing(cfg.model, "path"):
        path = Path(cfg.model.path)
        model = path.parent.name if path.name == "model" else path.name  # a cell's export is called after the cell
    dataset = choices["dataset"]
    if dataset == "file" and not OmegaConf.is_missing(cfg.dataset, "path"):
        dataset = Path(cfg.dataset.path).stem.replace("*", "")
    names = {"model": model, "dataset": dataset, "loss": choices["loss"], "eval": choices["eval"]}
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
        "dataset.rows": config.dataset.rows,
        "machine.micro_batch_tokens": config.machine.micro_batch_tokens,
        "machine.checkpoint_steps": config.machine.checkpoint_steps,
        "machine.workers": config.machine.workers,
        "machine.threads": config.machine.threads,
    }.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: set it to 1 or more")
    for name, share in {
        "scheduler.warmup_ratio": config.scheduler.warmup_ratio,
        "scheduler.decay_ratio": config.scheduler.decay_ratio,
        "scheduler.floor": config.scheduler.floor,
        "dataset.max_broken": config.dataset.max_broken,
        "eval.top_p": scoring.top_p or -1.0,
    }.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {max(share, 0.0)}: set it between 0 and 1")
    for name, least in {"seed": config.seed, "eval.temperature": scoring.temperature}.items():
        if least < 0:
            raise ValueError(f"{name} is {least}: set it to 0 or more")
    if train.clip <= 0:
        raise ValueError(f"train.clip is {train.clip}: set it above 0 (inf for no clipping)")
    for name, template in {"train": config.model.train_prompt, "eval": config.model.eval_prompt}.items():
        if template != "chat" and "{problem}" not in template:
            raise ValueError(f"model.{name}_prompt must be `chat` or a text that contains {{problem}}")
    if not config.benchmark:
        raise ValueError("no benchmark is chosen: name at least one, as in benchmark=[math500]")
    path = Path(config.model.path)
    if (path.is_absolute() or config.model.path.startswith(".") or Path(path.parts[0]).is_dir()) and not path.is_dir():
        if config.model.path != EMBEDDED:
            raise ValueError(f"model.path={path} is no folder: check the path")
    if config.names.loss == BASE:
        return
    data = Path(config.dataset.path)
    if data.suffix in (".jsonl", ".json", ".parquet") and not (data.exists() or _matches(data)):
        raise ValueError(f"dataset.path={data} names no file: check the path")
    if config.machine.workers is not None and train.batch_size % max(config.machine.workers, 1):
        raise ValueError(
            f"train.batch_size={train.batch_size} cannot be divided over machine.workers={config.machine.workers}: "
            "make it a multiple"
        )
    try:
        arguments = inspect.signature(get_class(config.optimizer._target_)).parameters
    except Exception:
        raise ValueError(f"optimizer._target_={config.optimizer._target_} cannot be imported: check it") from None
    for key in set(config.optimizer.arguments) - set(arguments):
        raise ValueError(f"unknown key optimizer.arguments.{key}{did_you_mean(key, arguments)}")
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
        raise ValueError(f"unknown key loss.{key}{among(key, known)}")
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
    """SHA-256 (hex) of what decides a trained model: model, data, objective, optimizer, schedule, training and seed.

    Settings of machine, tracker and evaluation are left out, and so are values equal to the schema's defaults, so
    that a new option does not change the identity of finished cells. Local files count by content, not by name, and
    the objective by its parameters and code, comments and layout apart.
    """
    defaults = asdict(Config())
    groups = ["model"] if config.names.loss == BASE else ["model", "dataset", "optimizer", "scheduler", "train"]
    science: dict[str, Any] = {"seed": config.seed}
    for group in groups:
        science[group] = _changed(asdict(getattr(config, group)), defaults[group])
    for key in ("eval_prompt", "stop", "learning_rate", "architecture", "trust_remote_code"):
        science["model"].pop(key, None)
    for group in {"model", "dataset"} & set(groups):
        science[group]["path"] = content(science[group]["path"])
    if config.names.loss != BASE:
        cls = objective_class(config)
        values = asdict(instantiate(config.loss))
        science["loss"] = [cls.__qualname__, _code(cls)]
        science["loss"].append({key: float(v) if type(v) is int else v for key, v in values.items()})  # 2 is 2.0
    return _sha256(science)


def protocol(config: Config) -> str:
    """SHA-256 (hex) of what decides the samples of a given model on a given benchmark, alike for all seeds of a study.

    How many samples, and which verdict counts, is not part of it: both can be had from the same samples.
    """
    science = asdict(config.eval)
    for key in ("samples", "full_samples", "verdict"):
        science.pop(key)
    science["seed"] -= config.seed
    science["data"] = content(science["data"]) if science["data"] else None
    return _sha256([science, config.model.eval_prompt, config.model.stop])


def content(path: str) -> str:
    """A hash of the local file, folder or files that a path or pattern names; a hub id is itself.

    Data files are read whole. Weights, which are large, stand for themselves by size and 64 pieces of 64 KiB. What is
    embedded is made by `losslab.world`, whose source stands for it.
    """
    root = Path(__file__).with_name("world.py") if path == EMBEDDED else Path(path)
    files = sorted(root.rglob("*")) if root.is_dir() else [root] if root.exists() else sorted(_matches(root))
    if not files:
        return path
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.relative_to(root) if root.is_dir() else ''}:{size}:".encode())
            with file.open("rb") as stream:
                if file.suffix in (".safetensors", ".bin", ".pt") and size > 1 << 22:
                    for piece in range(64):
                        stream.seek(piece * size // 64)
                        digest.update(stream.read(1 << 16))
                else:
                    while block := stream.read(1 << 20):
                        digest.update(block)
    return digest.hexdigest()


def _matches(pattern: Path) -> list[Path]:
    return list(pattern.parent.glob(pattern.name)) if pattern.parent.is_dir() and "*" in pattern.name else []


def _code(cls: type) -> str:
    """The syntax tree of a class without its docstrings; empty where its source cannot be had."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def sentence(error: Exception) -> str:
    """Hydra's and OmegaConf's messages as one sentence that says what to change."""
    text = str(error.__cause__ or error)
    if match := re.search(r"Key '([^']+)' (?:is )?not in .*?full_key: (\S+)", f"{text} {error}", re.S):
        key, full = match[1], match[2]
        return f"unknown key {full}{among(key, _siblings(full))}"
    if match := re.search(r"Could not override '([^']+)'", str(error)):
        return f"unknown key {match[1]}{among(match[1].split('.')[-1], _siblings(match[1]))}"
    if match := re.search(r"Could not find '([^'/]+)/([^']+)'", str(error)):
        available = sorted(path.stem for path in (CONF / match[1]).glob("*.yaml"))
        return (
            f"{match[1]}={match[2]} does not exist{did_you_mean(match[2], available)}; there are {', '.join(available)}"
        )
    if match := re.search(r"Could not load '([^'/]+)/([^']+)'", str(error)):
        available = sorted(path.stem for path in (CONF / match[1]).glob("*.yaml"))
        return (
            f"{match[1]} {match[2]} does not exist{did_you_mean(match[2], available)}; there are {', '.join(available)}"
        )
    if match := re.search(r"Ambiguous value for argument '([^']+)'", str(error)):
        return f"{match[1]} has several values: add -m to run a cell for each"
    if match := re.search(r"missing mandatory value.*full_key: (\S+)", text, re.S):
        return f"{match[1]} has no value: set it"
    if match := re.search(r"(Invalid value|Value) (.*?)\n.*?full_key: (\S+)", text, re.S):
        return f"{match[3]}: {match[1].lower()} {match[2]}"
    return _first_line(error)


def did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def among(word: str, known: Any) -> str:
    """A suggestion, or all there is to choose from."""
    return did_you_mean(word, known) or (f"; there are {', '.join(known)}" if known else "")


def _siblings(full_key: str) -> list[str]:
    node: Any = OmegaConf.structured(Config)
    for part in full_key.split(".")[:-1]:
        node = node.get(part) if OmegaConf.is_dict(node) and part in node else {}
    return [str(key) for key in node]


def _any_model(argument: str) -> list[str]:
    """`model=<hub id or folder>` works wherever `model=<shipped name>` does."""
    name = argument.removeprefix("model=")
    shipped = (CONF / "model" / f"{name}.yaml").exists()
    if name == argument or shipped or "," in name or not ("/" in name or Path(name).is_dir()):
        return [argument]
    return ["model=custom", f"model.path={name}"]


def _changed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value != defaults.get(key)}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
