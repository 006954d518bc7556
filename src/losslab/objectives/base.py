from dataclasses import dataclass
from typing import ClassVar

from losslab.objectives import Need


@dataclass(frozen=True)
class Base:
    """No training: the model is scored as it is, in the row that those of the objectives are compared with."""

    needs: ClassVar[frozenset[Need]] = frozenset()
