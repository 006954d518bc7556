"""Each objective at its own best value of a key, `sweep.tune`: chosen on some problems and scored on the others.

Half of the problems of each benchmark, picked by a hash, choose; the other half scores. The choice is made within each
seed, among its models at all values of the key, by the average over the choosing halves: a seed is a repetition of the
whole procedure, and the interval over seeds covers the choice. Chosen and scored on the same problems, the best of many
values would look better than it is, and the more so the more values there are (Cawley & Talbot, JMLR 11, 2010).

Beside it stands each objective at the shared value: the one at which all objectives together have the highest average,
chosen in the same way. Both are Rows as those of a table, whose scores are those of the scoring halves.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losslab.results.labels import labels
from losslab.results.learning_curves import AVERAGE
from losslab.results.load_records import CellScores
from losslab.results.problem_shares import ProblemShares, ScoredProblems
from losslab.results.setting_curves import grouped, without
from losslab.results.table_formats import Sheet, SheetCell, best_of_rows, measure_of, score_cells
from losslab.results.tables import Measure, Row, Table, rank
from losslab.statistics.intervals import over_benchmarks, over_problems
from losslab.statistics.versions import Versions

Averages = dict[Any, dict[int, float]]  # by value of the key and seed: the average over the choosing halves, 0 to 1


@dataclass(frozen=True)
class Candidates:
    """The rows of one objective, which differ in the tuned key alone."""

    key: str
    rows: list[Row]
    label: str  # of the objective
    averages: Averages  # of the cells that have all benchmarks

    @property
    def comparable(self) -> tuple[str, Measure | None]:
        """The model and the measure: objectives that have both in common may share a value of the key."""
        return self.rows[0].names["model"], self.rows[0].measure


@dataclass(frozen=True)
class Choice:
    """An objective and the values that its seeds chose."""

    row: Row  # the chosen cells, with the scores of the scoring halves; a seed that lacks a value has none
    values: list[Any]  # that there were to choose from, ascending where they are numbers
    chosen: dict[int, Any]  # by seed
    shared: bool = False  # whether all objectives chose together

    @property
    def at_the_end(self) -> int:
        """How many seeds chose the first or the last of several numbers: the best may lie beyond."""
        numbers = len(self.values) > 1 and all(isinstance(value, int | float) for value in self.values)
        return sum(value in (self.values[0], self.values[-1]) for value in self.chosen.values()) if numbers else 0

    def __str__(self) -> str:
        """`0.0002 (2 seeds), 0.0001 (1 seed)`, most frequent first."""
        counts = Counter(self.chosen.values()).most_common()
        return ", ".join(f"{_text(value)} ({n} seed{'s' * (n > 1)})" for value, n in counts)


class ScoringHalf(ProblemShares):
    """As ProblemShares, of the problems that did not choose."""

    def __init__(self, shares: ProblemShares) -> None:
        super().__init__(shares.table, shares.scores)
        self.whole = shares

    def of(self, entry: CellScores) -> ScoredProblems:
        whole = self.whole.of(entry)
        scores = {name: ~choosing(whole, name) for name in whole.shares}
        halves = {name: part[scores[name]] for name, part in whole.shares.items()}
        originals = {name: list(compress(of, scores[name])) for name, of in whole.originals.items()}
        return ScoredProblems(whole.problems, halves, originals)


@dataclass(frozen=True)
class Tuning:
    key: str
    table: Table  # each objective at its own best value, and the rows without the key
    shares: ScoringHalf
    own: list[Choice]
    shared: list[Choice]


def choosing(scored: ScoredProblems, name: str) -> NDArray[np.bool_]:
    """(problems,) whether each problem of a benchmark chooses: half of them, by their hashes.

    The versions of one problem, also in other benchmarks, choose all or score all: of these about half choose.
    """
    if name in scored.originals:
        digests = [hashlib.sha256(original.encode()).digest() for original in scored.originals[name]]
        return np.array([digest[0] % 2 == 0 for digest in digests])
    return half_of_problems(scored.problems[name], len(scored.shares[name]))


@lru_cache(maxsize=1024)
def half_of_problems(problems: str, count: int) -> NDArray[np.bool_]:
    """(count,) half of them, rounded down, by their hashes' order.

    `problems` is the hash of the benchmark's problems in protocol.yaml, so that every sweep has the same split.
    """
    hashes = [hashlib.sha256(f"{problems} {i}".encode()).hexdigest() for i in range(count)]
    chooses = np.zeros(count, bool)
    chooses[np.argsort(hashes)[: count // 2]] = True
    return chooses


def tune(table: Table, shares: ProblemShares) -> Tuning | None:
    """Each objective of a table at its own best value of `sweep.tune`; None where no row has several values."""
    key = table.sweep.tune
    if key is None or max(map(len, values(table)), default=0) < 2:
        return None
    groups, half = grouped(table, [key]), ScoringHalf(shares)
    named = zip(groups, labels([without(rows[0], [key]) for rows in groups]), strict=True)
    candidates = [Candidates(key, rows, label, _averages(rows, key, shares)) for rows, label in named]
    own = [_choice(each, each.averages, half) for each in candidates]
    shared = _shared(candidates, half)
    rest = [_halved(row, half) for row in table.rows if key not in row.config and not row.earlier]
    tuned = replace(table, rows=[*rest, *(choice.row for choice in own)], others=[])
    return Tuning(key, tuned, half, own, shared)


def values(table: Table) -> list[list[Any]]:
    """The values of `sweep.tune` that each objective has, numbers ascending."""
    key = table.sweep.tune
    return [_ordered(row.config[key] for row in rows) for rows in grouped(table, [key])] if key else []


def _averages(rows: Sequence[Row], key: str, shares: ProblemShares) -> Averages:
    """Of each value and seed whose cell has all benchmarks of the table, each with two problems or more."""
    averages: Averages = {}
    benchmarks = shares.table.benchmarks
    for value in _ordered(row.config[key] for row in rows):
        averages[value] = {}
        for entry in (entry for row in rows if row.config[key] == value for entry in row.scored):
            scored = shares.of(entry)
            parts = [scored.shares.get(name, np.empty(0)) for name in benchmarks]
            if parts and min(map(len, parts)) > 1:
                masks = [choosing(scored, name) for name in benchmarks]
                if any(mask.all() or not mask.any() for mask in masks):  # of a few originals all may be on one side
                    continue
                means = [part[mask].mean() for part, mask in zip(parts, masks, strict=True)]
                averages[value][entry.seed] = float(np.mean(means))
    return averages


def _choice(candidates: Candidates, averages: Averages, half: ScoringHalf, shared: bool = False) -> Choice:
    """The first of the values with the highest of these averages, in each seed that has them all."""
    key, rows = candidates.key, candidates.rows
    seeds = sorted({entry.seed for row in rows for entry in row.entries})
    complete = [seed for seed in seeds if all(seed in of_value for of_value in averages.values())]
    chosen = {seed: max(averages, key=lambda value: averages[value][seed]) for seed in complete}
    entries = []
    for seed in seeds:
        cells = {row.config[key]: entry for row in rows for entry in row.entries if entry.seed == seed}
        if seed in chosen:
            entries.append(_of_half(cells[chosen[seed]], half))
        else:
            entries.append(replace(next(iter(cells.values())), protocol=None, scores={}))
    row = replace(without(rows[0], [key]), entries=entries, label=candidates.label)
    return Choice(row, list(averages), chosen, shared)


def _shared(candidates: Sequence[Candidates], half: ScoringHalf) -> list[Choice]:
    """Each objective of one model and measure at the value that is best for all of them together."""
    choices = []
    several = [each for each in candidates if len(each.averages) > 1]
    for each in several:
        together = [other.averages for other in several if other.comparable == each.comparable]
        common = [value for value in together[0] if all(value in of for of in together)]
        if len(together) < 2 or len(common) < 2:
            continue
        means = {
            value: {
                seed: float(np.mean([of[value][seed] for of in together]))
                for seed in together[0][value]
                if all(seed in of[value] for of in together)
            }
            for value in common
        }
        choices.append(_choice(each, means, half, shared=True))
    return choices


def _halved(row: Row, half: ScoringHalf) -> Row:
    return replace(row, entries=[_of_half(entry, half) for entry in row.entries])


def _of_half(entry: CellScores, half: ScoringHalf) -> CellScores:
    """A cell with its scores on the scoring halves alone; without scores where its problems are not on record."""
    scored = half.of(entry) if entry.scores else ScoredProblems({}, {})
    shares, originals = scored.shares, scored.originals
    if not all(len(shares.get(name, ())) for name in half.table.benchmarks):
        return replace(entry, scores={})
    scores = {name: over_problems(100 * shares[name], originals.get(name)) for name in half.table.benchmarks}
    versions = {name: Versions(100 * shares[name], of) for name, of in originals.items()}
    return replace(entry, scores=scores | {AVERAGE: over_benchmarks(scores, versions)})


def sheet(tuning: Tuning) -> Sheet:
    """Each objective at its own value, and at the shared one."""
    choices = [*tuning.own, *tuning.shared]
    at_values = {id(choice.row): choice for choice in choices}
    rows = sorted([*tuning.table.rows, *(choice.row for choice in tuning.shared)], key=rank)
    rows.sort(key=lambda row: tuning.table.models.index(row.names["model"]))
    table = replace(tuning.table, rows=rows)
    scores = [[row.value(column) for column in table.columns] for row in rows]
    best = best_of_rows(table, scores)
    lines: list[list[SheetCell]] = []
    for row, of_row in zip(rows, scores, strict=True):
        choice = at_values.get(id(row))
        kind = "" if choice is None else f"{_kind(choice)}: {choice}"
        scored, asked = len(row.scored), len(row.entries)
        cells = score_cells(of_row, best[measure_of(row)])
        seeds = SheetCell(str(scored) if scored == asked else f"{scored}/{asked}")
        lines.append([SheetCell(row.names["model"]), SheetCell(row.label), SheetCell(kind), *cells, seeds])
    caption = (
        "Accuracy in percent ± half of the 95% interval, on half of the problems of each benchmark. In each seed the "
        f"other half chose {tuning.key}, by its average: own, for each objective; shared, one value for all of them. "
        "Over several seeds the interval covers the choice."
    )
    head = ["model", "objective", tuning.key, *table.columns, "seeds"]
    return Sheet(f"Each objective at its own best {tuning.key}", "", head, lines, caption, [], naming=3)


def _kind(choice: Choice) -> str:
    if len(choice.values) == 1:
        return "the only one"
    return "shared" if choice.shared else "own"


def to_json(tuning: Tuning) -> dict[str, Any]:
    """The split of each benchmark, as the indices of the problems that chose, and every choice."""
    first = next((entry for choice in tuning.own for entry in choice.row.scored), None)
    scored = tuning.shares.whole.of(first) if first else ScoredProblems({}, {})
    splits = {
        name: {"problems": problems, "chose": np.flatnonzero(choosing(scored, name)).tolist()}
        for name, problems in scored.problems.items()
    }
    choices = [
        {
            "model": choice.row.names["model"],
            "objective": choice.row.label,
            "shared": choice.shared,
            "values": choice.values,
            "chosen": {str(seed): value for seed, value in choice.chosen.items()},
        }
        for choice in [*tuning.own, *tuning.shared]
    ]
    return {"key": tuning.key, "benchmarks": splits, "choices": choices}


def _ordered(values: Any) -> list[Any]:
    """Each value once: numbers ascending, others as they come."""
    distinct = list(dict.fromkeys(values))
    numbers = all(isinstance(value, int | float) for value in distinct)
    return sorted(distinct) if numbers else distinct


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
