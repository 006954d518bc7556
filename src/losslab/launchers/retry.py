"""Submits the cells of a sweep again that came to no good end on SLURM."""

from pathlib import Path
from typing import Any

from losslab.launchers.slurm import submit
from losslab.launchers.status import Submitted, statuses, submitted

STATES = ("failed", "cancelled", "interrupted", "silent")


def retry(sweep: str, results: str) -> None:
    """Submit failed, cancelled, interrupted and silent cells again, each as its own newest submission had it.

    Raises ValueError if there is no such cell, or if the sweep was submitted from another folder.
    """
    newest: dict[str, Submitted] = {}  # of each cell, which may be in several
    for submission in submitted(sweep, results):
        if submission.submission.is_mine:
            newest |= dict.fromkeys(submission.cells, submission)
    again = [row.folder.name for row in statuses(sweep, results) if row.state in STATES and row.folder.name in newest]
    if not again:
        raise ValueError(f"no cell of {sweep} that was submitted to SLURM has failed: there is nothing to retry")
    groups: dict[Path, list[str]] = {}
    for name in again:
        _check_folder(newest[name].record, results)
        groups.setdefault(newest[name].submission.folder, []).append(name)
    for names in groups.values():
        of_group = newest[names[0]]
        cells = {cell: words for cell, words in of_group.record["cells"].items() if Path(cell).name in names}
        submit(sweep, cells, of_group.submission.launcher, Path(results))


def _check_folder(record: dict[str, Any], results: str) -> None:
    """Refuse a folder in which relative paths of a submission name something else, as its cells would be trained anew.

    Records of an older losslab do not have the folder, and are told by where their results are.
    """
    if folder := record.get("folder"):
        if Path(folder).resolve() != Path.cwd().resolve():
            raise ValueError(f"the sweep was submitted from {folder}: run this there")
    elif Path(record.get("results", results)).resolve() != Path(results).resolve():
        raise ValueError(f"the sweep was submitted from the folder in which {record['results']} lies: run this there")
