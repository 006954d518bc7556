"""The records section of the page: the state of each cell, with links to its files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from losslab.config.log import printable
from losslab.launchers.status import CellStatus
from losslab.records.reading import score_files

ERROR_LINES = 30  # of a failed cell's error.txt


def cell_line(status: CellStatus, state: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The state of a cell with links to its records, relative to the folder `place` of the page."""
    folder = status.folder
    scores = [path.parent for path in score_files(folder)]
    of = {path: f" of {path.name}" if len(scores) > 1 else "" for path in scores}
    wanted = [
        *((f"samples{of[path]}", path / "samples.html") for path in scores),
        *((f"scores{of[path]}", path / "scores.json") for path in scores),
        ("configuration", folder / "config.yaml"),
        ("metrics", folder / "metrics.jsonl"),
        ("environment", folder / "environment.json"),
        ("error", folder / "error.txt"),
    ]
    error = ""
    if status.state == "failed" and (folder / "error.txt").exists():
        lines = (folder / "error.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        error = "\n".join(map(printable, lines[-ERROR_LINES:]))
    base = Path(os.path.relpath(folder, place))
    return {
        "name": folder.name,
        "href": quote(base.as_posix()) + "/",
        "state": status.state,
        "step": "" if status.step is None else f"{status.step}/{status.steps or '?'}",
        "note": printable(status.note),
        "error": error,
        "links": [
            (name, quote((base / path.relative_to(folder)).as_posix())) for name, path in wanted if path.exists()
        ],
        "updated": state.get("updated", "")[:16].replace("T", " "),
    }


def absent_line(folder: Path) -> dict[str, Any]:
    """The line of a declared cell that was not started."""
    empty = {"href": "", "step": "", "note": "", "error": "", "links": [], "updated": ""}
    return {"name": folder.name, "state": "not begun"} | empty
