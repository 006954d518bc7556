"""What can be found wrong with a cell before its data and its model are loaded."""

from losslab.config.messages import under_key
from losslab.config.schema import EMBEDDED_MODELS, Config, Stage
from losslab.data.hub_datasets import check_model
from losslab.evaluation.evaluate import check as check_scoring
from losslab.models.try_out import try_out
from losslab.objectives import Objective
from losslab.records.record import Cell


def check(config: Config, cell: Cell) -> None:
    """Raise ValueError for a benchmark that cannot be read, a model that is not there, an objective that fails, and
    stage=score without a model: they would end the cell after hours of training.

    Processes that are started afterwards know whether the hub answers.
    """
    check_scoring(config)
    if not config.served and not (config.trains and cell.trained(config)):
        _check_models(config)
    if cell.trained(config):
        return
    if config.stage == Stage.score:
        raise ValueError("stage=score finds no trained model: run stage=train first")
    if isinstance(config.objective, Objective):
        try_out(config.objective)


def _check_models(config: Config) -> None:
    if config.model.path not in EMBEDDED_MODELS:
        check_model(config.model)
    if config.trains and config.reference.path not in (None, *EMBEDDED_MODELS):
        with under_key("reference.path"):
            check_model(config.reference_model)
