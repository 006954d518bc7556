"""The ablation table of a sweep, from records and from what the sweep's file declares.

A row is a configuration apart from its seed; several seeds make a mean with a 95% interval over seeds (Student t), a
single one has its interval over problems. Cells that are not scored, or not even begun, are shown as missing. Nothing
is averaged that is not alike: another protocol, verdict or number of samples makes a row of its own, and so does an
earlier version of the objective's code or of the data.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from losslab.composition import experiment_files
from losslab.config.schema import BASE, Config, SweepConfig
from losslab.results.learning_curves import AVERAGE
from losslab.results.load_records import Entry, flatten, promised, recorded
from losslab.statistics.intervals import Estimate, mean_of, over_seeds

IMPLIED = {"loss._target_", "model.path", "dataset.path"}  # by the names of the files that were chosen
SHOWN = {"protocol": "eval", "verdict": "eval.verdict", "samples": "eval.samples"}  # names of a measure's parts
DEFAULTS = flatten(asdict(Config()))


@dataclass(frozen=True, order=True)
class Measure:
    """What a score is of, besides a model: only scores of one measure compare."""

    protocol: str  # name and hash
    verdict: str
    samples: tuple[int, ...]  # answers to each problem: one number, unless benchmarks differ

    @classmethod
    def of(cls, entry: Entry, benchmarks: Collection[str]) -> "Measure | None":
        """That of a cell's scores on these benchmarks; None where it has none."""
        if entry.protocol is None or entry.verdict is None:
            return None
        samples = {number for name, number in entry.samples.items() if name in benchmarks}
        return cls(entry.protocol, entry.verdict, tuple(sorted(samples))) if samples else None


@dataclass(frozen=True)
class Row:
    names: dict[str, Any]
    config: dict[str, Any]  # the science of its cells, by dotted key
    measure: Measure | None  # of its scores; None where there is no score
    entries: list[Entry]
    label: str = ""
    declared: bool = False  # by the sweep's file; any other row was added by who ran the sweep
    earlier: str | None = None  # names the code and data of its cells, where the same configuration has newer ones

    @property
    def name(self) -> str:
        """The method where there is one, else the objective."""
        return self.names["method"] or self.names["loss"]

    @property
    def scored(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.scores]

    def value(self, column: str) -> Estimate | None:
        """Mean over the seeds that have this column, with its interval; None where none has, or not all alike."""
        having = [entry for entry in self.scored if column in entry.scores]
        if len({entry.samples.get(column) for entry in having}) > 1:
            return None
        if len(having) == 1:
            return Estimate(having[0].scores[column], having[0].halves.get(column))
        return over_seeds([entry.scores[column] for entry in having]) if having else None


@dataclass(frozen=True)
class Table:
    sweep: SweepConfig
    benchmarks: list[str]  # that the average is over
    others: list[str]  # that were scored beyond those that the sweep declares
    rows: list[Row]
    grid: list[Config]  # what the sweep's file declares

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
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.names["model"] for row in self.rows))


