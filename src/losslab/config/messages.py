"""Turns errors of a configuration into one sentence that says what to change."""

import difflib
import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from losslab.config.paths import CONF
from losslab.config.schema import Config

# Errors of a place that cannot be written to.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR)


def sentence(error: Exception) -> str:
    """An error of Hydra or OmegaConf as one sentence that says what to change."""
    cause = error.__cause__ or error
    text = str(cause)
    if match := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", str(error)):
        group, name = match.groups()
        # Of a list of names, such as benchmarks, the message has no options, but the folders of hydra.searchpath.
        folders = [CONF, *re.findall(r"path=file://(.+)$", str(error), re.M)]
        existing = re.findall(r"^\t(\S+)$", str(error), re.M) or sorted(
            {path.stem for folder in folders for path in Path(folder, group).glob("*.yaml")}
        )
        near = did_you_mean(name, existing)
        return f"{group}={name} does not exist{near}{' There' if near else '; there'} are {', '.join(existing)}"
    if match := re.search(r"full_key: hydra\.runtime\.choices\.(\S+)", text):
        return f"{match[1]} takes one name: write {match[1]}=NAME"
    if match := re.search(r"Key '([^']+)' (?:is )?not in .*?full_key: (\S+)", f"{text} {error}", re.S):
        key, full = match[1], match[2]
        return f"unknown key {full}{among(key, _siblings(cause, full))}{_to_add(full)}"
    if match := re.search(r"Could not override '([^']+)'", str(error)):
        near = among(match[1].split(".")[-1], _siblings(cause, match[1]))
        return f"unknown key {match[1]}{near}{_to_add(match[1])}"
    if match := re.search(r"Ambiguous value for argument '([^']+)'", str(error)):
        key, _, value = match[1].partition("=")
        quoted = f"'{key}=\"{value}\"'"
        return f"{match[1]} has several values: add -m to run a cell for each, or quote one with commas, as in {quoted}"
    if override := getattr(error, "override", None):  # of Hydra's grammar
        key, equals, value = override.partition("=")
        if not equals:
            return f"{key} cannot be read: write key=value"
        return f"{key}={value} cannot be read: quote the value, as in '{key}=\"{value}\"', or close its brackets"
    if match := re.search(r"field '(\S+)' is not Optional", text):
        return f"{match[1]} cannot be null: set it to a value, or leave it out"
    if match := re.search(r"missing mandatory value.*full_key: (\S+)", text, re.S):
        return f"{match[1]} has no value: set it"
    if match := re.search(r"(Invalid value|Value) (.*?)\n.*?full_key: (\S+)", text, re.S):
        return f"{match[3]}: {match[1].lower()} {match[2]}"
    if match := re.search(r"(.*?)\n.*?full_key: (\S+)", text, re.S):
        return f"{match[2]}: {match[1]}"
    return first_line(error)


def of_the_disk(error: OSError) -> str:
    """An OSError as one sentence that says what to do; errors of the network have no file."""
    if not error.strerror:
        return first_line(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}: raise ulimit -n, or end other programs with open files"
    advice = "make room there, or set machine.results" if error.errno in REFUSED else "check the path"
    return f"{error.filename or 'results'}: {error.strerror}: {advice}"


def did_you_mean(word: str, names: Any) -> str:
    close = difflib.get_close_matches(word, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def counted(number: int, what: str) -> str:
    """A number of things: 1 sample, 2 samples."""
    return f"{number} {what}{'s' * (number != 1)}"


def among(word: str, names: Any) -> str:
    """A suggestion, or the list of all names."""
    return did_you_mean(word, names) or (f"; there are {', '.join(names)}" if names else "")


def _siblings(error: BaseException, full_key: str) -> list[str]:
    """The valid keys in place of a wrong one: from the composed configuration if the error has it, else the schema."""
    node: Any = getattr(error, "parent_node", None)
    if not OmegaConf.is_dict(node):
        node = OmegaConf.structured(Config)
        for part in full_key.split(".")[:-1]:
            node = node.get(part) if OmegaConf.is_dict(node) and part in node else {}
    return [str(key) for key in node]


def _to_add(full_key: str) -> str:
    """How a new key is added where any may be: below one that the schema has as keys and values."""
    *groups, key = full_key.split(".")
    node: Any = OmegaConf.structured(Config)
    for part in groups:
        node = node.get(part) if OmegaConf.is_dict(node) and part in node else None
    free = len(groups) > 1 and OmegaConf.is_dict(node) and OmegaConf.get_type(node) is dict
    return f"; to add it, write '+{'.'.join(groups)}={{{key}: VALUE}}'" if free else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where it has none, or spaces alone."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def under_key(key: str, usual: str = "model.path") -> Iterator[None]:
    """Name `key` in place of the key that what is read has in most messages, in a ValueError of the block."""
    try:
        yield
    except ValueError as error:
        if usual not in str(error):
            raise
        raise ValueError(str(error).replace(usual, key)) from error
