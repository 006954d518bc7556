"""`hydra/sweeper=rows`: a sweep over rows that are no product of values, such as those that a race has not dropped."""

from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override


@dataclass
class RowsConf:
    _target_: str = "hydra_plugins.losslab_sweeper.RowsSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    rows: list[list[str]] = field(default_factory=list)  # the overrides of each row


ConfigStore.instance().store(group="hydra/sweeper", name="rows", node=RowsConf)


class RowsSweeper(BasicSweeper):
    """Runs every row with all values that the command line gives to other keys, such as the seed."""

    def __init__(self, rows: Any, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.rows = rows

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:  # type: ignore[override]
        from losslab.composition.grid import of_rows

        return [of_rows(self.rows, overrides)]
