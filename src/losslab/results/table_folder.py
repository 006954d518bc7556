"""The folder of a table while it is written: it removes what an earlier writing made and this one does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from losslab.files.atomic import write
from losslab.results import plots

# All that a table may have; the folder has other files too, such as those of a race, of a tracker and of the user.
FIGURES = ("figure", "steps", "settings", "probabilities", "gain_and_loss")
TEXTS = (
    *(
        "table.md",
        "table.tex",
        "table.csv",
        "passes.csv",
        "breakdown.csv",
        "conclusion.md",
        "tuning.json",
        "claims.csv",
    ),
    *("gain_and_loss.csv", "kl_to_base.csv", "steps.csv", "settings.csv", "probabilities.md", "probabilities.csv"),
)


class TableFolder:
    """Writes the files of a table; `digests` is that of `plots.draw`."""

    def __init__(self, path: Path, digests: Path) -> None:
        self.path, self.digests = path, digests
        self.stale = {*TEXTS, *(f"{name}{suffix}" for name in FIGURES for suffix in (".png", ".svg"))}

    def write(self, name: str, text: str) -> None:
        self.stale.remove(name)
        write(self.path / name, text)

    def draw(self, name: str, figure: Callable[..., Any], *data: Any) -> None:
        self.stale -= {f"{name}.png", f"{name}.svg"}
        plots.draw(self.path / name, self.digests, figure, *data)

    def remove_stale(self) -> None:
        """Remove what was not written: the records that it was made from are gone."""
        for name in self.stale:
            (self.path / name).unlink(missing_ok=True)
