"""What is kept of a cell: one folder with its configuration, environment, metrics, model and scores.

    results/cells/<model>-<dataset>-<loss>-s<seed>-<identity>/
        config.yaml  environment.json  changes.diff  cell.json  metrics.jsonl  validation.jsonl  tokens.json
        probabilities.json  checkpoints/  steps/<step>/  model/
        scores/<protocol>-<identity>/  scores/<protocol>-<identity>/steps/<step>/
        scores/<protocol>-<identity>/kl_to_base.json

Writes are atomic: after a kill, either the old or the complete new file remains.
"""

import fcntl
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from losslab.config.forgetting import of_new_task
from losslab.config.log import log
from losslab.config.schema import BASE, Config, Stage
from losslab.files.atomic import write
from losslab.files.content import named
from losslab.files.json_files import read_json, read_lines, write_json
from losslab.files.record_names import KL_TO_BASE, PROBABILITIES, RECORD_VERSION, VALIDATION
from losslab.records import code_snapshot
from losslab.records.cell_records import training_device_seconds
from losslab.records.environment import environment, succeed
from losslab.records.identity import identities, protocol, recipe

ENDED = ("done", "failed", "trained")  # states of a cell that `force=true` starts afresh; an interrupted one resumes
KEPT = ("lock", "holder.json", "cell.lock", "cell.json", "config.yaml", "logs")  # what a cell that starts afresh keeps


def protocol_name(config: Config) -> str:
    """The name of the evaluation's protocol: its file and its hash."""
    return f"{config.names.eval}-{protocol(config)[:8]}"


