"""The table of the page: every row's scores, and how much better it is than any other row of its model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from losslab.config.schema import BASE
from losslab.report.cells import Group
from losslab.report.sample_browser import Scored, same
from losslab.results.learning_curves import AVERAGE
from losslab.statistics.intervals import Estimate, paired

DEFAULTS = ("sft", BASE)  # what rows are compared with, where nothing else is asked for

Samples = Mapping[tuple[Path, str], Scored]  # of a cell's folder and a protocol


@dataclass(frozen=True)
class Line:
    group: Group
    values: list[Estimate | None]  # of each column
    against: dict[str, dict[str, Estimate]]  # of another row's label: the difference on each column


def table(groups: Sequence[Group], columns: Sequence[str], benchmarks: Sequence[str], samples: Samples) -> list[Line]:
    """A line for each row, with its paired differences to all rows of its model and protocol.

    The average is over `benchmarks`, which are among the columns.
    """
    return [
        Line(
            group,
            [group.row.value(column) for column in columns],
            {
                other.label: found
                for other in groups
                if other is not group
                and (other.model, other.row.measure) == (group.model, group.row.measure)
                and (found := differences(other, group, columns, benchmarks, samples))
            },
        )
        for group in groups
    ]


def differences(
    a: Group, b: Group, columns: Sequence[str], benchmarks: Sequence[str], samples: Samples
) -> dict[str, Estimate]:
    """How much better b is than a over the seeds that both have, on the columns whose problems are the same.

    Without a seed in common there is nothing.
    """
    cells = [{entry.seed: samples[entry.folder, str(entry.protocol)] for entry in group.row.scored} for group in (a, b)]
    seeds = sorted(set(cells[0]) & set(cells[1]))
    if not seeds:
        return {}
    first = cells[0][seeds[0]]
    names = [name for name in columns if all(same(own[seed], first, name) for own in cells for seed in seeds)]
    left, right = ({name: np.stack([own[seed].means[name] for seed in seeds]) for name in names} for own in cells)
    found = {name: paired({name: left[name]}, {name: right[name]})[name] for name in names}
    if set(benchmarks) <= set(names):  # as in the table, an average over fewer would not compare
        means = ({name: own[name] for name in benchmarks} for own in (left, right))
        found[AVERAGE] = paired(*means)[AVERAGE]
    return found


def reference(groups: Sequence[Group], against: str | None) -> str | None:
    """The label that rows are compared with: the one asked for, else SFT's, else the base's.

    Raises:
        ValueError: no row has the label that was asked for.
    """
    labels = list(dict.fromkeys(group.label for group in groups))
    if against is not None:
        if against not in labels:
            raise ValueError(f"no row is called {against}: there are {', '.join(labels)}")
        return against
    for wanted in DEFAULTS:
        for group in groups:
            if group.row.name == wanted and not group.row.earlier:
                return group.label
    return labels[0] if labels else None
