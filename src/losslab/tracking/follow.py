"""Runs the tracker in a separate process, so that it cannot disturb the run.

The run writes records; the process reads them while they grow and sends them to the tracker that `tracker=` names. If
it fails or hangs, the run continues, and `python -m losslab.tracking.follow CELL/tracker.json </dev/null` sends the
records again.
"""

import netrc
import os
import secrets
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from losslab.config.choices import TrackerMode, TrackerName
from losslab.config.log import log
from losslab.config.machine import TrackerConfig
from losslab.config.masking import masked
from losslab.config.messages import first_line
from losslab.config.schema import Config
from losslab.config.sweep import SweepConfig
from losslab.files.json_files import read_json, write_json
from losslab.files.locks import lock
from losslab.records.record import Cell

ERROR = "error: "
PATIENCE_SECONDS = 60.0  # how long a finished cell waits for its tracker
POLL_SECONDS = 2.0


@contextmanager
def follow(config: Config, cell: Cell) -> Iterator[None]:
    """Follow the cell in the tracker while the block runs, and log its final state afterwards."""
    if resolve(config.tracker) == TrackerMode.disabled:
        yield
        return
    arguments = [sys.executable, "-P", "-m", "losslab.tracking.follow", str(cell.folder / "tracker.json")]
    try:
        write_json(cell.folder / "tracker.json", order(config, cell))
        with (cell.folder / "tracker.log").open("a") as file:
            process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
            )
    except OSError as error:
        log.warning(f"the tracker does not start: {error}")
        yield
        return
    patience = 1.0  # a run that is asked to stop does not wait
    try:
        yield
        patience = PATIENCE_SECONDS
    finally:
        try:
            process.communicate(timeout=patience)  # closes its standard input: the records are complete
            outcome = "failed" if process.returncode else ""
        except subprocess.TimeoutExpired:
            process.kill()
            outcome = "did not finish"
        if outcome:
            path = cell.folder / "tracker.log"
            log.warning(f"the tracker {outcome} ({reason(path)}); the records are complete, see {path}")


def reason(log: Path) -> str:
    """Why a tracker ended, from its log: the last error that `main` wrote, or the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (errors or lines or ["its log is empty"])[-1]


def resolve(tracker: TrackerConfig) -> TrackerMode:
    """The mode of a tracker: W&B's `auto` is online with a login, and offline without."""
    if tracker.name == TrackerName.none:
        return TrackerMode.disabled
    if tracker.name == TrackerName.tensorboard:
        return TrackerMode.offline
    if tracker.mode != TrackerMode.auto:
        return tracker.mode
    if (wanted := os.environ.get("WANDB_MODE")) in ("online", "offline", "disabled"):
        return TrackerMode(wanted)
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname or "api.wandb.ai"  # a server of one's own
    try:
        logged_in = netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        logged_in = False
    return TrackerMode.online if logged_in or os.environ.get("WANDB_API_KEY") else TrackerMode.offline


def hint(config: Config) -> str:
    """The command that shows or uploads offline runs; empty if there are none."""
    results, name = config.machine.results, config.sweep.name
    if resolve(config.tracker) != TrackerMode.offline:
        return ""
    if config.tracker.name == TrackerName.tensorboard:
        return f"curves:  tensorboard --logdir {results}"
    places = " ".join(f"{results}/{part}/wandb/offline-run-*" for part in ("cells/*", f"tables/{name}"))
    return f"W&B:     offline; to upload it: wandb sync {places}"


