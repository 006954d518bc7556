"""TensorBoard: event files under <cell>/tensorboard, for `tensorboard --logdir results`."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import FileWriter, summary

from losslab.results.load_records import science
from losslab.tracking import About, Entry, Scores, Table

ENDED_WELL = ("trained", "done")  # states of a cell


class TensorBoard:
    """Event files of one run. Each attempt writes all entries and replaces the files of earlier attempts."""

    after = -1
    scores: Scores | None = None

    def __init__(self, about: About) -> None:
        folder = Path(about.folder) / "tensorboard" / about.part
        earlier = list(folder.glob("events.out.tfevents.*"))
        self.writer = FileWriter(str(folder))
        for file in earlier:
            file.unlink()
        self.end = []
        if about.config:
            hyperparameters = science(about.config) | {"seed": about.config["seed"]}
            plain = {
                key: value if isinstance(value, int | float) else str(value) for key, value in hyperparameters.items()
            }
            # HPARAMS reads only the names of scores here; their values are the last points of the curves with these
            # names.
            *begin, end = summary.hparams(plain, dict.fromkeys(about.scores, 0.0))
            self.end.append(end)
            for part in begin:
                self.writer.add_summary(part)

    def log(self, entry: Entry) -> None:
        shown = [summary.scalar(name, value) for name, value in entry.values.items()]
        shown += [_histogram(name, *both) for name, both in entry.histograms.items()]
        shown += [summary.text(name, markdown(table)) for name, table in entry.tables.items()]
        for part in shown:
            self.writer.add_summary(part, entry.step)
        self.writer.flush()

    def checkpoint(self, folder: Path, about: dict[str, Any]) -> None:
        """Does nothing: TensorBoard cannot store models, and losslab.composition.checks refuses the option."""

    def finish(self, told: dict[str, Any]) -> None:
        table = Table(["name", "value"], [*map(list, told.items())])
        for part in [summary.text("summary", markdown(table)), *(self.end if told.get("state") in ENDED_WELL else [])]:
            self.writer.add_summary(part)
        self.writer.close()


def _histogram(name: str, counts: list[int], edges: list[float]) -> Any:
    """TensorBoard also needs sum and sum of squares, computed as if all values lay in the middle of their bins."""
    middles = [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]
    total = sum(n * x for n, x in zip(counts, middles, strict=True))
    squares = sum(n * x * x for n, x in zip(counts, middles, strict=True))
    return summary.histogram_raw(name, edges[0], edges[-1], sum(counts), total, squares, edges[1:], counts)


def markdown(table: Table) -> str:
    def text(value: Any) -> str:
        shown = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
        return shown.replace("|", "\\|").replace("\n", "<br>")

    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(map(text, line)) + " |" for line in lines)
