"""What can be found wrong with a cell before its data and its model are loaded."""

from losslab.config.schema import Config, Stage
from losslab.evaluation.evaluate import check as check_scoring
from losslab.models.try_out import try_out
from losslab.objectives import Objective
from losslab.records.record import Cell


def check(config: Config, cell: Cell) -> None:
    """Raise ValueError for a benchmark that cannot be read, which is to fail before the hours of training, for an
    objective that fails, and for stage=score without a model.
    """
    check_scoring(config)
    if cell.trained(config):
        return
    if config.stage == Stage.score:
        raise ValueError("stage=score finds no trained model: run stage=train first")
    if isinstance(config.objective, Objective):
        try_out(config.objective)
