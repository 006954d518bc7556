"""Refuses keys of a training that are set although nothing reads them, in a single run or in any cell of a sweep."""

import os
from collections.abc import Iterable
from dataclasses import fields

from losslab.config.choices import Shape
from losslab.config.schema import AdapterConfig, Config

# In the environment of a process that runs a part of a sweep: alone, a part may lack the cell that reads a key.
CHECKED = "LOSSLAB_SWEEP_CHECKED"


def check_unread(configs: Iterable[Config]) -> None:
    """Refuse a key that is set and that no cell reads: of an adapter without a rank, or of a schedule's other shape.

    `configs` are all cells of a sweep, which may vary what another key depends on, as in adapter.rank=0,4
    adapter.target_modules=[q_proj]; or a single run. Where `CHECKED` is set, the sweep has passed.
    """
    if CHECKED in os.environ:
        return
    parts = {(id(config.adapter), id(config.scheduler)): config for config in configs if config.trains}  # seeds share
    of_cells = [(config, _unread(config)) for config in parts.values()]
    for config, sentences in of_cells:
        for key, sentence in sentences.items():
            if _is_set(config, key) and all(key in others for _, others in of_cells):
                raise ValueError(sentence)


def _unread(config: Config) -> dict[str, str]:
    """The keys that other settings of a training leave without effect, each with the sentence that refuses it."""
    sentences = {}
    for field in [] if config.adapter.rank else fields(AdapterConfig):
        key = f"adapter.{field.name}"
        sentences[key] = (
            f"{key} is for adapters, and adapter.rank=0 trains all weights: set adapter.rank, or leave {key} out"
        )
    if config.scheduler.shape == Shape.constant:
        sentences["scheduler.floor"] = (
            "scheduler.floor is where the learning rate ends, and scheduler.shape=constant keeps it: leave one out"
        )
    if config.scheduler.shape != Shape.wsd:
        sentences["scheduler.decay_ratio"] = (
            "scheduler.decay_ratio is for scheduler.shape=wsd: set that too, or leave it out"
        )
    return sentences


def _is_set(config: Config, key: str) -> bool:
    group, name = key.split(".")
    part = getattr(config, group)
    return getattr(part, name) != getattr(type(part)(), name)
