"""W&B beside the run, never in its way.

The run writes records; a process of its own reads them and reports to W&B while they grow. Should it fail or hang,
the run does not notice, and `python -m losslab.tracking CELL/tracker.json </dev/null` reports the records again.
"""

import netrc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from losslab.files import read_json, read_lines, write_json
from losslab.records import Cell
from losslab.schema import Config, TrackerMode

PATIENCE_SECONDS = 60.0  # that a finished cell waits for its tracker
SAMPLES = 50  # problems of each benchmark in the table of samples


@contextmanager
def follow(config: Config, cell: Cell) -> Iterator[None]:
    """Report the cell to the tracker while the block runs, and its end after it."""
    mode = resolve(config.tracker.mode)
    if mode == TrackerMode.disabled:
        yield
        return
    order = {
        "folder": str(cell.folder),
        "scores": str(cell.scores(config)),
        "init": {
            "project": config.tracker.project,
            "entity": config.tracker.entity,
            "mode": str(mode),
            "id": cell.folder.name,
            "name": cell.folder.name,
            "group": config.sweep.name,
            "tags": [config.names.model, config.names.dataset, config.names.loss],
            "config": asdict(config),
            "dir": str(cell.folder),
            "resume": "allow" if mode == TrackerMode.online else None,
        },
    }
    write_json(cell.folder / "tracker.json", order)
    arguments = [sys.executable, "-P", "-m", "losslab.tracking", str(cell.folder / "tracker.json")]
    with (cell.folder / "tracker.log").open("a") as log:
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    patience = 1.0  # a run that has to leave does not wait
    try:
        yield
        patience = PATIENCE_SECONDS
    finally:
        try:
            process.communicate(timeout=patience)  # closes its standard input, the sign that all is written
            outcome = "failed" if process.returncode else ""
        except subprocess.TimeoutExpired:
            process.kill()
            outcome = "did not finish"
        if outcome:
            print(f"the tracker {outcome}, the records are complete: see {cell.folder / 'tracker.log'}", flush=True)


def resolve(mode: TrackerMode) -> TrackerMode:
    """`auto` is online where there is a login, and offline elsewhere."""
    if mode != TrackerMode.auto:
        return mode
    if (wanted := os.environ.get("WANDB_MODE")) in ("online", "offline", "disabled"):
        return TrackerMode(wanted)
    try:
        known = netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        known = False
    return TrackerMode.online if known or os.environ.get("WANDB_API_KEY") else TrackerMode.offline


def report(order: dict[str, Any], finished: Any) -> None:
    """Log what the records hold, as it appears, until `finished()`; then the scores and a table of samples."""
    import numpy as np
    import wandb

    from losslab.histogram import EDGES

    folder, scores = Path(order["folder"]), Path(order["scores"])
    run = wandb.init(**order["init"], settings=wandb.Settings(silent=True, console="off"))
    logged = 0
    while True:
        last = finished()
        rows = read_lines(folder / "metrics.jsonl")
        for row in rows[logged:]:
            histogram = row.pop("p_histogram", None)
            values: dict[str, Any] = {f"train/{key}": value for key, value in row.items()}
            if histogram:
                values["train/p"] = wandb.Histogram(np_histogram=(np.array(histogram), np.array(EDGES)))
            run.log(values, step=row["step"])
        logged = len(rows)
        if last:
            break
        time.sleep(2)
    summary = read_json(scores / "scores.json")
    for name, score in summary.get("benchmarks", {}).items():
        run.summary[f"scores/{name}"] = score["score"]
        table = wandb.Table(columns=["problem", "question", "gold", "sample", "extracted", "correct"])
        for record in read_lines(scores / f"{name}.jsonl")[:SAMPLES]:
            first = record["samples"][0]
            verdict = first[summary["verdict"]]
            table.add_data(
                record["index"], record["question"], record["gold"], first["text"], first["extracted"], verdict
            )
        run.log({f"samples/{name}": table})
    if "average" in summary:
        run.summary["scores/average"] = summary["average"]["score"]
    run.finish()


def main() -> None:
    """Follow the cell that a file describes, until standard input is closed."""
    import threading

    order = read_json(Path(sys.argv[1]))
    closed = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    report(order, closed.is_set)


if __name__ == "__main__":
    main()
