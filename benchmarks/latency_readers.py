"""What a reader of records waits for: processor time and memory of tables and reports; `latency.py` runs it."""

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from losslab.config.schema import Config, Names
from losslab.data.probability_bins import EDGES
from losslab.files.record_names import RECORD_VERSION

OBJECTIVES = ("sft", "dft", "iw_sft", "power", "asft")
BENCHMARKS = {"math500": 100, "minerva_math": 100, "olympiadbench": 100, "aime24": 30, "amc23": 40}  # problems
SAMPLES, STEPS = 4, 100
SWEEP = "synthetic"


def records(count: int) -> Iterator[tuple[str, float, float]]:
    """Table, status and page of so many cells, each as (command, processor seconds, MB)."""
    with tempfile.TemporaryDirectory() as folder:
        cells = write_records(Path(folder), count)
        place = f"results={folder}"
        yield f"table, {count:,} cells", *measure("table", SWEEP, place)
        yield f"table again, {count:,} cells", *measure("table", SWEEP, place)
        write_scores(cells[-1], np.random.default_rng(1), 0.5)
        yield f"table after one more cell, {count:,} cells", *measure("table", SWEEP, place)
        yield f"status, {count:,} cells", *measure("status", SWEEP, place)
        yield f"report, {count:,} cells", *measure("report", SWEEP, place)


def measure(*arguments: str) -> tuple[float, float]:
    """Processor seconds and peak memory in MB of a command, which has to succeed."""
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "losslab", *arguments],
        os.environ | {"OMP_NUM_THREADS": "1"},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(process, 0)
    assert status == 0, arguments
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def write_records(results: Path, count: int, problems: dict[str, int] | None = None) -> list[Path]:
    """Records of a sweep as trained and scored cells leave them: up to 5 objectives and 40 rates, the rest seeds."""
    rng = np.random.default_rng(0)
    rates = [1e-6 * 1.1**i for i in range(40 if count > 100 else 1)]
    seeds = range(-(-count // (len(OBJECTIVES) * len(rates))))
    grid = itertools.islice(itertools.product(seeds, rates, OBJECTIVES), count)
    return [write_cell(results, *cell, rng, problems or BENCHMARKS) for cell in grid]


def write_cell(
    results: Path, seed: int, rate: float, objective: str, rng: np.random.Generator, problems: dict[str, int]
) -> Path:
    config = Config(names=Names(model="tiny", dataset="numina", loss=objective, eval="paper"), seed=seed)
    config.model.path, config.dataset.path, config.optimizer.lr = "some/model", "some/data", rate
    config.optimizer._target_ = "torch.optim.AdamW"
    config.loss = {"_target_": f"losslab.objectives.{objective}.{objective.upper()}"}
    config.machine.results, config.sweep.name = str(results), SWEEP
    identity = f"{rng.integers(1 << 32):08x}"
    folder = results / "cells" / f"tiny-numina-{objective}-s{seed}-{identity}"
    time = f"2026-01-01T00:00:{seed:02d}.000+00:00"
    state = {"version": RECORD_VERSION, "identity": identity, "names": asdict(config.names), "seed": seed}
    state |= {"declared": time, "updated": time, "sweeps": [SWEEP], "recipe": f"{objective}-{rate}", "state": "done"}
    state |= {"attempts": 1, "training_seconds": 100.0, "scoring_seconds": 50.0, "devices": 1}
    write(folder / "cell.json", json.dumps(state, indent=1))
    plain = json.loads(json.dumps(asdict(config)))
    write(folder / "config.yaml", yaml.dump(plain, sort_keys=False, Dumper=yaml.CSafeDumper))
    environment = {"version": RECORD_VERSION, "commit": "0" * 40, "dirty": False, "gpus": ["H100"]}
    write(folder / "environment.json", json.dumps(environment))
    write(folder / "data.json", json.dumps({"version": RECORD_VERSION, "examples": 1000, "steps": STEPS}))
    write(folder / "metrics.jsonl", "".join(json.dumps(step(i, rng)) + "\n" for i in range(1, STEPS + 1)))
    write_scores(folder, rng, {"sft": 0.4, "dft": 0.6}.get(objective, 0.5), problems)
    return folder


def step(number: int, rng: np.random.Generator) -> dict[str, object]:
    keys = ("loss", "cross_entropy", "mean_weight", "effective_fraction", "gradient_norm", "eos_p", "entropy", "p10")
    row: dict[str, object] = {"step": number, "lr": 1e-5, "p50": 0.9, "tokens_per_second": 1234.5, "seconds": 1.5}
    row |= dict(zip(keys, rng.random(len(keys)).tolist(), strict=True))
    counts = rng.integers(1, 10_000, len(EDGES) - 1).tolist()
    return row | {"p_histogram": counts, "tokens": 100_000, "peak_memory": 10**10, "skipped": 0}


def write_scores(folder: Path, rng: np.random.Generator, chance: float, problems: dict[str, int] = BENCHMARKS) -> None:
    parts, place = {}, folder / "scores" / "paper-12345678"
    for name, count in problems.items():
        right = rng.random((count, SAMPLES)) < np.clip(rng.normal(chance, 0.3, (count, 1)), 0.02, 0.98)
        sample = {"text": "so it is 7. " * 10, "extracted": "7", "finish_reason": "stop", "tokens": 200}
        problem = {"prompt": "?", "gold": "7", "gold_official": "7", "seen": None}
        lines = []
        for i, row in enumerate(right.tolist()):
            samples = [sample | {"official": mark, "corrected": mark, "timed_out": False} for mark in row]
            lines.append({"index": i, "question": f"{name} {i}?", "samples": samples} | problem)
        write(place / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        score, half = 100 * float(right.mean()), 100 * float(right.mean(1).std()) / count**0.5
        counts = {verdict: right.sum(1).tolist() for verdict in ("official", "corrected")}
        parts[name] = {"problems": count, "samples": SAMPLES, "score": score, "interval": [score - half, score + half]}
        parts[name] |= {"right": counts, "mean_tokens": 200.0}
    average = {"score": float(np.mean([part["score"] for part in parts.values()]))}
    scores = {"version": RECORD_VERSION, "verdict": "official", "benchmarks": parts, "average": average}
    write(place / "scores.json", json.dumps(scores | {"warnings": []}, indent=1))
    protocol = {"temperature": 1.0, "benchmarks": dict.fromkeys(problems, "0" * 64)}
    write(place / "protocol.yaml", yaml.safe_dump(protocol))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
