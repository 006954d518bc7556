"""How a sweep stands, from files alone: what its cells have recorded, and what was submitted.

States: waiting (in the queue, or not begun), running, to score (trained; its scoring is another job, which has not
begun), scoring, preempted (left with a checkpoint, and back in the queue), interrupted (left, and nobody starts it
again), silent (no sign of life, as after the death of its machine), cancelled, failed, trained (nobody asked for its
scores), done.
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from losslab.files import read_json, read_lines
from losslab.launchers.slurm import Submission, submit
from losslab.records.lock import DEAD_AFTER_SECONDS, HOLDER

FINAL = ("done", "trained", "failed", "cancelled", "interrupted")
STYLES = {
    "done": "green",
    "trained": "green",
    "failed": "red",
    "silent": "red",
    "running": "cyan",
    "scoring": "cyan",
    "preempted": "yellow",
}
REFRESH_SECONDS = 2.0
RECENT_STEPS = 20  # whose mean time gives the time that is left


@dataclass(frozen=True)
class Status:
    """A cell as it stands now."""

    folder: Path
    state: str
    step: int | None
    steps: int | None
    loss: float | None
    seconds_left: float | None  # of training
    tries: str
    where: str  # SLURM job and machine
    note: str  # score or last line of the error


def of(folder: Path, submissions: list[Submission]) -> Status:
    """The status of a cell's folder; `submissions` are the sweep's."""
    record = read_json(folder / "cell.json")
    state = _state(folder, record, submissions)
    rows = read_lines(folder / "metrics.jsonl")
    last = rows[-1] if rows else {}
    steps = read_json(folder / "data.json").get("steps")
    left = None
    if state == "running" and rows and steps:
        left = statistics.fmean(row["seconds"] for row in rows[-RECENT_STEPS:]) * (steps - last["step"])
    holder = read_json(folder / HOLDER)
    job, host = record.get("job"), holder.get("node")
    tries = f"{record.get('attempt', record.get('attempts', 0))}" if record.get("attempts") else ""
    if tries and record.get("tries"):
        tries += f"/{record['tries']}"
    note = ""
    if state == "failed":
        code = died(folder, submissions)
        note = str(record.get("error") or f"its job ended with status {code}, see {folder / 'logs'}").splitlines()[-1]
    elif state == "done":
        note = _score(folder)
    elif state == "silent":
        note = "its process is gone or cannot write"
    where = " on ".join(part for part in (job, host) if part)
    return Status(folder, state, last.get("step"), steps, last.get("loss"), left, tries, where, note)


def _state(folder: Path, record: dict[str, Any], submissions: list[Submission]) -> str:
    own, holder = None if record.get("force") == "asked" else record.get("state"), folder / HOLDER
    queued = [one.record for one in submissions if folder.name in map(_name, one.record["cells"])]
    age = 0.0
    if holder.exists():
        with suppress(FileNotFoundError):  # it may end meanwhile
            age = time.time() - holder.stat().st_mtime
        if age > DEAD_AFTER_SECONDS:
            return "failed" if died(folder, submissions) else "silent"
        return "scoring" if own == "scoring" else "running"
    if own == "done" or not queued:
        return own if own in FINAL else "silent" if own else "waiting"
    if "cancelled" in queued[-1]:
        return "failed" if own == "failed" else "cancelled"
    if own is None or queued[-1]["submitted"] > record["updated"]:  # submitted again since
        return "failed" if died(folder, submissions) else "waiting"
    if own == "interrupted":
        return "preempted"
    if own == "trained" and queued[-1]["launcher"]["separate_evaluation"]:
        return "failed" if died(folder, submissions) else "to score"
    if own in ("failed", "trained"):
        return own
    return "failed" if died(folder, submissions) else "silent"


def died(folder: Path, submissions: list[Submission]) -> int | None:
    """The exit status of the cell's last job, where that is not 0."""
    statuses = [one.exit_status(folder.name) for one in submissions if folder.name in map(_name, one.record["cells"])]
    return statuses[-1] if statuses else None


