"""Weights & Biases (wandb.ai), online, or offline in files that `wandb sync` uploads later."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from losslab.files.json_files import read_json, write_json
from losslab.tracking import About, Entry, Scores

LONGEST_TAG = 64  # characters
LOGIN_SECONDS = 20  # the longest wait for the server's first answer
LAST = "last_entry.txt"  # in the folder of a run: the number of its last entry
SCORES = "scores.json"  # likewise: the scores that the run has, by step of training


class WeightsAndBiases:
    """A run of W&B. Charts use the training step as their axis; the number of an entry is W&B's own step.

    Online, a run continues from its last entry on the server. Offline, `wandb sync` appends the content of a folder to
    the run with its id, whatever that run has. So a run that was not uploaded yet is written again in full, replacing
    the folders of its earlier attempts; one that was uploaded continues in another folder with the new entries.
    """

    def __init__(self, about: About) -> None:
        earlier = list(Path(about.folder).glob(f"wandb/*run-*-{about.id}"))
        sent = [folder for folder in earlier if folder.name.startswith("run-") or any(folder.glob("*.synced"))]
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
            # Records have the code's changes, without secrets.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, init_timeout=LOGIN_SECONDS
            ),
        )
        for folder in set(earlier) - set(sent):
            shutil.rmtree(folder)
        self.last = Path(self.run.settings.sync_dir) / LAST
        last_steps = [int((folder / LAST).read_text() or -1) for folder in sent if (folder / LAST).exists()]
        self.after = self.run.step - 1 if about.mode == "online" else max(last_steps, default=-1)
        self.sent = Path(self.run.settings.sync_dir) / SCORES
        # Folders are named by their time, behind what they are, so that the last one has the scores of all before it.
        in_order = sorted(sent, key=lambda folder: folder.name.removeprefix("offline-"))
        told = [read_json(folder / SCORES) for folder in in_order if (folder / SCORES).exists()]
        self.scores: Scores | None = told[-1] if told else {} if self.after < 0 else None
        if self.scores is not None:  # written now, so that the next attempt knows that this one sent no others
            write_json(self.sent, self.scores)
        self.run.define_metric("train/step", summary="max")
        for names in ("train/*", "validation/*", "scores/*", "breakdown/*", "probabilities/*"):
            self.run.define_metric(names, step_metric="train/step")

    def log(self, entry: Entry) -> None:
        shown: dict[str, Any] = {**entry.values, "train/step": entry.step}
        for name, (counts, edges) in entry.histograms.items():
            shown[name] = wandb.Histogram(np_histogram=(np.array(counts), np.array(edges)))
        for name, table in entry.tables.items():
            shown[name] = wandb.Table(columns=[*table.columns], data=table.rows)
        self.run.log(shown, step=entry.number, commit=True)
        self.last.write_text(str(entry.number))
        scores = {name: value for name, value in entry.values.items() if name.startswith(("scores/", "breakdown/"))}
        if scores and self.scores is not None:
            self.scores.setdefault(str(entry.step), {}).update(scores)
            write_json(self.sent, self.scores)

    def checkpoint(self, folder: Path, about: dict[str, Any]) -> None:
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", self.run.name or ""), type="model", metadata=about)
        artifact.add_dir(str(folder), policy="immutable", skip_cache=True)  # no copy: the cell's folder stays
        self.run.log_artifact(artifact)

    def finish(self, told: dict[str, Any]) -> None:
        self.run.summary.update(told)
        if "conclusion" in told:
            self.run.notes = told["conclusion"]  # which its page shows first
        self.run.finish()
