"""Which keys of a cell nothing reads; refuses those that are set, in a single run or in any cell of a sweep."""

import os
from collections.abc import Iterable
from dataclasses import fields

from losslab.composition.words import shipped_paths
from losslab.config.choices import Shape
from losslab.config.schema import EMBEDDED_MODELS, AdapterConfig, Config, ModelConfig, SchedulerConfig

# In the environment of a process that runs a part of a sweep: alone, a part may lack the cell that reads a key.
CHECKED = "LOSSLAB_SWEEP_CHECKED"


def check_unread(configs: Iterable[Config]) -> None:
    """Refuse a key that is set and that no cell reads, such as one of an adapter without a rank.

    `configs` are all cells of a sweep, which may vary what another key depends on, as in adapter.rank=0,4
    adapter.target_modules=[q_proj]; or a single run. Where `CHECKED` is set, the sweep has passed.
    """
    if CHECKED in os.environ:
        return
    parts = {  # which seeds share
        tuple(map(id, (c.model, c.dataset, c.loss, c.adapter, c.scheduler, c.train))): c for c in configs
    }
    of_cells = [(config, config.trains, unread(config)) for config in parts.values()]
    for config, _, sentences in of_cells:
        for key, sentence in sentences.items():
            could = [others for _, trains, others in of_cells if trains or key.startswith("model.")]
            if _is_set(config, key) and all(key in others for others in could):
                raise ValueError(sentence)


def unread(config: Config) -> dict[str, str]:
    """The keys that other settings of a cell leave without effect, each with the sentence that refuses it.

    Of a base, which is not trained, those of the model alone: nothing else of it is in its identity.
    """
    sentences = {}
    # A file of conf/model that has the path of an embedded model sets these keys, also where another path is given.
    paths = {config.model.path, shipped_paths().get(config.names.model)}
    if paths.isdisjoint(EMBEDDED_MODELS):
        for key in (f"model.{field.name}" for field in fields(ModelConfig) if field.name.startswith("pretrain_")):
            sentences[key] = (
                f"{key} is for the embedded models, and model.path={config.model.path} is not made here: leave it out"
            )
    if not config.trains:
        return sentences
    for field in [] if config.adapter.rank else fields(AdapterConfig):
        key = f"adapter.{field.name}"
        sentences[key] = (
            f"{key} is for adapters, and adapter.rank=0 trains all weights: set adapter.rank, or leave {key} out"
        )
    sentences |= _of_scheduler(config.scheduler)
    if config.dataset.reward_column is None:
        sentences["dataset.success_rate_column"] = (
            "dataset.success_rate_column is for answers with rewards: set dataset.reward_column too, or leave it out"
        )
    if config.train.drop_last and _online(config):
        sentences["train.drop_last"] = (
            f"loss={config.names.loss} leaves out a last batch that is not full in any case: leave train.drop_last out"
        )
    return sentences


def _of_scheduler(scheduler: SchedulerConfig) -> dict[str, str]:
    sentences = {}
    if scheduler.shape == Shape.constant:
        sentences["scheduler.floor"] = (
            "scheduler.floor is where the learning rate ends, and scheduler.shape=constant keeps it: leave one out"
        )
    if scheduler.shape != Shape.wsd:
        sentences["scheduler.decay_ratio"] = (
            "scheduler.decay_ratio is for scheduler.shape=wsd: set that too, or leave it out"
        )
    if scheduler.warmup_steps is not None:
        sentences["scheduler.warmup_ratio"] = (
            "scheduler.warmup_steps takes the place of scheduler.warmup_ratio: leave one out, or set the ratio to its "
            f"default, {SchedulerConfig.warmup_ratio:g}, where a file sets it"
        )
    return sentences


def _online(config: Config) -> bool:
    from losslab.objectives.online import OnPolicy  # here, since it loads torch

    return isinstance(config.objective, OnPolicy)


def _is_set(config: Config, key: str) -> bool:
    group, name = key.split(".")
    part = getattr(config, group)
    return getattr(part, name) != getattr(type(part)(), name)