@dataclass(frozen=True)
class Cell:
    """The folder of one (model, data, loss, optimizer, schedule, training, seed) under `machine.results`."""

    folder: Path
    identity: str

    @classmethod
    def of(cls, config: Config) -> "Cell":
        return cls.of_seeds(config, [config.seed])[0]

    @classmethod
    def of_seeds(cls, config: Config, seeds: Sequence[int]) -> list["Cell"]:
        """The cells of several seeds that are alike in everything else."""
        names, cells = config.names, Path(config.machine.results) / "cells"
        parts = [names.model, names.dataset, names.loss] if config.trains else [names.model, BASE]
        keys = identities(config, seeds)
        return [
            cls(cells / "-".join([*parts, f"s{seed}", key[:8]]), key) for seed, key in zip(seeds, keys, strict=True)
        ]

    @classmethod
    def at(cls, folder: Path) -> "Cell":
        """The cell of an existing record."""
        return cls(folder, read_json(folder / "cell.json")["identity"])

    @property
    def model(self) -> Path:
        """The exported checkpoint, in Hugging Face format; it appears whole, so its presence means trained."""
        return self.folder / "model"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        """The file with the metrics of the held-out rows over training, if there are such rows."""
        return self.folder / VALIDATION

    @property
    def probabilities(self) -> Path:
        """The file with the probabilities of training targets before and after training, if they were requested."""
        return self.folder / PROBABILITIES

    def steps(self) -> dict[int, Path]:
        """Models exported during training, by step, without one of the last step, which is the finished model."""
        models = {int(path.name): path for path in sorted(self.folder.glob("steps/" + 8 * "[0-9]"))}
        if self.model.exists() and (rows := read_lines(self.metrics)):
            models.pop(rows[-1]["step"], None)
        return models

    def scores(self, config: Config, step: int | None = None) -> Path:
        """The folder of the scores of the finished model, or of a step."""
        folder = self.folder / "scores" / protocol_name(config)
        return folder if step is None else folder / "steps" / f"{step:08d}"

    def kl_to_base(self, config: Config) -> Path:
        """The file with the KL of the finished model to its base on the samples of its scores, if it was requested."""
        return self.scores(config) / KL_TO_BASE

    def state(self) -> dict[str, Any]:
        """The content of cell.json, `{}` for a cell that was never begun."""
        return read_json(self.folder / "cell.json")

    @contextmanager
    def timed(self, **fields: int) -> Iterator[None]:
        """Add the seconds of the block, each times a number, to fields of cell.json: attempts are summed.

        Those of a block that ends in an exception count too; those of a process that is killed do not.
        """
        began = time.monotonic()
        try:
            yield
        except BaseException:
            with suppress(OSError, ValueError):  # a full disk must not hide why the block failed
                self._add(time.monotonic() - began, fields)
            raise
        self._add(time.monotonic() - began, fields)

    def _add(self, seconds: float, fields: Mapping[str, int]) -> None:
        state = self.state()
        self.update(**{field: round(state.get(field, 0.0) + seconds * times, 1) for field, times in fields.items()})

    @contextmanager
    def training(self, devices: int) -> Iterator[None]:
        """Record that the block trains on a number of devices, and its seconds, alone and times the devices."""
        state = self.state()
        earlier = training_device_seconds(state, state.get("devices", devices))  # of an older losslab, too
        self.update(state="training", devices=devices, training_device_seconds=earlier)
        with self.timed(training_seconds=1, training_device_seconds=devices):
            yield

    def trained(self, config: Config) -> bool:
        return not config.trains or self.model.exists()

    def scored(self, config: Config, step: int | None = None) -> bool:
        """Whether every benchmark asked for has the samples and the verdict asked for."""
        scores = read_json(self.scores(config, step) / "scores.json")
        samples = {name: row["samples"] for name, row in scores.get("benchmarks", {}).items()}
        return scores.get("verdict") == config.eval.verdict and all(
            samples.get(name) == (config.eval.samples if benchmark.task is None else 1)
            for name, benchmark in config.benchmark.items()
        )

    def measured(self, config: Config) -> bool:
        """Whether the record has the probabilities that are asked for. A base has no training data to measure."""
        asked = config.machine.probabilities
        return not config.trains or (asked or 0) <= read_json(self.probabilities).get("examples", 0)

    def kl_measured(self, config: Config) -> bool:
        """Whether the KL to the base is on record for as many samples, and for all benchmarks, that are asked for."""
        asked = config.machine.kl_to_base
        if not config.trains or asked is None:
            return True
        record = read_json(self.kl_to_base(config))
        benchmarks = set(record.get("benchmarks", []))
        return asked <= record.get("asked", 0) and set(of_new_task(config.benchmark)) <= benchmarks

    def done(self, config: Config) -> bool:
        """Whether all that was requested exists: the trained model, measured, and with `stage` all its scores."""
        if self.asked_again or not (self.trained(config) and self.measured(config)):
            return False
        if config.stage == Stage.train:
            return True
        return all(self.scored(config, step) for step in [None, *self.steps()]) and self.kl_measured(config)

    @property
    def asked_again(self) -> bool:
        """Whether `force=true` asked for the cell to start afresh, and it has not done so yet."""
        return self.state().get("force") == "asked"

    def declare(self, config: Config) -> None:
        """Make the cell a member of the sweep's table. A cell can be in several tables, with another method in each."""
        with self._editing() as state:
            if "declared" not in state:
                write(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
                state |= {"identity": self.identity, "names": asdict(config.names), "seed": config.seed}
                state |= {"declared": _now(), "sweeps": []}
            state["recipe"] = recipe(config)
            paths = {"model": config.model.path, "dataset": config.dataset.path}
            local = {group for group, path in paths.items() if Path(path).is_dir() or named(path)}
            state["local"] = sorted(local.union(state.get("local", [])))  # elsewhere the path may name nothing
            if config.sweep.name not in state["sweeps"]:
                state["sweeps"] = [*state["sweeps"], config.sweep.name]
            if config.names.method:
                state["methods"] = state.get("methods", {}) | {config.sweep.name: config.names.method}
            if config.sweep.tune:
                state["tunes"] = state.get("tunes", {}) | {config.sweep.name: config.sweep.tune}

    def leave(self, sweep: str) -> None:
        """Take the cell out of a sweep's table. A cell that was never begun and is in no other sweep is deleted."""
        with self._editing() as state:
            state["sweeps"] = [name for name in state.get("sweeps", []) if name != sweep]
            for named in ("methods", "tunes"):
                state.get(named, {}).pop(sweep, None)
            unused = not state["sweeps"] and "state" not in state
        if unused:
            shutil.rmtree(self.folder)

    def begin(self, config: Config, **about: Any) -> None:
        """Record configuration, machine and code of the attempt that begins; those that trained a model are kept."""
        if not config.trains or not self.model.exists():
            write(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
            from losslab.distributed.worker_count import (
                worker_count,  # here, since it loads torch, which readers do not need
            )

            before, now = read_json(self.folder / "environment.json"), environment(worker_count(config.machine))
            steps = max((int(path.name[-8:]) for path in self.folder.glob("checkpoints/step-*")), default=0)
            write_json(self.folder / "environment.json", succeed(before, now, steps))
            write(self.folder / "changes.diff", code_snapshot.changes(), code_snapshot.mode())
        (self.folder / "error.txt").unlink(missing_ok=True)
        with self._editing() as state:
            state |= {"state": "starting", "attempts": state.get("attempts", 0) + 1, "error": None, **about}
            state.get("failures", {}).pop(protocol_name(config), None)

    def update(self, **values: Any) -> None:
        with self._editing() as state:
            state |= values

    def end(self, config: Config) -> None:
        """Record that all that the configuration asks for is there; a failure under another protocol stays.

        A later `force=true` asks for the cell anew.
        """
        with self._editing() as state:
            state.get("failures", {}).pop(protocol_name(config), None)
            state.pop("force", None)
            if left := list(state.get("failures", {}).values()):
                state |= {"state": "failed", "error": left[-1]}
            else:
                state |= {"state": "trained" if config.stage == Stage.train else "done", "error": None}

    def fail(self, config: Config, error: BaseException) -> None:
        """Write down why the cell failed; the worker's own traceback, where a worker did."""
        trace = getattr(error, "trace", "") or "".join(traceback.format_exception(error))
        write(self.folder / "error.txt", trace)
        self.give_up(config, f"{type(error).__name__}: {error}")

    def give_up(self, config: Config, reason: str) -> None:
        """Record that what the configuration asks for will not be completed, and why."""
        with self._editing() as state:
            state |= {"state": "failed", "error": reason}
            state["failures"] = state.get("failures", {}) | {protocol_name(config): reason}

    def failure(self, config: Config) -> str | None:
        """Why the cell's last attempt under this protocol failed; another command may score it under another."""
        return self.state().get("failures", {}).get(protocol_name(config))

    def clear(self) -> None:
        """Forget what the cell has done, for `force=true`; what is interrupted here is still asked for."""
        for path in self.folder.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        kept = {"identity", "recipe", "names", "seed", "declared", "sweeps", "methods", "tunes"}
        with self._editing() as state:
            for key in set(state) - kept:
                del state[key]
            state["force"] = "begun"

    @contextmanager
    def _editing(self) -> Iterator[dict[str, Any]]:
        """The content of cell.json, to be changed in place; one process at a time, for an instant."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "cell.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = self.state()
            yield state
            write_json(self.folder / "cell.json", state | {"version": RECORD_VERSION, "updated": _now()})


def start_again(cells: list[Cell]) -> None:
    """Mark finished cells for a rerun (`force=true`); interrupted cells resume.

    While cells of an interrupted `force=true` are left, repeating the command continues those and marks no cell again.
    """
    states = {cell: cell.state() for cell in cells}
    ended = [cell for cell, state in states.items() if state.get("state", "done") in ENDED]
    left = [
        cell
        for cell, state in states.items()
        if state.get("force") == "asked" or (state.get("force") == "begun" and cell not in ended)
    ]
    if left:
        log.info(f"force=true continues where it was interrupted: {len(left)} of {len(cells)} cells are left")
        return
    for cell in ended:
        cell.update(force="asked")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
