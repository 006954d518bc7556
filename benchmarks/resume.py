"""Kill an evaluation and run it again: what is kept, what is generated twice, and whether the outcome is the same.

    python benchmarks/resume.py DATA > results/benchmarks/resume.md

DATA is the folder with the official benchmark files. A tiny random Qwen2 is scored on all five of the paper by
`losslab evaluate` with vLLM on one CPU core: once undisturbed, and once with SIGKILL to all of its processes twice.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from generation import make_model

from losslab.config.schema import Engine
from losslab.evaluation import engines

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"]


def command(model: Path, data: Path, results: Path) -> list[str]:
    options = [f"model={model}", f"benchmark=[{','.join(NAMES)}]", f"eval.data={data}", f"machine.results={results}"]
    options += ["eval.samples=1", "eval.max_new_tokens=64", "machine.device=cpu", "machine.threads=1", "tracker=none"]
    return [sys.executable, "-m", "losslab", "evaluate", *options]


def scores_of(results: Path) -> Path:
    return next(results.glob("cells/*/scores/*"))


def stored(results: Path) -> int:
    """Whole samples on disk."""
    return sum(path.read_text().count("\n") for path in results.glob("cells/*/scores/*/*.samples.jsonl"))


def run(model: Path, data: Path, results: Path, kill_after: int | None = None) -> tuple[int, int, float]:
    """Samples before, samples afterwards, wall seconds."""
    before, begin = stored(results), time.perf_counter()
    process = subprocess.Popen(
        command(model, data, results), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None:
        if kill_after is not None and stored(results) >= kill_after:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return before, stored(results), time.perf_counter() - begin
        time.sleep(0.05)
    assert process.returncode == 0 and kill_after is None, "it ended in another way than expected"
    return before, len(texts(results)), time.perf_counter() - begin


def texts(results: Path) -> dict[tuple[str, int], str]:
    found = {}
    for name in NAMES:
        for line in (scores_of(results) / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
            record = json.loads(line)
            found[name, record["index"]] = record["samples"][0]["text"]
    return found


def outcome(results: Path) -> dict[str, Any]:
    return json.loads((scores_of(results) / "scores.json").read_text())


def main(data: Path) -> None:
    print("# Five real benchmarks in one engine start, undisturbed and killed\n")
    vllm, python = engines.version(Engine.vllm), platform.python_version()
    print(f"`python benchmarks/resume.py DATA`; vLLM {vllm}, Python {python}, "
          f"{os.cpu_count()} cores shared with other work, one used.\n")  # fmt: skip
    print(f"{', '.join(NAMES)}; a tiny random Qwen2, one sample of 64 tokens at most for each problem.\n")
    print("| run | samples there before | there afterwards | wall seconds |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model", None)
        whole, broken = folder / "whole", folder / "broken"
        runs = {"undisturbed": (whole, None), "killed": (broken, 300), "killed again": (broken, 900)}
        for name, (results, limit) in {**runs, "to the end": (broken, None)}.items():
            before, after, seconds = run(folder / "model", data, results, limit)
            print(f"| {name} | {before:,} | {after:,} | {seconds:.1f} |", flush=True)
        starts = (scores_of(whole) / "engine.log").read_text().count("Initializing a V1 LLM engine")
        left = outcome(broken)["generation"]["samples"]
        same = sum(texts(whole)[key] == text for key, text in texts(broken).items())
        rows = outcome(whole)["benchmarks"]
        alike = all(rows[name]["score"] == outcome(broken)["benchmarks"][name]["score"] for name in NAMES)
        print(f"\nEngine starts of the undisturbed run: {starts}. Problems: "
              + ", ".join(f"{name} {rows[name]['problems']}" for name in NAMES)
              + f"; too long for the model and scored 0: {sum(row['too_long'] for row in rows.values())}.")  # fmt: skip
        print(f"\nThe last call generated {left:,} samples, the missing ones. Texts equal to those of the undisturbed "
              f"run: {same:,} of {len(texts(whole)):,}; scores equal: {'yes' if alike else 'no'}.")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python benchmarks/resume.py DATA")
    main(Path(sys.argv[1]))
