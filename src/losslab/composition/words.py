"""The words of a command line as Hydra takes them: models by hub id or folder, tasks among benchmarks, drawn values."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from losslab.composition.log_uniform import drawn
from losslab.config.benchmark import HARNESS
from losslab.config.paths import CONF

TASKS = "lm_eval"  # the key of a composed configuration that holds tasks named among benchmarks
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()}


def check_twice(words: Sequence[str], sweeps: bool = True) -> None:
    """Raise ValueError for a key with two values, of which the last would count in silence.

    The same word twice says one thing. `sweeps` says whether a key may have several values with -m.
    """
    given: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.lstrip("+").partition("=")
        if not equals or key.startswith(("~", "-")):
            continue
        if given.setdefault(key, word) != word:
            both = f"{given[key]} and {word}"
            raise ValueError(
                f"{key} is given twice, as {both}: write it once{f', as in -m {key}=A,B for a sweep' if sweeps else ''}"
            )


def last_of_each(words: Sequence[str]) -> list[str]:
    """The words without those of a key that a later one sets again, as Hydra reads them."""
    last = {word.partition("=")[0]: i for i, word in enumerate(words)}
    return [word for i, word in enumerate(words) if last[word.partition("=")[0]] == i]


def check_group(argument: str) -> None:
    """Raise ValueError for a group without the name of a file, since Hydra's message would not name the group."""
    group, _, name = argument.partition("=")
    needed = (CONF / group).is_dir() and group not in ("experiment", "method", "prompt")  # which can be left out
    if needed and (name == "null" or name.startswith("${")):
        raise ValueError(f"{argument} names no file: write {group}=NAME with one of conf/{group}")


def expanded(arguments: Iterable[str]) -> list[str]:
    """Each argument as Hydra takes it (`any_group`)."""
    return [part for argument in arguments for part in any_group(argument)]


def any_group(argument: str) -> list[str]:
    """Replace names without a file in conf/: models by `any_model`, tasks among benchmarks; and draw `log_uniform`."""
    argument = drawn(argument)
    return any_task(argument) if argument.startswith("benchmark=") else any_model(argument)


def any_task(argument: str) -> list[str]:
    """`benchmark=[math500,lm_eval:ifeval]` as Hydra takes it: `with_tasks` brings the two kinds together again.

    Raises ValueError for a sweep over benchmarks, which a cell is scored on together.
    """
    if HARNESS not in argument:
        return [argument]
    names = argument.removeprefix("benchmark=").removeprefix("[").removesuffix("]").split(",")
    if any(bracket in name for name in names for bracket in "[]"):
        every = f"benchmark=[{','.join(name.strip(' []') for name in names)}]"
        raise ValueError(f"{argument} sweeps over benchmarks: write them in one list, as in {every}")
    tasks = [f"'{name.strip()}'" for name in names if name.strip().startswith(HARNESS)]
    files = [name for name in names if not name.strip().startswith(HARNESS)]
    return [f"benchmark=[{','.join(files)}]", f"+{TASKS}=[{','.join(tasks)}]"]


def any_model(argument: str) -> list[str]:
    """`model=<hub id or folder>` works wherever `model=<shipped name>` does, several of them too.

    A hub id that a file of conf/model has is that file, with its prompts and stops. Any other path is quoted, so that
    it may have brackets or equals signs. Raises ValueError for a sweep over both kinds, which Hydra has no way to
    compose, and for a number in place of the name of a file.
    """
    group, _, names = argument.partition("=")
    if group in GROUPS and (names in ("true", "false") or _number(names)):
        raise ValueError(f"{argument} does not exist: choose a file of conf/{group}")
    if group != "model":
        return [argument]
    if not names:
        raise ValueError("model has no value: set it to a name of conf/model, a hub id, or the folder of a checkpoint")
    models = names.split(",")
    if any("/" in name for name in models):
        shipped = {name: _shipped_ids()[name] for name in models if name in _shipped_ids() and not Path(name).exists()}
        models = [shipped.get(name, name) for name in models]
        if shipped and any("/" in name for name in models):
            files = ", ".join(f"{name} is model={file}" for name, file in shipped.items())
            raise ValueError(f"{argument} mixes models with a file of conf/model and paths: run two sweeps ({files})")
    paths = [name for name in models if "/" in name or (Path(name).is_dir() and not _shipped(name))]
    if not paths:
        return [f"model={','.join(models)}"]
    if len(paths) < len(models):
        raise ValueError(f"{argument} mixes names of conf/model with paths: run two sweeps, or give each path a YAML")
    plain = re.compile(r"[\w./@:+~-]+")
    quoted = [path if plain.fullmatch(path) else "'" + path.replace("'", "\\'") + "'" for path in paths]
    return ["model=custom", f"model.path={','.join(quoted)}"]


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@cache
def shipped_paths() -> dict[str, str]:
    """The path in each file of conf/model that has one, by the file's name."""
    paths = {file.stem: re.search(r"^path: (\S+)", file.read_text(), re.M) for file in (CONF / "model").glob("*.yaml")}
    return {name: match[1] for name, match in paths.items() if match}


@cache
def _shipped_ids() -> dict[str, str]:
    """The files of conf/model by the hub id in each."""
    return {path: name for name, path in shipped_paths().items() if "/" in path}


def _shipped(name: str) -> bool:
    return (CONF / "model" / f"{name}.yaml").exists()
