"""The ablation table of a sweep, from records and from the sweep's file.

A row is a configuration without its seed. Several seeds give a mean with a 95% interval over seeds (Student's t); a
single one has its interval over problems, and so has a base with equal scores in all seeds. Cells that are not scored,
or not started, are shown as missing. Scores with different protocols, verdicts, problems or numbers of samples are
separate rows, and so are earlier versions of the objective's code or of the data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from losslab.composition import experiment_files
from losslab.config.prompt import MODEL_PROMPT
from losslab.config.schema import Config
from losslab.config.sweep import SweepConfig
from losslab.records.cell_records import CellRecord, cell_records
from losslab.records.reading import DamagedRecord
from losslab.records.record import protocol_name
from losslab.results.labels import canonical, labels
from losslab.results.learning_curves import AVERAGE, scores_by_step
from losslab.results.load_records import CellScores, Part, promised, scores_of_sweep, trains
from losslab.results.model_names import distinct
from losslab.statistics.intervals import Estimate, over_benchmarks, over_seeds

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Measure:
    """How a score was measured: only scores of the same measure compare."""

    protocol: str  # name and hash
    verdict: str
    samples: tuple[int, ...]  # answers to each problem: one number, unless benchmarks differ
    problems: tuple[str, ...] = ()  # benchmarks whose problems are not those of most cells, with the hash of theirs
    prompt: str = field(default=MODEL_PROMPT, compare=False)  # a name, which the protocol implies

    @classmethod
    def of(cls, entry: CellScores, usual: Mapping[str, str | None]) -> "Measure | None":
        """The measure of a cell's scores on these benchmarks, given the usual hash of each one's problems; None without
        scores."""
        if entry.protocol is None or entry.verdict is None:
            return None
        samples = {number for name, number in entry.samples.items() if name in usual}
        hashes = [(name, entry.problems.get(name)) for name in usual if name in entry.scores]
        others = tuple(f"{name}:{sha256[:8]}" for name, sha256 in hashes if sha256 and sha256 != usual[name])
        measure = cls(entry.protocol, entry.verdict, tuple(sorted(samples)), others, entry.prompt)
        return measure if samples else None


@dataclass(frozen=True)
class Row:
    names: dict[str, Any]
    config: dict[str, Any]  # what decides its cells' results, by dotted key
    measure: Measure | None  # of its scores; None without scores
    entries: list[CellScores]
    label: str = ""
    declared: bool = False  # by the sweep's file; other rows come from overrides on the command line
    earlier: str | None = None  # the version of its code and data, if the same configuration has a newer one

    @property
    def name(self) -> str:
        """The method if there is one, else the objective."""
        return self.names["method"] or self.names["loss"]

    @property
    def trains(self) -> bool:
        return trains(self.names)

    @property
    def scored(self) -> list[CellScores]:
        return [entry for entry in self.entries if entry.scores]

    @property
    def averaged(self) -> list[CellScores]:
        """Those with scores on all benchmarks of the table; where none has all, those with some."""
        return [entry for entry in self.scored if AVERAGE in entry.scores] or self.scored

    def value(self, column: str) -> Estimate | None:
        """Mean over the seeds with a score in this column, with its interval; None if samples or problems differ.

        The interval is over seeds; of one seed, and of a base whose seeds are `alike`, over problems.
        """
        return self.mean_over_seeds(column, [(entry, entry.scores.get(column)) for entry in self.scored])

    def seeds(self, column: str) -> int:
        """How many seeds have a score in this column; seeds that lack a benchmark have scores on the others."""
        return sum(column in entry.scores for entry in self.scored)

    def part(self, part: Part) -> Estimate | None:
        """As `value`, for the problems of a benchmark that have one value in a column of its rows."""
        return self.mean_over_seeds(part[0], [(entry, entry.breakdown.get(part)) for entry in self.scored])

    def alike(self, column: str) -> bool:
        """Whether the seeds are entries of one base with equal scores, over which there is no interval."""
        scores = [entry.scores[column] for entry in self.scored if column in entry.scores]
        return len(scores) > 1 and self._alike(scores)

    def _alike(self, scores: Sequence[Estimate]) -> bool:
        shared = not self.trains and self.config.get("model.pretrain_seed", 0) is not None
        return shared and len({score.mean for score in scores}) == 1

    def mean_over_seeds(self, column: str, scores: Sequence[tuple[CellScores, Estimate | None]]) -> Estimate | None:
        having = [(entry, score) for entry, score in scores if score is not None]
        problems = {entry.problems.get(column) for entry, _ in having} - {None}
        if len({entry.samples.get(column) for entry, _ in having}) > 1 or len(problems) > 1:
            return None
        if len(having) == 1 or (having and self._alike([score for _, score in having])):
            return having[0][1]
        return over_seeds([score.mean for _, score in having]) if having else None


@dataclass(frozen=True)
class Table:
    sweep: SweepConfig
    benchmarks: list[str]  # those of the average
    others: list[str]  # scored, but not declared by the sweep
    rows: list[Row]
    grid: list[Config]  # what the sweep's file declares
    faults: list[str] = field(default_factory=list)  # a line for each file of a record that cannot be used

    def attempt(self, read: Callable[[Path], T], path: Path, default: Any) -> T:
        """The result of `read(path)`; if the record is damaged, `default`, with a line added to `faults`."""
        try:
            return read(path)
        except DamagedRecord as damage:
            if str(damage) not in self.faults:
                self.faults.append(str(damage))
            return default

    def by_step(self, entry: CellScores) -> dict[int, dict[str, Any]]:
        """The scores of a cell's models by their step; empty where its record is damaged."""

        def read(folder: Path) -> dict[int, dict[str, Any]]:
            return scores_by_step(entry.scores_folder, folder / "metrics.jsonl")

        return self.attempt(read, entry.folder, {})

    @property
    def name(self) -> str:
        return self.sweep.name

    @property
    def question(self) -> str:
        return self.sweep.question

    @property
    def columns(self) -> list[str]:
        return [*self.benchmarks, AVERAGE, *self.others]

    @property
    def prompts(self) -> list[str]:
        """The names of the prompts of all scores."""
        return list(dict.fromkeys(row.measure.prompt for row in self.rows if row.measure))

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.names["model"] for row in self.rows))


