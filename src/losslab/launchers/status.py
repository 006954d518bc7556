"""The states of a sweep's cells, from files alone: their records, and the submissions to SLURM.

States: waiting (queued, or not started), running, to score (trained; its scoring is a separate job, which has not
started), scoring, preempted (stopped with a checkpoint and requeued), interrupted (stopped and not requeued), silent
(no heartbeat, as after a failure of its machine), cancelled (by a command, or by SLURM), failed, trained (stage=train),
done, damaged (its cell.json cannot be read).
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from losslab.config.log import printable
from losslab.launchers.slurm import Submission
from losslab.records.cell_records import CellRecord, cell_records
from losslab.records.lock import DEAD_AFTER_SECONDS, HOLDER
from losslab.records.reading import DamagedRecord, read_facts, read_metrics, read_scores, score_files

FINAL = ("done", "trained", "failed", "cancelled", "interrupted", "damaged")
STYLES = {
    "done": "green",
    "trained": "green",
    "failed": "red",
    "silent": "red",
    "damaged": "red",
    "running": "cyan",
    "scoring": "cyan",
    "preempted": "yellow",
}
REFRESH_SECONDS = 2.0
RECENT_STEPS = 20  # their mean time gives the remaining time


@dataclass(frozen=True)
class CellStatus:
    """The current status of a cell."""

    folder: Path
    state: str
    step: int | None
    steps: int | None
    loss: float | None
    seconds_left: float | None  # of training
    tries: str
    where: str  # SLURM job and machine
    note: str  # score, last line of the error, or what is wrong with a damaged file


@dataclass(frozen=True)
class Submitted:
    """A submission of the sweep, read once for all of its cells."""

    submission: Submission
    record: dict[str, Any]
    cells: dict[str, int]  # the number of each in the record, by the name of its folder


def submitted(sweep: str, results: str) -> list[Submitted]:
    """The submissions of a sweep, oldest first, without those whose file is damaged."""
    readable = []
    for submission in Submission.of(sweep, results):
        with suppress(ValueError, TypeError):
            record = submission.record
            cells = {Path(cell).name: number for number, cell in enumerate(record["cells"])}
            readable.append(Submitted(submission, record, cells))
    return readable


def status_of(record: CellRecord, submissions: Sequence[Submitted]) -> CellStatus:
    """The status of a cell; `submissions` are the sweep's."""
    folder, faults = record.folder, list(record.faults)

    def attempt(read: Any, path: Path, default: Any) -> Any:
        try:
            return read(path)
        except DamagedRecord as damage:
            faults.append(str(damage))
            return default

    holder = attempt(_read_holder, folder / HOLDER, {})
    recent = RECENT_STEPS if holder else 1
    rows = attempt(lambda path: read_metrics(path, recent), folder / "metrics.jsonl", [])
    steps = attempt(lambda path: read_facts(path, {"steps": int}), folder / "data.json", {}).get("steps")
    cell, mine = record.state, [submission for submission in submissions if folder.name in submission.cells]
    state = _state(folder, cell, mine)
    last = rows[-1] if rows else {}
    job, host = cell.get("job"), holder.get("node")
    tries = f"{cell.get('attempt', cell.get('attempts', 0))}" if cell.get("attempts") else ""
    if tries and cell.get("tries"):
        tries += f"/{cell['tries']}"
    note = ""
    if state == "failed":
        error = cell.get("error") or f"its job ended with status {died(folder, mine)}, see {folder / 'logs'}"
        note = (error.splitlines() or [""])[-1]
    elif state == "done":
        note = attempt(_scores, folder, "")
    elif state == "silent":
        note = "its process is gone or cannot write"
    elif state in ("cancelled", "interrupted"):
        _, note = stopped(folder, mine) or ("", "")
    note = "; ".join(filter(None, [note, *faults]))
    where = " on ".join(part for part in (job, host) if part)
    left = seconds_left(rows, steps) if state == "running" else None
    return CellStatus(folder, state, last.get("step"), steps, last.get("loss"), left, tries, where, note)


def seconds_left(rows: Sequence[dict[str, Any]], steps: int | None) -> float | None:
    """Remaining seconds of training, at the mean speed of the recent steps; None if unknown."""
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    if not seconds or steps is None:
        return None
    return statistics.fmean(seconds) * max(0, steps - rows[-1]["step"])


def _read_holder(path: Path) -> dict[str, Any]:
    return read_facts(path, {"node": str, "job": (str, NoneType)})


