"""The paper's Figure 2 from records: probabilities of the training targets before and after each objective."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from losslab.files.csv_files import csv_text
from losslab.files.record_names import PROBABILITIES
from losslab.records.reading import DamagedRecord, read_facts
from losslab.results import plots
from losslab.results.tables import Table
from losslab.statistics.intervals import over_seeds

NAMED = 10  # tokens of an end bin that the table lists
_END = {"counts": [int], "edges": [(int, float)], "tokens": int, "lowest": [list], "highest": [list]}


@dataclass(frozen=True)
class Histogram:
    """The probabilities of the training targets under a model, as `training.target_probabilities` measured them."""

    label: str
    seeds: list[dict[str, Any]]

    @property
    def edges(self) -> np.ndarray:
        return np.array(self.seeds[0]["edges"])

    @property
    def shares(self) -> np.ndarray:
        """(seeds, bins) percent of the tokens."""
        return np.array([100 * np.array(seed["counts"]) / seed["tokens"] for seed in self.seeds])

    def frequent(self, end: str, most: int) -> list[tuple[str, int]]:
        """The most frequent tokens of the `lowest` or `highest` bin with their counts, over all seeds."""
        counts: Counter[str] = Counter()
        for seed in self.seeds:
            counts.update(dict(seed[end]))
        return counts.most_common(most)


@dataclass(frozen=True)
class BeforeAfter:
    """The histograms of a row of a sweep's table, before and after training."""

    before: Histogram
    after: Histogram
    folders: tuple[Path, ...] = field(default=(), repr=False)  # of its cells; no part of a figure


def read_probabilities(folder: Path) -> dict[str, Any]:
    """The `before` and `after` of a cell's probabilities.json; `{}` if they were not measured."""
    path = folder / PROBABILITIES
    content = read_facts(path, {"before": _END, "after": _END})
    if content and set(content) >= {"before", "after"}:
        for end in (content["before"], content["after"]):
            if len(end["edges"]) != len(end["counts"]) + 1 or not sum(end["counts"]):
                raise DamagedRecord(path, "its counts and edges do not match")
        return content
    return {}


def measured_rows(table: Table) -> list[BeforeAfter]:
    """The rows of a table whose cells were measured, in its order; cells of several rows, as of scores under two
    protocols, with the first one."""
    models, datasets = ({row.names[group] for row in table.rows} for group in ("model", "dataset"))
    pairs, seen = [], set[Path]()
    for row in table.rows:
        folders = [entry.folder for entry in row.entries if entry.folder not in seen]  # scored twice, measured once
        seen |= set(folders)
        of_folder = {folder: table.attempt(read_probabilities, folder, {}) for folder in folders}
        if records := [record for record in of_folder.values() if record]:
            name = f"{row.names['model']} " if len(models) > 1 else ""
            place = f" on {row.names['dataset']}" if len(datasets) > 1 else ""
            before = Histogram(f"{name}before{place}", _once([record["before"] for record in records]))
            after = Histogram(name + row.label, [record["after"] for record in records])
            pairs.append(BeforeAfter(before, after, tuple(folder for folder, record in of_folder.items() if record)))
    return pairs


def measured_cells(pairs: Sequence[BeforeAfter]) -> set[Path]:
    """The folders of all cells that were measured."""
    return {folder for pair in pairs for folder in pair.folders}


def _once(before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The base of all seeds once where they share it; those of whole repetitions differ, and so do their rows."""
    return before[:1] if all(each == before[0] for each in before) else before


def _histograms(pairs: Sequence[BeforeAfter]) -> Iterator[Histogram]:
    """All histograms in order, a base that several rows share once; another one of that name is named after its row."""
    bases: list[list[list[int]]] = []
    labels = set()
    for pair in pairs:
        if (counts := [seed["counts"] for seed in pair.before.seeds]) not in bases:
            bases.append(counts)
            label = pair.before.label
            yield replace(pair.before, label=f"{label} ({pair.after.label})") if label in labels else pair.before
            labels.add(label)
        yield pair.after


def to_markdown(pairs: Sequence[BeforeAfter]) -> str:
    """The shares of the two end bins and their most frequent tokens, as a Markdown table."""
    low, high = (f"p {sign} {pairs[0].before.edges[i]:g}" for sign, i in (("<", 1), ("≥", -2)))
    lines = [
        f"| objective | {low}, % | most frequent there | {high}, % | most frequent there |",
        "|---|---:|---|---:|---|",
    ]
    for histogram in _histograms(pairs):
        cells = []
        for i, end in ((0, "lowest"), (-1, "highest")):
            cells.append(f"{over_seeds(histogram.shares[:, i]):.2f}")
            cells.append(" ".join(_code(text) for text, _ in histogram.frequent(end, NAMED)))
        lines.append(f"| {histogram.label} | {' | '.join(cells)} |")
    sizes = [seed["tokens"] for pair in pairs for seed in pair.before.seeds]
    tokens = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
    about = (
        f"Probability p of the target token over {tokens} answer tokens of the training set, before and after "
        "training; with several seeds the mean ± half of its 95% interval."
    )
    return "\n".join(["# Probabilities of the training targets", "", *lines, "", about, ""])


def to_csv(pairs: Sequence[BeforeAfter]) -> str:
    """A line for each bin: the share of the tokens in it, in percent, and half of its 95% interval over seeds."""
    rows = []
    for histogram in _histograms(pairs):
        for low, high, shares in zip(histogram.edges, histogram.edges[1:], histogram.shares.T, strict=False):
            mean = over_seeds(shares)
            rows.append([histogram.label, low, high, mean.mean, mean.half, len(shares)])
    return csv_text(["objective", "from", "to", "percent", "half", "seeds"], rows)


def figure(pairs: Sequence[BeforeAfter]) -> Any:
    """A panel for each row: the shares of the bins before and after, on a log axis."""
    across = min(4, len(pairs))
    down = -(-len(pairs) // across)
    figure, grid = plots.canvas(down, across, (1.2 + 3 * across, 1 + 2.6 * down), sharey=True)
    panels = grid.flatten()
    for panel in panels[len(pairs) :]:
        panel.set_axis_off()
    for panel, pair in zip(panels, pairs, strict=False):
        panel.stairs(pair.before.shares.mean(0), fill=True, color="0.8", label="before")
        panel.stairs(pair.after.shares.mean(0), color="C0", linewidth=2, label="after")
        panel.set_title(pair.after.label, fontsize="medium")
        panel.set_xticks(range(len(pair.after.edges)), [f"{edge:g}" for edge in pair.after.edges], rotation=60)
        panel.tick_params(axis="x", labelsize="x-small")
    shares = np.concatenate([histogram.shares.ravel() for histogram in _histograms(pairs)])
    panels[0].set_yscale("log")  # of all panels, which share it
    panels[0].set_ylim(bottom=shares[shares > 0].min() / 2)
    for row in grid:
        row[0].set_ylabel("share of answer tokens, %")
    figure.supxlabel("probability of the target token", fontsize="medium")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def _code(text: str) -> str:
    """A token as code for a cell of a Markdown table, with spaces and line breaks made visible."""
    shown = json.dumps(text, ensure_ascii=False)[1:-1].replace("\\\\", "\\").replace('\\"', '"').replace(" ", "␣")
    fence = "``" if "`" in shown else "`"
    inner = f" {shown} " if "`" in shown else shown
    return f"{fence}{inner}{fence}".replace("|", "\\|")
