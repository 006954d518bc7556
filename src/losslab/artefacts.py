"""What a file of `experiments/` declares, found by its sweep's name: the cells that the table or plot must have."""

from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from losslab.compose import grid, typed
from losslab.files import CONF, EXPERIMENTS
from losslab.messages import sentence
from losslab.schema import Config


def declared(sweep: str, results: str) -> list[Config]:
    """The configurations of a sweep's grid as its file declares it, in its order; none for a sweep without a file.

    They are typed but not checked: data that a cell needs may still have to be made. ValueError for a file that does
    not compose.
    """
    if (experiment := find(sweep)) is None:
        return []
    if GlobalHydra.instance().is_initialized():
        return _compose(experiment, results)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return _compose(experiment, results)


def find(sweep: str) -> str | None:
    """The experiment that declares a sweep, as in experiment=NAME."""
    for path in sorted(EXPERIMENTS.rglob("*.yaml")):
        if (yaml.safe_load(path.read_text(encoding="utf-8")).get("sweep") or {}).get("name") == sweep:
            return path.relative_to(EXPERIMENTS).with_suffix("").as_posix()
    return None


def _compose(experiment: str, results: str) -> list[Config]:
    own = [f"experiment={experiment}", f"machine.results={Path(results)}"]
    try:
        whole = compose("config", own, return_hydra_config=True)
        cells = [compose("config", cell, return_hydra_config=True) for cell in grid(whole)]
    except HydraException as error:
        raise ValueError(f"experiment={experiment}: {sentence(error)}") from None
    return [typed(cell, cell.hydra.runtime.choices) for cell in cells]