def build(sweep: SweepConfig, results: str, records: Sequence[CellRecord] | None = None) -> Table:
    """The table of all cells that a sweep's file declares or that were run in it. Raises ValueError without any cell.

    `records` are those of the results folder, if they have been read.
    """
    grid = experiment_files.declared(sweep.name, results)
    entries = list(scores_of_sweep(sweep.name, cell_records(results) if records is None else records))
    if not entries and not grid:
        raise ValueError(f"no record of the sweep {sweep.name} under {results}: run it first, or give another sweep")
    scored = list(dict.fromkeys(name for entry in entries for name in entry.scores))
    # Sweeps share the cell of a base, which may have scores on the benchmarks of other sweeps.
    of_trained = {name for entry in entries if entry.trains for name in entry.scores}
    trained = [name for name in scored if name in of_trained]
    benchmarks = list(dict.fromkeys(name for config in grid for name in config.benchmark)) or trained or scored
    for entry in entries:
        if benchmarks and set(benchmarks) <= set(entry.scores):  # an average over fewer would not compare
            entry.scores[AVERAGE] = over_benchmarks({name: entry.scores[name] for name in benchmarks}, entry.versions)
    rows = distinct(_grouped(grid, entries, {name: _usual_problems(entries, name) for name in benchmarks}))
    kept = {name for row in rows for entry in row.scored for name in entry.scores}
    others = [name for name in trained if name not in benchmarks and name in kept]
    rows = [replace(row, label=label) for row, label in zip(rows, labels(rows), strict=True)]
    order = {model: i for i, model in enumerate(dict.fromkeys(row.names["model"] for row in rows))}
    if sweep.paper:  # the declared rows in their order, then others
        rows.sort(key=lambda row: (order[row.names["model"]], not row.declared))
    else:
        rows.sort(key=lambda row: (order[row.names["model"]], row.trains, rank(row)))
    faults = list(dict.fromkeys(fault for entry in entries for fault in entry.faults))
    return Table(sweep, benchmarks, others, rows, grid, faults)


def declared_measures(table: Table) -> set[Measure]:
    """The measures of the scores that the sweep's file declares."""
    measures = set()
    for config in table.grid:
        # A task of lm_eval has one answer to each question, whatever the samples of the others.
        samples = {1 if about.task is not None else config.eval.samples for about in config.benchmark.values()}
        measures.add(Measure(protocol_name(config), str(config.eval.verdict), tuple(sorted(samples))))
    return measures


