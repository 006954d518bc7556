"""What the sections of gpu.py measured: one JSON line each, and a page of tables."""

import json
import os
import re
from pathlib import Path
from typing import Any

OUT = Path(os.environ.get("OUT", Path(__file__).parents[1] / "results/benchmarks/gpu"))


OTHERS = {"parts": ("name", "ms"), "profile": ("kernel", "ms", "count", "share")}  # columns of their tables


def say(**row: Any) -> None:
    """Print a measurement and keep it."""
    print(json.dumps(row), flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "measurements.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def measurements() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (OUT / "measurements.jsonl").read_text(encoding="utf-8").splitlines()]


def failures() -> list[str]:
    """What did not end well, of the sections and of what they measure."""
    rows = measurements()
    failed = [f"{row['name']}: {row['outcome']}" for row in rows if row.get("outcome", "done") != "done"]
    return failed + [f"{row['name']}: {row['error']}" for row in rows if "error" in row]


def write_page(card: str | None = None, versions: str | None = None) -> Path:
    """Write gpu-<card>.md of what is measured; returns its path."""
    if card is None:
        import torch

        card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        versions = f"torch {torch.__version__}"
    path = OUT / f"gpu-{re.sub('[^a-z0-9]+', '-', card.lower())}.md"
    path.write_text(page(measurements(), card, str(versions)), encoding="utf-8")
    return path


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each name: the mean speed of its turns, of the last one the rest."""
    turns: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        turns.setdefault(row["name"], []).append(row)
    means = []
    for each in turns.values():
        whole = [row for row in each if "error" not in row]
        if len(whole) > 1 and len(whole) == len(each):
            keys = [key for key in ("answer_tokens_per_second", "mfu") if whole[0].get(key) is not None]
            means.append(whole[-1] | {key: sum(row[key] for row in whole) / len(whole) for key in keys})
        else:
            means.append(each[-1])
    return means


def page(rows: list[dict[str, Any]], card: str, versions: str) -> str:
    steps = pooled([row for row in rows if row["section"] == "steps"])
    peers = [row["answer_tokens_per_second"] for row in steps if row["name"].startswith("TRL") and "error" not in row]
    best = max(peers, default=None)
    lines = [
        f"# Training on one {card}",
        "",
        f"`python benchmarks/gpu.py`, {versions}, one run.",
        "Random weights in the shape of Qwen2.5-Math-1.5B, 64 sequences a step of log-normal lengths up to 2,048 with",
        "three quarters answers, bfloat16 over float32 weights, fused AdamW; nine steps after the third (objectives in",
        "two turns), of TRL four after the second, so that differences of a percent or two mean nothing. MFU",
        "counts no recomputation. The plan is the estimate of memory for steps of these tokens.",
        "",
        "| whole step | answer tokens/s | beside the best of TRL | MFU | peak, GB | plan, GB | micro-batch tokens |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in steps:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error'][:60]} | | | | | |")
            continue
        speed = row["answer_tokens_per_second"]
        cells = [
            row["name"],
            f"{speed:,.0f}",
            f"{speed / best:.2f}×" if best else "",
            f"{row['mfu']:.1%}" if row.get("mfu") else "",
            f"{row['peak_gb']:.1f}",
            f"{row['planned_gb']:.1f}" if "planned_gb" in row else "",
            f"{row['micro_batch_tokens']:,}" if "micro_batch_tokens" in row else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for section, keys in OTHERS.items():
        if measured := [row for row in rows if row["section"] == section]:
            lines += ["", f"| {' | '.join([section, *keys[1:]])} |", f"|---|{'---:|' * (len(keys) - 1)}"]
            lines += [f"| {' | '.join(_written(row.get(key)) for key in keys)} |" for row in measured]
    lines += ["", "| section | outcome | seconds |", "|---|---|---:|"]
    lines += [f"| {row['name']} | {row['outcome']} | {row['seconds']} |" for row in rows if row["section"] == "outcome"]
    return "\n".join(lines) + "\n"


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