def _state(folder: Path, record: dict[str, Any], submissions: Sequence[Submitted]) -> str:
    recorded, holder = None if record.get("force") == "asked" else record.get("state"), folder / HOLDER
    with suppress(FileNotFoundError):  # the lock does not exist, or is released meanwhile
        if time.time() - holder.stat().st_mtime > DEAD_AFTER_SECONDS:
            return "failed" if died(folder, submissions) else "silent"
        return "scoring" if recorded == "scoring" else "running"
    if not record or recorded == "damaged":
        return "damaged"
    if recorded == "done" or not submissions:
        return recorded if recorded in FINAL else "silent" if recorded else "waiting"
    newest = submissions[-1].record
    if "cancelled" in newest:
        to_score = newest["launcher"]["separate_evaluation"]
        if recorded == "trained" and not to_score and newest["submitted"] <= record["updated"]:
            return "trained"
        return "failed" if recorded == "failed" else "cancelled"
    ended, _ = ("failed", "") if died(folder, submissions) else stopped(folder, submissions) or (None, "")
    if recorded is None or newest["submitted"] > record["updated"]:  # submitted again since
        return ended or "waiting"
    if recorded == "interrupted":
        return ended or "preempted"
    if recorded == "trained" and newest["launcher"]["separate_evaluation"]:
        return ended or "to score"
    if recorded in ("failed", "trained"):
        return recorded
    return ended or "silent"


def stopped(folder: Path, submissions: Sequence[Submitted]) -> tuple[str, str] | None:
    """State and reason of a cell whose last job was stopped and not requeued; `submissions` are those with it."""
    if not submissions:
        return None
    newest = submissions[-1]
    return newest.submission.stopped(newest.cells[folder.name])


def died(folder: Path, submissions: Sequence[Submitted]) -> int | None:
    """The exit status of the cell's last job if it is not 0; `submissions` are those with the cell."""
    if not submissions:
        return None
    newest = submissions[-1]
    return newest.submission.exit_status(newest.cells[folder.name])


def _scores(folder: Path) -> str:
    """The average score under each protocol, as text."""
    contents = [read_scores(path) for path in score_files(folder)]
    averages = [content["average"]["score"] for content in contents if "average" in content]
    return ", ".join(f"{average:.1f}" for average in averages)


def sweeps(records: Sequence[CellRecord]) -> dict[str, list[CellRecord]]:
    """The cells of each sweep, in the order in which they were declared."""
    members: dict[str, list[CellRecord]] = {}
    for record in sorted(records, key=lambda record: (record.state.get("declared", ""), record.folder)):
        for name in record.sweeps:
            members.setdefault(name, []).append(record)
    return members


def statuses(sweep: str, results: str, records: Sequence[CellRecord] | None = None) -> list[CellStatus]:
    """The status of each cell of a sweep. Raises ValueError if there is no such sweep."""
    members = sweeps(cell_records(results) if records is None else records)
    if sweep not in members:
        there = f"there are {', '.join(sorted(members))}" if members else "there is none"
        raise ValueError(f"no record of the sweep {sweep} under {results}: {there}")
    submissions = submitted(sweep, results)
    return [status_of(record, submissions) for record in members[sweep]]


def status_table(sweep: str, rows: Sequence[CellStatus]) -> Table:
    counts = Counter(row.state for row in rows)
    title = f"{sweep}: {len(rows)} cells, " + ", ".join(f"{number} {state}" for state, number in counts.items())
    out = Table(title=Text(printable(title)), title_justify="left")
    out.add_column("cell", overflow="fold")
    for name in ("state", "step", "loss", "left", "try", "job"):
        out.add_column(name, justify="left" if name in ("state", "job") else "right")
    out.add_column("score or error", overflow="fold")
    for row in rows:
        style = STYLES.get(row.state, "")
        step = "" if row.step is None else f"{row.step}/{row.steps or '?'}"
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        left = "" if row.seconds_left is None else duration(row.seconds_left)
        # printable(): errors and names may hold brackets or escape sequences.
        texts = [Text(printable(text)) for text in (step, loss, left, row.tries, row.where, row.note)]
        out.add_row(Text(printable(row.folder.name)), Text(row.state, style), *texts)
    return out


def duration(seconds: float) -> str:
    """4000 as 1h 06m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def show(names: list[str], results: str, watch: bool) -> None:
    """Print the named sweeps, or all; `watch` updates the view until no cell can change any more."""
    console = Console()
    if not watch:
        records = cell_records(results)
        for name in _chosen(names, records, results):
            console.print(status_table(name, statuses(name, results, records)))
        for record in records:
            for fault in record.faults if not record.sweeps else []:
                console.print(Text(f"damaged: {fault}"), soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        for view, over in _views(names, results):
            live.update(view, refresh=True)
            if over:
                return
            time.sleep(REFRESH_SECONDS)


def _chosen(names: list[str], records: Sequence[CellRecord], results: str) -> list[str]:
    """The named sweeps, else all. Raises ValueError if there is no record of any sweep."""
    chosen = names or sorted(sweeps(records))
    if not chosen and not any(record.faults for record in records):
        raise ValueError(f"no record of any sweep under {results}: run one first, or set results=FOLDER")
    return chosen


def _views(names: list[str], results: str) -> Iterator[tuple[Table, bool]]:
    while True:
        grid = Table.grid()
        records = cell_records(results)
        rows = {name: statuses(name, results, records) for name in _chosen(names, records, results)}
        for name, of_sweep in rows.items():
            grid.add_row(status_table(name, of_sweep))
        yield grid, all(row.state in FINAL for of_sweep in rows.values() for row in of_sweep)
