"""Reading of record files, which may be damaged, of an older losslab, or written by a stranger.

A reader returns what a file holds in the form of the newest version, or raises `DamagedRecord` with one line that names
the file and the fault. Whoever shows records continues without that file and marks its cell.
"""

import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from losslab.config.log import printable
from losslab.files.record_names import RECORD_VERSION

LONGEST = 1 << 20  # bytes of a configuration or protocol; ours have a hundredth of that
BLOCK = 1 << 13  # bytes that are read at once from the end of a file
NUMBER = (int, float)
NAMES = {"model": str, "dataset": str, "loss": str, "eval": str}
# The form of each file: types, lists of one form, or forms by key; those after `may` can be missing.
CELL = {"names": NAMES, "seed": int, "sweeps": [str], "declared": str, "updated": str}
CELL_MAY = {
    "identity": str, "recipe": str, "state": str, "error": (str, NoneType), "attempts": int, "attempt": int,
    "tries": (int, NoneType), "job": (str, NoneType), "methods": {...: str}, "tunes": {...: str}, "force": str,
    "devices": int, "training_seconds": NUMBER, "training_device_seconds": NUMBER, "scoring_seconds": NUMBER,
}  # fmt: skip
BENCHMARK = {"score": NUMBER}
BENCHMARK_MAY = {
    "problems": int, "questions": int, "samples": int, "interval": ([NUMBER], NoneType), "mean_tokens": NUMBER,
    "originals": [str],
    "breakdown": {...: {...: {"problems": int, "score": NUMBER, "interval": ([NUMBER], NoneType)}}},
}  # fmt: skip


class DamagedRecord(ValueError):
    """A file of a record that cannot be used: its path and what is wrong, in one printable line."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(printable(f"{path}: {fault}"))


# --- JSON


def read_cell(path: Path) -> dict[str, Any]:
    """The content of a cell.json; `{}` where the file does not exist."""
    return _versioned(path, CELL, CELL_MAY)


def score_files(folder: Path) -> list[Path]:
    """The scores.json of a cell under each protocol, in the order of their names."""
    try:
        protocols = sorted(entry.name for entry in os.scandir(folder / "scores"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    files = (folder / "scores" / name / "scores.json" for name in protocols)
    return [file for file in files if file.is_file()]


def read_scores(path: Path) -> dict[str, Any]:
    """The content of a scores.json: `verdict`, `benchmarks`, `average` and more."""
    engine = {"engine": str, "engine_version": str, "endpoint": (str, NoneType), "generation": dict}
    graders = {"graders": {...: (str, NoneType)}}  # of all benchmarks but the tasks of lm_eval
    may = {"verdict": str, "prompt": str, "warnings": [str], "average": {"score": NUMBER}} | engine | graders
    content = _versioned(path, {"benchmarks": dict}, may)
    for name, part in content["benchmarks"].items():
        where = f"benchmarks.{name}"
        if isinstance(part, dict) and isinstance(part.get("interval"), list):  # version 0 had infinite ones
            edges = part["interval"]
            ok = len(edges) == 2 and all(isinstance(edge, float | int) and math.isfinite(edge) for edge in edges)
            part["interval"] = edges if ok else None
        check_form(path, part, BENCHMARK, BENCHMARK_MAY, where)
    if content.get("verdict", "official") not in ("official", "corrected"):
        raise DamagedRecord(path, f"verdict is {content['verdict']!r}, neither official nor corrected")
    return content


def read_facts(path: Path, may: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of another JSON file of a record, `{}` where it does not exist; `may` has the form of each key."""
    return _versioned(path, {}, may or {})


