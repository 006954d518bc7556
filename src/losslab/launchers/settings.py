"""Settings of a launcher that nothing reads, or that cannot work, are refused before a sweep is planned."""

from typing import Any

from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import DictConfig, OmegaConf

from losslab.config.choices import Stage

# Keys that come with the launcher of submitit, and what there is in their place.
UNREAD = {
    "name": "the jobs of a sweep are called after sweep.name",
    "submitit_folder": "the files of its jobs lie in the sweep's folder under machine.results",
    "max_num_timeout": "hydra.launcher.tries says how often a cell may start",
}
LEAST = {
    "nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0, "cpus_per_task": 1, "mem_gb": 0, "timeout_min": 1,
    "array_parallelism": 1, "tries": 1, "signal_delay_s": 0, "processes": 1,
}  # fmt: skip


def check(launcher: DictConfig) -> None:
    """Refuse a key that losslab does not read, or a number that is too small.

    Args:
        launcher: `hydra.launcher` of a composed configuration, before interpolations are resolved.

    Raises:
        ValueError: names the key, and says what to do.
    """
    values: Any = OmegaConf.to_container(launcher, resolve=False)
    for key, instead in UNREAD.items():
        if key in values and values[key] != getattr(SlurmQueueConf, key):
            raise ValueError(f"hydra.launcher.{key}={values[key]} is not read: leave it out; {instead}")
    for key, least in LEAST.items():
        value = values.get(key)
        if isinstance(value, int | float) and value < least:
            raise ValueError(f"hydra.launcher.{key} is {value}: set it to {least} or more")


def check_stage(launcher: DictConfig, stage: Stage) -> None:
    """Refuse a stage where the launcher gives each of the two a job of its own."""
    if launcher.get("separate_evaluation") and stage != Stage.all:
        raise ValueError(
            f"hydra.launcher.separate_evaluation=true runs both stages: leave stage={stage} out, or leave it false"
        )