def order(config: Config, cell: Cell) -> dict[str, Any]:
    """What the tracker's process is to do, as JSON.

    The id of a run depends on the cell, on its `life`, which changes with `force`, and on the protocol of its scores;
    that of a sweep's table on its folder.
    """
    scores, names, results = cell.scores(config), config.names, Path(config.machine.results)
    benchmarks = list(config.benchmark)
    table = results / "tables" / config.sweep.name
    common = {
        "group": config.sweep.name,
        "project": config.tracker.project,
        "entity": config.tracker.entity,
        "mode": str(resolve(config.tracker)),
    }
    life = read_json(cell.folder / "tracker.json").get("life") or secrets.token_hex(4)
    of_cell = {
        "folder": str(cell.folder),
        "part": scores.name,
        "id": f"{cell.identity[:8]}-{life}-{scores.name.rsplit('-', 1)[-1]}",
        "name": cell.folder.name,
        "job_type": "train" if config.trains else "eval",
        "tags": list(dict.fromkeys(filter(None, [config.sweep.name, *asdict(replace(names, sampled="")).values()]))),
        "config": asdict(config),
        "scores": [f"scores/{name}" for name in [*benchmarks, "average"]],
    }
    of_sweep = {
        "folder": str(table),
        "part": "table",
        "name": f"table of {config.sweep.name}",
        "job_type": "table",
        "tags": [config.sweep.name],
        "config": {},
        "scores": [],
    }
    return {
        "tracker": str(config.tracker.name),
        "life": life,
        "scores": str(scores),
        "benchmarks": benchmarks,
        "trains": config.trains,
        "checkpoints": config.tracker.checkpoints,
        "sweep": asdict(config.sweep),
        "results": str(results),
        "cell": common | of_cell,
        "table": common | of_sweep,
    }


def report(order: dict[str, Any], finished: Callable[[], bool]) -> None:
    """Log the records of a cell as they grow, until `finished()`; then its final values."""
    from losslab.tracking import About, content, start

    cell, scores = Cell.at(Path(order["cell"]["folder"])), Path(order["scores"])
    tracker = start(TrackerName(order["tracker"]), About(**order["cell"]))
    after = tracker.after
    while True:
        last = finished()  # before the records are read, so that nothing is written after the last reading
        for entry in content.entries(cell, scores, order["benchmarks"], order["trains"], after, tracker.scores):
            tracker.log(entry)
            after = entry.number
        if last:
            break
        time.sleep(POLL_SECONDS)
    summary = content.summary(cell, scores)
    if order["checkpoints"] and cell.model.exists():
        tracker.checkpoint(cell.model, cell.state()["names"] | summary)
    tracker.finish(summary)


def report_table(order: dict[str, Any]) -> None:
    """Log the current table of the cell's sweep, always in the same separate run."""
    from losslab.results import conclusion_text, tables
    from losslab.results.conclusion import conclude
    from losslab.tracking import About, Entry, content, start

    folder = Path(order["table"]["folder"])
    with lock(Path(order["results"]) / "cache" / "trackers" / folder.name, quiet=True):
        run = read_json(folder / "tracker.json").get("id") or f"table-{secrets.token_hex(8)}"
        write_json(folder / "tracker.json", {"id": run})
        table = tables.build(SweepConfig(**order["sweep"]), order["results"])
        tracker = start(TrackerName(order["tracker"]), About(id=run, **order["table"]))
        number = tracker.after + 1
        tracker.log(Entry(number, number, tables={"table": content.ablation(table)}))
        cells = [entry for row in table.rows for entry in row.entries]
        scored = sum(bool(entry.scores) for entry in cells)
        conclusion = conclusion_text.text(conclude(table))
        about = {"question": table.question, "cells": len(cells), "scored": scored}
        tracker.finish(about | ({"conclusion": conclusion} if conclusion else {}))


def main() -> None:
    """Follow the cell that a file describes, until standard input is closed."""
    import threading

    path = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if path is None or not path.is_file():
        sys.exit("error: give an existing file: python -m losslab.tracking.follow CELL/tracker.json </dev/null")
    order = read_json(path)
    closed = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    try:
        report(order, closed.is_set)
        report_table(order)
    except Exception as error:  # of any kind that a tracker raises
        traceback.print_exc()
        sys.exit(masked(f"{ERROR}{order['tracker']}: {first_line(error)}"))  # `reason` finds this line


if __name__ == "__main__":
    main()
