"""docs/configuration.md from the schema and conf/: `make docs`."""

import re
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import EnumMeta
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

import losslab.composition.compose  # noqa: F401  (it tells Hydra of the schema)
from losslab.config import schema
from losslab.config.paths import CONF
from losslab.keys import LARGEST, limits

FILE = Path(__file__).with_name("configuration.md")
WHOLE = {
    "method": "A row of a table that is more than an objective: it may set all of the above together.",
    "experiment": "A whole sweep in a file, with the values it goes through.",
}
LOSS = (
    "The class that `_target_` names, and its parameters; [objectives.md](objectives.md) has the formulas. Objectives "
    "that are not in the table have no parameters."
)
LONGEST = 40  # characters of a default that is shown
HEAD = """# Configuration

Made from `src/losslab/config/schema.py`, `src/losslab/objectives` and `conf/` by `make docs`; a test fails when it is
stale.

A group is a folder of `conf/`, and `group=file` chooses one of its files; `group.key=value` changes one value. Defaults
are those of `python train.py` without any option. `null` means none. Most numbers have bounds, and a whole
number without a limit may be as large as 1,000,000,000. All that decides what is trained is part of a cell's identity.
`machine`, `tracker`, `sweep`, `eval`, `prompt`, `benchmark`, `stage`, `plan`, `check` and `force` are not part of it,
with one exception (`machine.grading_seconds`). Keys of `model` and `dataset` that only scoring or sampling reads are
not either, nor is a key that nothing reads beside the others ([results.md](results.md)).
"""


def values(hint: Any) -> str:
    """What a key may be, in words."""
    if isinstance(hint, UnionType):
        return " or ".join(values(part) for part in get_args(hint) if part is not type(None))
    if isinstance(hint, EnumMeta):
        return ", ".join(f"`{choice.value}`" for choice in hint)  # type: ignore[var-annotated]
    origin = get_origin(hint) or hint
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    return {str: "text", bool: "`true`, `false`", int: "whole number", float: "number", list: "list"}.get(
        origin, "keys"
    )


def bounds(field: Field) -> str:
    low, high = map(field.metadata.get, ("low", "high"))
    if low is None or high in (None, LARGEST):
        words = limits(field.metadata)
        return f", {words}" if words else ""
    low, high = (f"{bound:,}" if bound >= 10_000 else f"{bound:g}" for bound in (low, high))
    return f" from {low} to {high}"


def shown(value: Any) -> str:
    if value in ("???", MISSING):
        return ""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return "`…`" if len(text) > LONGEST or "\n" in text else f"`{text}`".replace("|", "\\|") if text else "empty"


def row(field: Field, hint: Any, key: str, default: str) -> str:
    meaning = field.metadata["meaning"].replace("|", "\\|").replace("<", "&lt;")
    return f"| `{key}` | {default} | {values(hint)}{bounds(field)} | {meaning} |"


def table(cls: type, prefix: str, defaults: Any) -> list[str]:
    hints, lines = get_type_hints(cls), ["| key | default | values | |", "|---|---|---|---|"]
    for field in fields(cls):
        if heading := field.metadata["heading"]:
            lines.append(f"| | | | *{heading}* |")
        default = shown(defaults.get(field.name, field.default if field.default is not MISSING else ""))
        lines.append(row(field, hints[field.name], f"{prefix}{field.name}", default))
    return lines


def parameters() -> list[str]:
    """The parameters of each objective, with the defaults of its file."""
    lines = ["| key | default | values | |", "|---|---|---|---|"]
    for file in sorted((CONF / "loss").glob("*.yaml")):
        loss = OmegaConf.load(file)
        cls = get_class(loss.pop("_target_"))
        if loss:
            lines += [f"| | | | *`loss={file.stem}`* |", *table(cls, "loss.", loss)[2:]]
    return lines


def launcher(name: str) -> list[str]:
    """The settings of a launcher from the comments of its YAML."""
    lines = ["| key | default | |", "|---|---|---|"]
    for line in (CONF / f"hydra/launcher/{name}.yaml").read_text().splitlines():
        if match := re.fullmatch(r"(\w+): (\S.*?)(?:\s+# (.*))?", line):
            key, value, comment = match.groups()
            lines.append(f"| `hydra.launcher.{key}` | `{value}` | {comment or ''} |")
    return lines


def text() -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose("config"), resolve=False)
    assert isinstance(composed, dict)
    hints, parts = get_type_hints(schema.Config), [HEAD]
    single = [name for name, hint in hints.items() if not is_dataclass(hint) and name not in ("loss", "benchmark")]
    lines = ["| key | default | values | |", "|---|---|---|---|"]
    for field in fields(schema.Config):
        if field.name in single:
            lines.append(row(field, hints[field.name], field.name, shown(composed[field.name])))
    parts.append("## The cell\n\n" + "\n".join(lines) + "\n")
    for name, hint in hints.items():
        if name in single or name == "names":
            continue
        files = sorted(path.stem for path in (CONF / name).glob("*.yaml"))
        part = f"## {name}\n\n" + (f"`{name}=` " + ", ".join(f"`{file}`" for file in files) + "\n\n" if files else "")
        if name == "loss":
            part += f"{LOSS}\n\n" + "\n".join(parameters()) + "\n"
        elif name == "benchmark":
            part += "A list, as in `'benchmark=[math500,aime24]'`. A file has the benchmark's name, and under it:\n\n"
            part += "\n".join(table(schema.BenchmarkConfig, "", {})) + "\n"
        else:
            doc = (hint.__doc__ or "").strip()
            part += f"{doc}\n\n" if doc and not doc.startswith(f"{hint.__name__}(") else ""
            part += "\n".join(table(hint, f"{name}.", composed[name])) + "\n"
        parts.append(part)
    for name, meaning in WHOLE.items():
        folder = CONF / name
        chosen = sorted(path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
        files = ", ".join(f"`{path}`" for path in sorted(chosen, key=lambda path: (len(path.parts), path)))
        parts.append(f"## {name}\n\n`{name}=` {files}\n\n{meaning}\n")
    for name in ("local", "slurm"):
        lines = "\n".join(launcher(name))
        parts.append(f"## hydra/launcher={name}\n\n{lines}\n\nThe guide is [slurm.md](slurm.md).\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"written: {FILE.name}")
