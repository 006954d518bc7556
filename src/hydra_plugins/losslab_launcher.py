"""Where the cells of a sweep run, for Hydra: `hydra/launcher=slurm` and `hydra/launcher=local`.

Hydra looks for launchers in this package alone, and imports all of it at every start: what they do is in
`losslab.launchers.slurm` and `losslab.launchers.local`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import DictConfig, OmegaConf


@dataclass
class SlurmConf(SlurmQueueConf):
    """hydra-submitit-launcher's settings and ours."""

    _target_: str = "hydra_plugins.losslab_launcher.SlurmLauncher"
    environment: dict[str, str] = field(default_factory=dict)
    container: str | None = None
    tries: int = 10
    separate_evaluation: bool = False


@dataclass
class LocalConf:
    _target_: str = "hydra_plugins.losslab_launcher.LocalLauncher"
    processes: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="losslab_slurm", node=SlurmConf)
ConfigStore.instance().store(group="hydra/launcher", name="losslab_local", node=LocalConf)


class _Launcher(Launcher):
    def __init__(self, **parameters: Any) -> None:
        self.parameters = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in parameters.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config


class SlurmLauncher(_Launcher):
    """Submits the cells that are not done as one array of jobs, and returns."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from losslab.cells.sweep import unfinished
        from losslab.launchers.slurm import submit
        from losslab.planning.memory import GIB
        from losslab.planning.sizing import of_node

        cells, settings = unfinished(self.config, job_overrides), self.parameters
        if not cells:
            print(f"{self.config.sweep.name}: all cells are done, there is nothing to submit", flush=True)
            return []
        if settings["mem_gb"] is None:
            settings["mem_gb"] = math.ceil(max(of_node(config, settings) for config, _ in cells.values()) / GIB)
        overrides = {str(folder): words for folder, (_, words) in cells.items()}
        submit(self.config.sweep.name, overrides, settings, Path(self.config.machine.results))
        return []


class LocalLauncher(_Launcher):
    """Runs each cell in its own process, as many at a time as the machine has room for, and waits for the last."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from losslab.cells.sweep import unfinished
        from losslab.config.choices import Device
        from losslab.distributed.gpus import free
        from losslab.launchers.local import run
        from losslab.planning.sizing import cells_at_once

        gpus = free() if self.config.machine.device != Device.cpu else None
        if gpus == []:
            raise ValueError("every GPU of this machine is in use: wait, or end what uses them")
        cells = unfinished(self.config, job_overrides)
        if cells:
            at_once = self.parameters["processes"] or len(gpus or []) or cells_at_once([c for c, _ in cells.values()])
            run({folder: overrides for folder, (_, overrides) in cells.items()}, at_once, gpus or [])
        return []
