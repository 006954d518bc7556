"""A cell's scores as the hub reads them: `.eval_results/<benchmark>.yaml`, which its pages and leaderboards show.

The format is https://huggingface.co/docs/hub/eval-results, written by huggingface_hub.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from losslab.config.benchmark import HARNESS
from losslab.config.prompt import MODEL_PROMPT
from losslab.config.schema import EMBEDDED
from losslab.files.atomic import write
from losslab.hub.model_card import benchmarks, interval, local, public, scored, source
from losslab.records.reading import read_yaml
from losslab.records.record import Cell

FOLDER = ".eval_results"
TASK = "default"  # of a data set with one configuration


def write_eval_results(cell: Cell, folder: Path, repo: str | None = None, revision: str = "main") -> list[Path]:
    """Write a file for each benchmark that is a data set of the hub, with an entry for each protocol of its scores.

    `repo` is the model's repository, in whose branch `revision` the record lies that an entry names as its source. A
    benchmark whose problems came from files of this machine, a task of lm_eval and the embedded task have no data set
    there, and get no file.
    """
    records = f"https://huggingface.co/{repo}/blob/{quote(revision, safe='')}/losslab/scores" if repo else None
    entries: dict[str, list[EvalResultEntry]] = {}
    by_name = benchmarks(cell)
    for protocol, scores in scored(cell).items():
        for name in scores["benchmarks"]:
            about = source(by_name, scores, name)
            if on_hub(about.get("path", "")):
                entries.setdefault(name, []).append(_entry(cell, protocol, scores, name, about, records))
    paths = []
    for name, of_protocols in entries.items():
        text = yaml.safe_dump(eval_result_entries_to_yaml(of_protocols), sort_keys=False, allow_unicode=True)
        write(path := folder / FOLDER / f"{name}.yaml", text)
        paths.append(path)
    return paths


def on_hub(path: str) -> bool:
    """Whether the path of a benchmark is the id of a data set on the hub."""
    return "/" in path and not local(path) and not path.startswith(HARNESS) and path != EMBEDDED


def _entry(
    cell: Cell, protocol: str, scores: dict[str, Any], name: str, about: dict[str, Any], records: str | None
) -> EvalResultEntry:
    part, folder = scores["benchmarks"][name], cell.folder / "scores" / protocol
    sampling, scored_at = folder / "protocol.yaml", (folder / "scores.json").stat().st_mtime
    unknown = name not in scores.get("sources", {})  # of an older losslab
    examples = scores.get("examples", {}).get(name, 0)
    notes = [
        f"avg@{part['samples']} in percent",
        *([f"temperature {read_yaml(sampling).get('temperature')}"] if sampling.is_file() else []),
        f"{scores['verdict']} verdict",
        f"95% interval {interval(part)}",
        f"prompt {scores.get('prompt', MODEL_PROMPT)}" + (f" with {examples} worked examples" if examples else ""),
        *(["problems from local files"] if unknown and public(cell)["eval"]["data"] else []),
        f"losslab protocol {protocol}",
    ]
    return EvalResultEntry(
        dataset_id=about["path"],
        task_id=about.get("subset") or TASK,
        value=round(part["score"], 2),
        dataset_revision=about.get("revision"),
        date=datetime.fromtimestamp(scored_at, UTC).isoformat(timespec="seconds"),
        source_url=f"{records}/{protocol}.json" if records else None,
        source_name="losslab record" if records else None,
        notes=", ".join(notes),
    )
