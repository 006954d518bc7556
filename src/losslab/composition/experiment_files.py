"""Reads the file of `experiments/` that declares a sweep: its cells, and the layout of its table and plots."""

from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from hydra import compose
from omegaconf import DictConfig

from losslab.composition.compose import typed
from losslab.composition.composing import composing
from losslab.composition.grid import configurations
from losslab.config.paths import EXPERIMENTS
from losslab.config.schema import Config
from losslab.config.sweep import SweepConfig


def declared(sweep: str, results: str) -> list[Config]:
    """The configurations of the grid that a sweep's file declares, in order; empty for a sweep without a file.

    They are typed but not checked, since data that a cell needs may not exist yet. Raises ValueError for a file that
    does not compose.
    """
    if (experiment := find(sweep)) is None:
        return []
    with _composing(experiment):
        return configurations(_compose([f"experiment={experiment}", f"machine.results={results}"]), typed)


def layout(sweep: str) -> SweepConfig | None:
    """The table layout that a sweep's file declares; None without a file. Errors are those of `declared`."""
    if (experiment := find(sweep)) is None:
        return None
    with _composing(experiment):
        whole = _compose([f"experiment={experiment}"])
        return typed(whole, whole.hydra.runtime.choices).sweep


def find(sweep: str) -> str | None:
    """The NAME of experiment=NAME that declares a sweep; None if no file does."""
    experiments = []
    for path in sorted(EXPERIMENTS.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if sweep not in text:  # faster than parsing YAML
            continue
        try:
            content = yaml.safe_load(text) or {}
        except yaml.YAMLError:
            continue  # Hydra reports this when the file is used
        if (content.get("sweep") or {}).get("name") == sweep:
            experiments.append(path.relative_to(EXPERIMENTS).with_suffix("").as_posix())
    if len(experiments) > 1:
        raise ValueError(f"experiments {' and '.join(experiments)} both declare the sweep {sweep}: rename one")
    return experiments[0] if experiments else None


@contextmanager
def _composing(experiment: str) -> Iterator[None]:
    """As `composing`, with errors that name the experiment."""
    try:
        with composing():
            yield
    except ValueError as error:
        raise ValueError(f"experiment={experiment}: {error}") from None


def _compose(overrides: list[str]) -> DictConfig:
    return compose("config", overrides, return_hydra_config=True)
