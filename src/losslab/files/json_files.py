"""JSON files, and files of JSON lines whose last one may be incomplete after a kill."""

import json
import os
from pathlib import Path
from typing import Any

from losslab.config.masking import masked
from losslab.files.atomic import write


def write_json(path: Path, value: Any, mode: int = 0o666) -> None:
    write(path, to_text(value), mode)


def to_text(value: Any) -> str:
    return json.dumps(value, indent=1, default=str) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, or `{}` if it does not exist. Raises ValueError if it is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (not a JSON object): remove it")
    return content


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, without an incomplete last line. Raises ValueError on any other damaged line."""
    whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    rows = []
    for number, line in enumerate(whole, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}:{number}: this line is damaged; remove it, and repeat the command") from None
    return rows


def append_line(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(masked(json.dumps(row) + "\n"))


def mend(path: Path) -> None:
    """Cut off an incomplete last line, before more is appended."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
