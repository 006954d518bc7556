"""The samples of a cell as parquet files in the layout of lighteval's details: columns doc, model_response and metric.

The layout is that of https://huggingface.co/docs/lighteval/saving-and-reading-results, a row for each problem:
`details/<model>/<time>/details_<benchmark>_<time>.parquet`.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from losslab.files.json_files import read_lines
from losslab.hub.model_card import scored
from losslab.records.record import Cell


def write_details(cell: Cell, folder: Path) -> list[Path]:
    """Write a file for each benchmark and protocol of a cell's scores; returns them.

    Raises ValueError if the record lacks the samples of a benchmark.
    """
    import pyarrow
    from pyarrow import parquet

    paths = []
    for protocol, scores in scored(cell).items():
        source = cell.folder / "scores" / protocol
        time = datetime.fromtimestamp((source / "scores.json").stat().st_mtime, UTC).strftime("%Y-%m-%dT%H-%M-%S")
        for name, part in scores["benchmarks"].items():
            records = read_lines(source / f"{name}.jsonl")
            if not records:
                raise ValueError(f"{source} has no samples of {name}: copy {name}.jsonl there, or score the cell again")
            rows = [detail(name, record, part["samples"]) for record in records]
            place = folder / "details" / f"{cell.folder.name}__{protocol}" / time
            place.mkdir(parents=True, exist_ok=True)
            paths.append(place / f"details_{name}_{time}.parquet")
            parquet.write_table(pyarrow.Table.from_pylist(rows), paths[-1])
    return paths


def detail(name: str, record: dict[str, Any], count: int) -> dict[str, Any]:
    """A problem with its first `count` samples."""
    samples = record["samples"][:count]
    verdicts = ("official", "corrected")
    return {
        "doc": {
            "id": str(record["index"]),
            "task_name": name,
            "query": record["question"],
            "choices": [record["gold"]],
            "gold_index": 0,
        },
        "model_response": {
            "input": record["prompt"],
            "text": [sample["text"] for sample in samples],
            "extracted": [sample["extracted"] for sample in samples],
            "output_tokens": [sample["tokens"] for sample in samples],
            "finish_reason": [sample["finish_reason"] for sample in samples],
        },
        "metric": {f"{verdict}_avg@{count}": sum(s[verdict] for s in samples) / count for verdict in verdicts},
    }
