"""What checkpoints cost a run: the share of the training loop's time that it stands still for them.

    python benchmarks/checkpoint.py

A Qwen2 of 77M parameters, a vocabulary of 151,936 among them, is trained on one core, with a checkpoint (weights and
AdamW's state) every 50 steps. While one is copied to host memory the loop waits; while it is
written the loop continues. Steps are far shorter than a real run's, and the share is the larger for it. Prints a table
and writes it to results/benchmarks/checkpoint.md.
"""

import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step import make_model

from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, ModelConfig, OptimizerConfig, TrainConfig
from losslab.data.examples import Examples
from losslab.training.loop import train

VOCABULARY, EVERY, CHECKPOINTS, BATCH, LENGTH = 151_936, 50, 2, 4, 64
REPORT = Path(__file__).parents[1] / "results/benchmarks/checkpoint.md"


def run(folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Train; returns the rows of metrics.jsonl and the bytes of a checkpoint."""
    steps = EVERY * CHECKPOINTS + 1
    make_model(folder / "model", VOCABULARY)
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, VOCABULARY, steps * BATCH * LENGTH).astype(np.int32)
    offsets = np.arange(steps * BATCH + 1) * LENGTH
    Examples(tokens, offsets, np.full(steps * BATCH, LENGTH // 4), "", {}).save(folder / "data")
    config = Config(
        model=ModelConfig(path=str(folder / "model")),
        loss={"_target_": "losslab.objectives.dft.DFT"},
        optimizer=OptimizerConfig("torch.optim.AdamW", 1e-5, arguments={"fused": True}),
        train=TrainConfig(batch_size=BATCH, max_length=LENGTH),
        machine=MachineConfig(
            device=Device.cpu, threads=1, micro_batch_tokens=BATCH * LENGTH, checkpoint_steps=EVERY, keep_every=EVERY
        ),
    )
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29556"}
    train(config, str(folder / "data"), str(folder), "")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    files = [file for file in (folder / f"checkpoints/step-{EVERY:08d}").rglob("*") if file.is_file()]
    return rows, sum(file.stat().st_size for file in files)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows, size = run(Path(folder))
    stalls = [row["checkpoint_seconds"] for row in rows if row["step"] % EVERY == 1 and row["step"] > 1]
    assert len(stalls) == CHECKPOINTS and min(stalls) > 0
    measured = rows[1:]  # the first step warms up
    stalled, worked = sum(stalls), sum(row["seconds"] for row in measured)
    text = "\n".join(
        [
            "# What a checkpoint costs the training loop",
            "",
            f"77M parameters on one core, {BATCH} sequences of {LENGTH} tokens a step, a checkpoint every {EVERY} "
            f"steps: {len(measured)} steps after one of warm-up, {CHECKPOINTS} checkpoints of {size / 1e9:.2f} GB.",
            "",
            "| | |",
            "|---|---:|",
            f"| seconds of a step, median | {statistics.median(row['seconds'] for row in measured):.2f} |",
            f"| seconds that the loop stood still, at each checkpoint | {', '.join(f'{one:.2f}' for one in stalls)} |",
            f"| share of the loop's time | {100 * stalled / (stalled + worked):.2f}% |",
            "",
            "`python benchmarks/checkpoint.py`",
            "",
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, {platform.system()}, Python "
            f"{platform.python_version()}, torch {torch.__version__}.",
            "",
        ]
    )
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
