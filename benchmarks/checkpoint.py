"""What checkpoints cost a run: the share of the training loop's time that it stands still for them.

    python benchmarks/checkpoint.py

A Qwen2 of 77M parameters with a vocabulary of 151,936 is trained on a CPU, with a checkpoint (model and AdamW's
state, 12 bytes a parameter) every 50 steps and one more at the end. While one is copied to memory the loop waits; while
it is written the loop goes on. Prints a table and writes it to results/benchmarks/checkpoint.md.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from step import make_model

from losslab.checkpoint import MANIFEST
from losslab.data import Examples
from losslab.loop import train
from losslab.schema import Config, Device, MachineConfig, ModelConfig, OptimizerConfig, TrainConfig

VOCABULARY, EVERY, BATCH, LENGTH = 151_936, 50, 4, 256
AFTER = 10  # steps after a checkpoint in which it is being written, at the most


def run(folder: Path, steps: int) -> list[dict]:
    """Train; returns the rows of metrics.jsonl."""
    make_model(folder / "model", VOCABULARY)
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, VOCABULARY, steps * BATCH * LENGTH).astype(np.int32)
    bounds = np.arange(steps * BATCH + 1) * LENGTH
    Examples(tokens, bounds, np.full(steps * BATCH, LENGTH // 4), "", {}).save(folder / "data")
    config = Config(
        model=ModelConfig(path=str(folder / "model")),
        loss={"_target_": "losslab.objectives.dft.DFT"},
        optimizer=OptimizerConfig("torch.optim.AdamW", 1e-5, arguments={"fused": True}),
        train=TrainConfig(batch_size=BATCH, max_length=LENGTH),
        machine=MachineConfig(
            device=Device.cpu, micro_batch_tokens=BATCH * LENGTH, checkpoint_steps=EVERY, keep_every=1
        ),
    )
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29556"}
    train(config, str(folder / "data"), str(folder), "")
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
