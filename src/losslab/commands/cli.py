"""Which objective should I fine-tune a language model with? Run the ablation, read its table.

losslab VERB [NAME ...] [key=value ...]     losslab VERB --help says more
Completion of names and values by Tab in bash:  eval "$(losslab -sc install=bash)"
"""

import ast
import importlib
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import fill

from losslab.config.errors import exit_on_error
from losslab.config.paths import CONF, EXPERIMENTS

VERBS = (
    "data", "train", "plan", "sample", "evaluate", "regrade", "judge", "compare",
    "race", "probe", "table", "report", "status", "forget", "export", "push", "toy-suite", "code-toolchains", "env",
)  # fmt: skip
HYDRA = ("data", "train", "plan", "sample", "evaluate", "probe")  # these take the keys of conf/, completed by Hydra
SWEEPS = ("train", "plan", "race", "probe", "evaluate")  # several values of a key make a row each
COMPLETION = ("-sc", "--shell-completion")
HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb with its arguments, those of the process if none are given; end with its exit status if not 0."""
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or HELP
    with exit_on_error():
        if verb in COMPLETION:
            complete(rest)
        elif verb in HELP:
            print(f"{docstring(Path(__file__))}\n")
            for name in VERBS:
                print(f"  {name:15} {docstring(module(name)).splitlines()[0]}")
        elif verb not in VERBS:
            from losslab.config.messages import among

            raise ValueError(f"there is no verb {verb}{among(verb, VERBS)}")
        elif set(HELP) & set(rest):
            print(docstring(module(verb)).replace("{groups}", groups(rest)))
        else:
            from losslab.composition.check_unread import CHECKED
            from losslab.composition.words import check_twice

            if CHECKED not in os.environ:  # losslab made this command: of two words for a key the last one counts
                check_twice(rest, sweeps=verb in SWEEPS)
            if status := importlib.import_module(f"losslab.commands.{module(verb).stem}").main(rest):
                sys.exit(status)


def module(verb: str) -> Path:
    """The file of a verb. Its usage is read from there, since an import may take seconds."""
    return Path(__file__).with_name(f"{verb.replace('-', '_')}.py")


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def groups(arguments: Sequence[str]) -> str:
    """The files of conf/ and of the folders that hydra.searchpath names, a line for each group."""
    names: dict[str, set[str]] = {}
    given = ",".join(part.partition("=")[2].strip("[]") for part in arguments if part.startswith("hydra.searchpath="))
    folders = [Path(part.strip("'\" ").removeprefix("file://")) for part in given.split(",")] if given else []
    places = [path for folder in (CONF, *folders) if folder.is_dir() for path in folder.iterdir() if path.is_dir()]
    for group, folder in [*((path.name, path) for path in places), ("experiment", EXPERIMENTS)]:
        for file in folder.rglob("*.yaml"):
            names.setdefault("/".join([group, *file.relative_to(folder).parent.parts]), set()).add(file.stem)
    lines = (f"{group}: {', '.join(sorted(files))}" for group, files in sorted(names.items()))
    return "\n".join(fill(line, 116, initial_indent="  ", subsequent_indent=8 * " ") for line in lines)


def complete(arguments: list[str]) -> None:
    """Print bash's completion function, which Hydra writes, or the candidates for the line in COMP_LINE."""
    from losslab.composition.compose import entry

    if not any(argument.startswith("query=") for argument in arguments):
        entry("", ["-sc", *arguments])
        return
    program, _, rest = os.environ["COMP_LINE"].partition(" ")
    verb, blank, keys = rest.lstrip().partition(" ")
    if not blank:
        print(" ".join(VERBS))
    elif verb in HYDRA:
        os.environ["COMP_LINE"] = f"{program} {keys}"
        entry("", ["-sc", *arguments])


def parse(arguments: Sequence[str], options: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """The command line as names, and values by key. Raises ValueError for a key that is not in `options`."""
    from losslab.config.messages import among

    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise ValueError(f"{argument} is not an option: options are written key=value; --help lists them")
        if equals and key not in options:
            raise ValueError(f"unknown option {key}{among(key, options)}")
        if equals:
            values[key] = value
    return [argument for argument in arguments if "=" not in argument], values


def flag(values: dict[str, str], key: str, default: bool = False) -> bool:
    """The value of an option that is true or false. ValueError for another one."""
    if (value := values.get(key, str(default).lower())) not in ("true", "false"):
        raise ValueError(f"{key}={value} is neither true nor false")
    return value == "true"
