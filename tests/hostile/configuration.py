"""Values of every key of the configuration, by its type and bounds, through `plan`."""

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hostile.case import Case
from hostile.entry import command
from hostile.values import FLOATS, INTEGERS, draw, texts
from losslab.config.schema import Config

SKIPPED = {"machine.results", "plan"}  # where a user's own records go is the user's word
GROUPS = ("model", "dataset", "loss", "adapter", "optimizer", "scheduler", "train", "eval", "benchmark", "tracker",
          "machine", "experiment", "method")  # fmt: skip
SMALL = ("benchmark=[tiny_add]", "machine.device=cpu", "tracker=none", "plan=true")


def leaves(cls: type = Config, path: str = "") -> Iterator[tuple[str, object]]:
    """The keys of the schema and their types."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key, hint = f"{path}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from leaves(typing.cast(type, hint), f"{key}.")
        elif key not in SKIPPED and not key.startswith("names."):
            yield key, hint


def values(hint: object) -> SearchStrategy[str]:
    """Hostile values of a type, as they are written on a command line."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of([values(part) for part in typing.get_args(hint) if part is not type(None)]) | st.just("null")
    numbers = st.sampled_from([*map(str, INTEGERS), *FLOATS])
    if hint is bool:
        return st.sampled_from(["null", "2", "yes", "maybe", "[]"]) | texts()
    if hint is int or hint is float:
        return numbers | st.sampled_from(["null", "[1]", "{}", "1,2", "one"]) | texts()
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return texts() | st.sampled_from(["null", "[]", "AUTO"])
    if typing.get_origin(hint) is list:
        return st.sampled_from(["null", "[]", "[null]", "[[]]", "[1,{a:2}]", "{}", "[a,b"]) | texts()
    if typing.get_origin(hint) is dict:
        return st.sampled_from(["null", "[]", "{}", "{a: {b: 1}}", "{_target_: os.system}", "3"]) | texts()
    return texts()


def cases(count: int, model: Path, rows: Path) -> list[Case]:
    """Of every key its share, of the groups, and of keys that are none."""
    keys = list(leaves())
    share = max(1, round(0.8 * count / len(keys)))
    settings = [
        (key, f"{key}={value}")
        for number, (key, hint) in enumerate(keys)
        for value in draw(values(hint), share, number)
    ]
    rest = max(0, count - len(settings))
    settings += [
        (name, f"{name}={value}") for name, value in draw(st.tuples(st.sampled_from(GROUPS), texts()), rest // 2)
    ]
    key_names = [key for key, _ in keys]
    wrong = st.tuples(
        st.sampled_from(["", "+", "~", "++"]),
        st.sampled_from(key_names),
        st.sampled_from(["x", ".x", "..", "[0]", "@a"]),
    )
    settings += [(key, f"{sign}{key}{more}=1") for sign, key, more in draw(wrong, rest - rest // 2)]
    return [make(key, setting, model, rows) for key, setting in settings]


def make(key: str, setting: str, model: Path, rows: Path) -> Case:
    base = [f"model={model}", "dataset=file", f"dataset.path={rows}", *SMALL]
    name = setting.lstrip("+~").partition("=")[0]
    alone = [argument for argument in base if not argument.startswith((f"{name}=", f"{key}="))]
    last = key.split(".")[-1]
    value = setting.partition("=")[2]
    # A value that is no number has no place where only finite numbers are, and no key is unknown and taken.
    refuse = value == "nan" or (value in ("-1", "-1.0", "-inf") and dict(leaves()).get(key) in (int, float))
    # What cannot be parsed is named as it was written.
    names = tuple(filter(None, (key, last, name, setting[:40])))
    return Case("configuration", setting[:120], command("train", *alone, setting), names, refuse=refuse)
