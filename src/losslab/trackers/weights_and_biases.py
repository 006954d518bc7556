"""Weights & Biases (wandb.ai), online or into files that `wandb sync` uploads later."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from losslab.trackers import About, Entry

LONGEST_TAG = 64  # characters


class WeightsAndBiases:
    """A run of W&B; charts have the training step as their axis, the number of an entry is W&B's own step.

    Online, a run goes on where the server has it. Offline it cannot, so it is told whole once more, and takes the
    place of the files of its earlier attempts: synced beside each other, they would overwrite one another.
    """

    def __init__(self, about: About) -> None:
        earlier = list(Path(about.folder).glob(f"wandb/offline-run-*-{about.id}"))
        self.run = wandb.init(
            project=about.project,
            entity=about.entity,
            mode="online" if about.mode == "online" else "offline",
            id=about.id,
            name=about.name,
            group=about.group,
            job_type=about.job_type,
            tags=[tag[:LONGEST_TAG] for tag in about.tags],
            config=about.config,
            dir=about.folder,
            resume="allow" if about.mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
        for folder in earlier:
            shutil.rmtree(folder)
        self.after = self.run.step - 1
        self.run.define_metric("train/step", summary="max")
        for names in ("train/*", "scores/*", "probabilities/*"):
            self.run.define_metric(names, step_metric="train/step")

    def log(self, entry: Entry) -> None:
        shown: dict[str, Any] = {**entry.values, "train/step": entry.step}
        for name, (counts, edges) in entry.histograms.items():
            shown[name] = wandb.Histogram(np_histogram=(np.array(counts), np.array(edges)))
        for name, table in entry.tables.items():
            shown[name] = wandb.Table(columns=[*table.columns], data=table.rows)
        self.run.log(shown, step=entry.number, commit=True)

    def checkpoint(self, folder: Path, about: dict[str, Any]) -> None:
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", self.run.name or ""), type="model", metadata=about)
        artifact.add_dir(str(folder), policy="immutable", skip_cache=True)  # no copy: the cell's folder stays
        self.run.log_artifact(artifact)

    def finish(self, told: dict[str, Any]) -> None:
        self.run.summary.update(told)
        self.run.finish()