def build(sweep: SweepConfig, results: str) -> Table:
    """The table of all cells that a sweep declares or that are members of it. ValueError when there is none."""
    grid, entries = experiment_files.declared(sweep.name, results), list(recorded(sweep.name, results))
    if not entries and not grid:
        raise ValueError(f"no record of the sweep {sweep.name} under {results}: run it first, or name another sweep")
    scored = list(dict.fromkeys(name for entry in entries for name in entry.scores))
    benchmarks = list(dict.fromkeys(name for config in grid for name in config.benchmark)) or scored
    # Sweeps share the cell of a base, which other sweeps score on benchmarks of theirs.
    trained = {name for entry in entries if entry.names["loss"] != BASE for name in entry.scores}
    others = [name for name in scored if name not in benchmarks and (name in trained or not grid)]
    for entry in entries:
        if benchmarks and set(benchmarks) <= set(entry.scores):  # an average over fewer would not compare
            mean = mean_of([Estimate(entry.scores[name], entry.halves.get(name)) for name in benchmarks])
            entry.scores[AVERAGE], entry.halves[AVERAGE] = mean.mean, mean.half
    found: dict[str, list[Row]] = {}
    for config in grid:
        own = promised(config)
        (row,) = found.setdefault(canonical(own.config), [Row(own.names, own.config, None, [], declared=True)])
        if own.seed not in {entry.seed for entry in row.entries}:
            row.entries.append(own)
    groups: dict[str, dict[str | None, list[Entry]]] = {}
    for entry in entries:
        groups.setdefault(canonical(entry.config), {}).setdefault(entry.recipe, []).append(entry)
    for key, recipes in groups.items():
        unknown = recipes.pop(None, []) if len(recipes) > 1 else []  # from before versions were written down
        newest, *earlier = sorted(recipes, key=lambda one: max(entry.touched for entry in recipes[one]), reverse=True)
        recipes[newest] += unknown
        found[key] = _rows(recipes[newest], benchmarks, *found.get(key, []))
        for recipe in earlier:
            rows = _rows(recipes[recipe], benchmarks)
            found[key] += [replace(row, earlier=str(recipe)[:8]) for row in rows]
    rows = [row for group in found.values() for row in group]
    order = {model: i for i, model in enumerate(dict.fromkeys(row.names["model"] for row in rows))}
    rows = [replace(row, label=label(row, rows)) for row in rows]
    if sweep.paper:  # its rows in their order, then what was added
        rows.sort(key=lambda row: (order[row.names["model"]], not row.declared))
    else:
        rows.sort(key=lambda row: (order[row.names["model"]], row.names["loss"] != BASE, average(row)))
    return Table(sweep, benchmarks, others, rows, grid)


def canonical(config: Mapping[str, Any]) -> str:
    """Alike for one configuration, as of seeds; a value that is the schema's default counts as not given."""
    changed = {key: value for key, value in config.items() if key not in DEFAULTS or value != DEFAULTS[key]}
    changed = {key: float(value) if type(value) is int else value for key, value in changed.items()}  # 2 is 2.0
    return json.dumps(changed, sort_keys=True, default=str)


def _rows(entries: list[Entry], benchmarks: Collection[str], declared: Row | None = None) -> list[Row]:
    """A row for each measure of the scores of one configuration.

    Of the cells that the sweep's file declares, those are missing whose seed has no record. Where it leaves the seed
    open any seed will do.
    """
    first, promised = declared or entries[0], list(declared.entries) if declared else []
    measures: dict[Measure | None, list[Entry]] = {}
    for entry in entries:
        measures.setdefault(Measure.of(entry, benchmarks), []).append(entry)
    unscored = measures.pop(None, [])
    scored: list[Measure | None] = [*sorted(filter(None, measures))]
    rows = []
    for measure in scored or [None]:
        own = [*measures.get(measure, []), *unscored]
        known = {entry.seed for entry in own}
        own += [entry for entry in promised if entry.seed not in known] if len(promised) > 1 else []
        own.sort(key=lambda entry: entry.seed)
        rows.append(Row(first.names, first.config, measure, own, declared=declared is not None))
    return rows


def label(row: Row, rows: Sequence[Row]) -> str:
    """The row's name, and whatever else sets it apart from others with the same model and name."""
    alike = [r for r in rows if (r.names["model"], r.name) == (row.names["model"], row.name)]
    own = row.config

    def other(row: Row, key: str) -> bool:  # a record from before an option was there has its default
        return bool(row.config.get(key, DEFAULTS.get(key)) != own[key])

    apart = [key for key in own if any(other(r, key) for r in alike)]
    named = tuple(f"{group}." for group in ("dataset", "loss") if group in apart)  # whose names say the rest
    shown = [key for key in apart if key not in IMPLIED and not key.startswith(named)]
    twins = [r for r in alike if not any(other(r, key) for key in shown)]
    shown += [key for key in apart if any(other(r, key) for r in twins)]  # what those names leave open
    parts = [f"{key}={own[key]}" for key in shown if key != "loss"]
    for part in ("protocol", "verdict", "samples"):
        if len({getattr(r.measure, part) for r in alike if r.measure}) > 1 and row.measure:
            value = getattr(row.measure, part)
            parts.append(f"{SHOWN[part]}={','.join(map(str, value)) if part == 'samples' else value}")
    if row.earlier:
        parts.append(f"earlier={row.earlier}")
    return " ".join([*([own["loss"]] if "loss" in apart else []), row.name, *parts])


def average(row: Row) -> float:
    """The row's average to sort by: what is missing comes last."""
    value = row.value(AVERAGE)
    return value.mean if value else float("inf")