def _versioned(path: Path, form: Mapping[str, Any], may: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DamagedRecord(path, f"cannot be read ({error.strerror})") from None
    if not text.strip():
        raise DamagedRecord(path, "is empty")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(path, f"is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise DamagedRecord(path, "holds no JSON object")
    version = content.get("version", 0)
    if type(version) is not int or version > RECORD_VERSION:
        raise DamagedRecord(path, f"is of version {version}, and this losslab reads up to {RECORD_VERSION}: update it")
    check_form(path, content, form, may)
    return content


def check_form(
    path: Path, content: Any, form: Mapping[str, Any], may: Mapping[str, Any] | None = None, where: str = ""
) -> None:
    """Raise DamagedRecord where the content has another form."""
    if not isinstance(content, dict):
        raise DamagedRecord(path, f"{where} is {short(content)}, not an object")
    for key, wanted in [*form.items(), *(may or {}).items()]:
        name = f"{where}.{key}" if where else str(key)
        if key is ...:
            for part, value in content.items():
                _check_value(path, value, wanted, f"{where}.{part}")
        elif key in content:
            _check_value(path, content[key], wanted, name)
        elif key in form:
            raise DamagedRecord(path, f"lacks {name}")


def _check_value(path: Path, value: Any, wanted: Any, where: str) -> None:
    kind = type(value)
    if kind is wanted and kind is not float and kind is not dict:  # most of them
        return
    options = wanted if isinstance(wanted, tuple) else (wanted,)
    for option in options:
        if isinstance(option, type) and isinstance(value, option):
            if option is bool or not isinstance(value, float | int):
                return
            if kind is int or (isinstance(value, float) and math.isfinite(value)):  # True is not a number
                return
        if isinstance(option, list) and isinstance(value, list):
            for i, part in enumerate(value):
                _check_value(path, part, option[0], f"{where}[{i}]")
            return
        if isinstance(option, dict) and isinstance(value, dict):
            check_form(path, value, option, where=where)
            return
    raise DamagedRecord(path, f"{where} is {short(value)}, not {' or '.join(map(_kind, options))}")


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(option: Any) -> str:
    if isinstance(option, list | dict):
        return "a list" if isinstance(option, list) else "an object"
    return {int: "a number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}.get(
        option, "an object"
    )


# --- JSON lines


def last_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """Up to `count` last rows of a JSON-lines file, read from its end; a last line that a kill tore is left out."""
    try:
        with path.open("rb") as file:
            left = file.seek(0, os.SEEK_END)
            tail = b""
            while left and tail.count(b"\n") <= count:
                size = min(BLOCK, left)
                left = file.seek(left - size)
                tail = file.read(size) + tail
    except FileNotFoundError:
        return []
    lines = tail.split(b"\n")[:-1]
    return [_row(path, line, "near the end") for line in lines[-count:]]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; a last line that a kill tore is left out."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    try:  # all at once, which takes half the time
        rows = json.loads(b"[" + b",".join(lines) + b"]")
        if len(rows) == len(lines) and all(isinstance(row, dict) for row in rows):
            return rows
    except (ValueError, RecursionError):
        pass
    return [_row(path, line, f"line {number}") for number, line in enumerate(lines, start=1)]


def first_rows(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """Up to `count` first rows of a JSON-lines file."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(itertools.islice(file, count), start=1):
                if line.endswith(b"\n"):
                    yield _row(path, line, f"line {number}")
    except FileNotFoundError:
        return


def _row(path: Path, line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DamagedRecord(path, f"{where} is damaged")
    return row


def read_metrics(path: Path, last: int | None = None) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, the `last` ones or all; each has the number of its `step`.

    Values other than finite numbers, or lists of them, are left out of a row.
    """
    rows = read_rows(path) if last is None else last_rows(path, last)
    for row in rows:
        if type(row.get("step")) is not int:
            raise DamagedRecord(path, f"a row has the step {short(row.get('step'))}, not a number")
        for key in [key for key, value in row.items() if not _numeric(value)]:
            del row[key]
    return rows


def _numeric(value: Any) -> bool:
    if isinstance(value, float | int):
        return math.isfinite(value)
    return isinstance(value, list) and all(isinstance(part, float | int) for part in value)


# --- YAML


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a config.yaml or protocol.yaml; not to be changed, since files share the parts that are alike.

    OmegaConf writes block mappings, whose top-level sections (`model:` with the indented lines below it) can be read
    one by one. The cells of a sweep differ in few of them, so that thousands of files are read at the speed of one.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise DamagedRecord(path, "is missing") from None
    except UnicodeDecodeError:
        raise DamagedRecord(path, "is not UTF-8 text") from None
    except OSError as error:
        raise DamagedRecord(path, f"cannot be read ({error.strerror})") from None
    if len(content) > LONGEST:
        raise DamagedRecord(path, f"has more than {LONGEST:,} bytes")
    mapping: dict[str, Any] = {}
    try:
        for section in re.split(r"(?m)^(?=[^\s#-])", text) if not text.startswith("{") else [text]:
            if section.strip():
                mapping |= _parse(section)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise DamagedRecord(path, f"is not a YAML mapping ({' '.join(str(error).split())})") from None
    if not mapping:
        raise DamagedRecord(path, "is empty")
    return mapping


@lru_cache(maxsize=8192)
def _parse(text: str) -> dict[str, Any]:
    """A YAML mapping without aliases, with which a few bytes could stand for gigabytes."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.CSafeLoader)):
        raise ValueError("it has aliases")
    content = yaml.load(text, Loader=yaml.CSafeLoader)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"it holds {short(content)}")
    return content
