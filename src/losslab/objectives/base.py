from dataclasses import dataclass
from typing import ClassVar

from losslab.objectives import Need


@dataclass(frozen=True)
class Base:
    """No training: the base model is scored, and its row is compared with those of the objectives."""

    needs: ClassVar[frozenset[Need]] = frozenset()