def _name(cell: str) -> str:
    return Path(cell).name


def _score(folder: Path) -> str:
    found = [read_json(path) for path in sorted(folder.glob("scores/*/scores.json"))]
    return ", ".join(f"{one['average']['score']:.1f}" for one in found if "average" in one)


def sweeps(results: str) -> dict[str, list[Path]]:
    """The folders of the cells of each sweep, in the order in which they were asked for."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for path in sorted(Path(results).glob("cells/*/cell.json")):
        record = read_json(path)
        for name in record.get("sweeps", []):
            found.setdefault(name, []).append((record["declared"], path.parent))
    return {name: [folder for _, folder in sorted(cells)] for name, cells in found.items()}


def statuses(sweep: str, results: str) -> list[Status]:
    """The cells of a sweep. ValueError when there is no such sweep."""
    known = sweeps(results)
    if sweep not in known:
        there = f"there are {', '.join(sorted(known))}" if known else "there is none"
        raise ValueError(f"no record of the sweep {sweep} under {results}: {there}")
    submissions = Submission.of(sweep, results)
    return [of(folder, submissions) for folder in known[sweep]]


def table(sweep: str, rows: list[Status]) -> Table:
    counts = Counter(row.state for row in rows)
    title = f"{sweep}: {len(rows)} cells, " + ", ".join(f"{number} {state}" for state, number in counts.items())
    out = Table(title=Text(title), title_justify="left")
    out.add_column("cell", overflow="fold")
    for name in ("state", "step", "loss", "left", "try", "job"):
        out.add_column(name, justify="left" if name in ("state", "job") else "right")
    out.add_column("score or error", overflow="fold")
    for row in rows:
        style = STYLES.get(row.state, "")
        step = "" if row.step is None else f"{row.step}/{row.steps or '?'}"
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        left = "" if row.seconds_left is None else duration(row.seconds_left)
        texts = (step, loss, left, row.tries, row.where, row.note)  # of errors too, which may hold brackets
        out.add_row(Text(row.folder.name), Text(row.state, style), *map(Text, texts))
    return out


def duration(seconds: float) -> str:
    """4000 as 1h 07m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def show(names: list[str], results: str, watch: bool) -> None:
    """Print sweeps, all of them where none is named; `watch` follows them until no cell can change any more."""
    chosen = names or sorted(sweeps(results))
    if not chosen:
        raise ValueError(f"no record of any sweep under {results}: run one first, or set results=FOLDER")
    console = Console()
    if not watch:
        for name in chosen:
            console.print(table(name, statuses(name, results)))
        return
    with Live(console=console, auto_refresh=False) as live:
        for view, over in _views(chosen, results):
            live.update(view, refresh=True)
            if over:
                return
            time.sleep(REFRESH_SECONDS)


def _views(names: list[str], results: str) -> Iterator[tuple[Table, bool]]:
    while True:
        grid = Table.grid()
        rows = {name: statuses(name, results) for name in names}
        for name, own in rows.items():
            grid.add_row(table(name, own))
        yield grid, all(row.state in FINAL for own in rows.values() for row in own)


def retry(sweep: str, results: str) -> None:
    """Submit the cells that failed, were cancelled or fell silent again. ValueError when there is none."""
    submissions = [submission for submission in Submission.of(sweep, results) if submission.is_mine]
    again = [row.folder.name for row in statuses(sweep, results) if row.state in ("failed", "cancelled", "silent")]
    known = {Path(cell).name: (cell, own) for one in submissions for cell, own in one.record["cells"].items()}
    cells = dict(known[name] for name in again if name in known)
    if not cells:
        raise ValueError(f"no cell of {sweep} that was submitted to SLURM has failed: there is nothing to retry")
    submit(sweep, cells, submissions[-1].record["launcher"], Path(results))