def varies(rows: Sequence[Row], benchmarks: Sequence[str]) -> list[str]:
    """What varies with the seed of these rows' cells, and is therefore covered by an interval over seeds."""
    trained = [row for row in rows if row.trains]
    parts = ["base model"] if any(row.config.get("model.pretrain_seed", 0) is None for row in rows) else []
    parts += ["choice of training rows"] if any(row.config.get("dataset.seed", 0) is None for row in trained) else []
    parts += ["order of training"] if trained else []
    seeds = [{entry.sampled_with(benchmarks) for entry in row.scored} - {None} for row in rows]
    return [*parts, *(["sampling of answers"] if max(map(len, seeds), default=0) > 1 else [])]


def sampled(rows: Sequence[Row], benchmarks: Sequence[str]) -> bool:
    """Whether some answers to these benchmarks are sampled; else decoding is greedy."""
    return any(entry.sampled_with(benchmarks) is not None for row in rows for entry in row.scored)


def _usual_problems(entries: Sequence[CellScores], benchmark: str) -> str | None:
    """The hash of a benchmark's problems that most cells have, in a tie the newest cell's; None if unrecorded."""
    counts: dict[str, tuple[int, str]] = {}
    for entry in entries:
        if benchmark in entry.scores and (sha256 := entry.problems.get(benchmark)):
            count, touched = counts.get(sha256, (0, ""))
            counts[sha256] = count + 1, max(touched, entry.touched)
    return max(counts, key=lambda sha256: counts[sha256], default=None)


def _grouped(grid: Sequence[Config], entries: Sequence[CellScores], usual: Mapping[str, str | None]) -> list[Row]:
    """The rows of declared cells in their order, then those of other cells of the sweep."""
    rows_of: dict[str, list[Row]] = {}
    for config in grid:
        declared = promised(config)
        names, science = declared.names, declared.config
        (row,) = rows_of.setdefault(canonical(science), [Row(names, science, None, [], declared=True)])
        if declared.seed not in {entry.seed for entry in row.entries}:
            row.entries.append(declared)
    groups: dict[str, dict[str | None, list[CellScores]]] = {}
    for entry in entries:
        groups.setdefault(canonical(entry.config), {}).setdefault(entry.recipe, []).append(entry)
    for key, recipes in groups.items():
        unversioned = recipes.pop(None, []) if len(recipes) > 1 else []  # recorded before versions were
        newest, *earlier = sorted(recipes, key=lambda recipe: max(e.touched for e in recipes[recipe]), reverse=True)
        recipes[newest] += unversioned
        rows_of[key] = _rows(recipes[newest], usual, *rows_of.get(key, []))
        for recipe in earlier:
            rows = _rows(recipes[recipe], usual)
            rows_of[key] += [replace(row, earlier=str(recipe)[:8]) for row in rows]
    return [row for group in rows_of.values() for row in group]


def _rows(entries: list[CellScores], usual: Mapping[str, str | None], declared: Row | None = None) -> list[Row]:
    """A row for each measure of the scores of one configuration.

    Declared cells whose seed has no record are missing. If the sweep's file declares a single seed, any seed counts.
    """
    first, missing = declared or entries[0], list(declared.entries) if declared else []
    measures: dict[Measure | None, list[CellScores]] = {}
    for entry in entries:
        measures.setdefault(Measure.of(entry, usual), []).append(entry)
    unmeasured = measures.pop(None, [])
    measured = {entry.seed for of_measure in measures.values() for entry in of_measure}
    # Scores by another protocol, on benchmarks of other sweeps only, do not belong to this table.
    elsewhere = [entry for entry in unmeasured if entry.scores and not set(entry.scores) & set(usual)]
    unscored = [entry for entry in unmeasured if entry not in elsewhere]
    foreign = {entry.seed: entry for entry in elsewhere if entry.seed not in measured}
    unscored += [replace(entry, protocol=None, scores={}, samples={}, verdict=None) for entry in foreign.values()]
    scored: list[Measure | None] = [*sorted(filter(None, measures))]
    rows = []
    for measure in scored or [None]:
        members = [*measures.get(measure, []), *unscored]
        seeds = {entry.seed for entry in members}
        members += [entry for entry in missing if entry.seed not in seeds] if len(missing) > 1 else []
        members.sort(key=lambda entry: entry.seed)
        rows.append(Row(first.names, first.config, measure, members, declared=declared is not None))
    return rows


def rank(row: Row) -> float:
    """The row's average as a sort key: rows without one come last."""
    value = row.value(AVERAGE)
    return value.mean if value else float("inf")
