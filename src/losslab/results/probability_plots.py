"""The paper's Figure 2 from records: how probable the training targets are before and after each objective."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from losslab.files import read_json, write
from losslab.records.record import PROBABILITIES
from losslab.results import plots
from losslab.results.tables import Table
from losslab.statistics.intervals import over_seeds

NAMED = 10  # tokens of an end bin that the table names
NAME = "probabilities"  # of the files


@dataclass(frozen=True)
class Histogram:
    """The probabilities of the training targets under a model, as `training.target_probabilities.of` found them."""

    label: str
    seeds: list[dict[str, Any]]

    @property
    def edges(self) -> np.ndarray:
        return np.array(self.seeds[0]["edges"])

    @property
    def shares(self) -> np.ndarray:
        """(seeds, bins) percent of the tokens."""
        return np.array([100 * np.array(seed["counts"]) / seed["tokens"] for seed in self.seeds])

    def frequent(self, end: str) -> list[str]:
        """The most frequent tokens of the `lowest` or `highest` bin, over all seeds."""
        counts: Counter[str] = Counter()
        for seed in self.seeds:
            counts.update(dict(seed[end]))
        return [text for text, _ in counts.most_common(NAMED)]


@dataclass(frozen=True)
class Pair:
    """A row of a sweep's table: its base and what training made of it."""

    before: Histogram
    after: Histogram


def collect(table: Table) -> list[Pair]:
    """The rows of a table whose cells were measured, in its order."""
    models, datasets = ({row.names[group] for row in table.rows} for group in ("model", "dataset"))
    pairs, seen = [], set[Path]()
    for row in table.rows:
        own = [entry.folder for entry in row.entries if entry.folder not in seen]  # scored twice, measured once
        seen |= set(own)
        found = [record for folder in own if (record := read_json(folder / PROBABILITIES))]
        if found:
            name = f"{row.names['model']} " if len(models) > 1 else ""
            place = f" on {row.names['dataset']}" if len(datasets) > 1 else ""
            before = Histogram(f"{name}before{place}", [found[0]["before"]])  # the base is the same for all seeds
            pairs.append(Pair(before, Histogram(name + row.label, [record["after"] for record in found])))
    return pairs


def publish(pairs: list[Pair], folder: Path) -> None:
    """Write probabilities.md, .csv, .png and .svg."""
    write(folder / f"{NAME}.md", markdown(pairs))
    write(folder / f"{NAME}.csv", spreadsheet(pairs))
    figure(pairs, folder / NAME)


def distinct(pairs: list[Pair]) -> Iterator[Histogram]:
    """All histograms in order, a base that several rows share once."""
    known: list[list[int]] = []
    for pair in pairs:
        if (counts := pair.before.seeds[0]["counts"]) not in known:
            known.append(counts)
            yield pair.before
        yield pair.after


def markdown(pairs: list[Pair]) -> str:
    """How much lies in the two end bins, and which tokens are the most frequent there."""
    low, high = (f"p {sign} {pairs[0].before.edges[i]:g}" for sign, i in (("<", 1), ("≥", -2)))
    lines = [
        f"| objective | {low}, % | most frequent there | {high}, % | most frequent there |",
        "|---|---:|---|---:|---|",
    ]
    for found in distinct(pairs):
        ends = ((0, "lowest"), (-1, "highest"))
        cells = (f"{_percent(found.shares[:, i])} | {' '.join(map(_code, found.frequent(end)))}" for i, end in ends)
        lines.append(f"| {found.label} | {' | '.join(cells)} |")
    sizes = sorted({pair.before.seeds[0]["tokens"] for pair in pairs})
    about = (
        f"Probability p of the target token over {' or '.join(f'{n:,}' for n in sizes)} answer tokens of the training "
        "set, before and after training; with several seeds the mean ± half of its 95% interval."
    )
    return "\n".join(["# Probabilities of the training targets", "", *lines, "", about, ""])


def spreadsheet(pairs: list[Pair]) -> str:
    """A line for each bin: the share of the tokens in it, in percent, and half of its 95% interval over seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["objective", "from", "to", "percent", "half", "seeds"])
    for found in distinct(pairs):
        for low, high, shares in zip(found.edges, found.edges[1:], found.shares.T, strict=False):
            own = over_seeds(shares.tolist())
            writer.writerow([found.label, low, high, own.mean, own.half, len(shares)])
    return out.getvalue()


def figure(pairs: list[Pair], path: Path) -> None:
    """A panel for each row: the shares of the bins before and after, on a log axis."""
    across = min(4, len(pairs))
    down = -(-len(pairs) // across)
    figure, grid = plots.canvas(down, across, figsize=(1.2 + 3 * across, 1 + 2.6 * down), sharey=True, squeeze=False)
    panels = grid.flatten()
    for panel in panels[len(pairs) :]:
        panel.set_axis_off()
    for panel, pair in zip(panels, pairs, strict=False):
        panel.stairs(pair.before.shares.mean(0), fill=True, color="0.8", label="before")
        panel.stairs(pair.after.shares.mean(0), color="C0", linewidth=2, label="after")
        panel.set_title(pair.after.label, fontsize="medium")
        panel.set_xticks(range(len(pair.after.edges)), [f"{edge:g}" for edge in pair.after.edges], rotation=60)
        panel.tick_params(axis="x", labelsize="x-small")
    seen = np.concatenate([found.shares.ravel() for found in distinct(pairs)])
    panels[0].set_yscale("log")  # of all panels, which share it
    panels[0].set_ylim(bottom=seen[seen > 0].min() / 2)
    for row in grid:
        row[0].set_ylabel("share of answer tokens, %")
    figure.supxlabel("probability of the target token", fontsize="medium")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    plots.save(figure, path)


def _percent(values: np.ndarray) -> str:
    found = over_seeds(values.tolist())
    return f"{found.mean:.2f}" if found.half is None else f"{found.mean:.2f} ± {found.half:.2f}"


def _code(text: str) -> str:
    """A token as code in a cell of a Markdown table, blanks and line breaks to be seen."""
    shown = json.dumps(text, ensure_ascii=False)[1:-1].replace("\\\\", "\\").replace('\\"', '"').replace(" ", "␣")
    fence = "``" if "`" in shown else "`"
    inner = f" {shown} " if "`" in shown else shown
    return f"{fence}{inner}{fence}".replace("|", "\\|")
