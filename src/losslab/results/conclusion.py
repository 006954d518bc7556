"""The answer of a sweep: the best objective, its margin and interval, undecided pairs, and the seeds these would take.

Compared are the averages of the rows of one model and measure, paired by seed and problem. The intervals of all pairs
of rows are simultaneous at 95%, since the highest row is picked after the scores are seen, and any row might have been.
A row is better than another if the interval excludes zero and both have several seeds; with one seed each, the result
concerns these two models only, not their objectives. `losslab.results.conclusion_text` puts it into sentences.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from losslab.config.schema import BASE
from losslab.results.compare_to_baselines import but_objective
from losslab.results.learning_curves import AVERAGE
from losslab.results.problem_shares import ProblemShares
from losslab.results.tables import Measure, Row, Table, declared_measures, sampled, varies
from losslab.results.threats import Cut, Seen, cut_answers, engines, seen_problems
from losslab.results.tuning import Choice, Tuning, tune
from losslab.statistics.intervals import Estimate, Variances, simultaneous_level, with_variances
from losslab.statistics.power import between_runs, detectable, more_seeds, seeds_for

REFERENCES = ("sft", BASE)  # rows that each row is compared with, besides the best


@dataclass(frozen=True)
class Pair:
    """A row with a higher and one with a lower average."""

    higher: str
    lower: str
    difference: Estimate  # points of the average, 0 or more; its interval is one of a family
    seeds: int  # that both have
    variances: Variances | None  # of the difference; None where a benchmark has one problem

    @property
    def decided(self) -> bool:
        """Whether one objective is better than the other, and not a trained model of it alone."""
        return self.seeds > 1 and self.difference.nonzero


@dataclass(frozen=True)
class Spread:
    """How much the difference of two trained rows varies."""

    variances: Variances
    seeds: int  # of the pair that has the fewest
    assumed: bool  # whether the variance between seeds is that of the literature


@dataclass(frozen=True)
class Power:
    """What the present seeds can show with a chance of 80%, and what more seeds would."""

    seeds: int
    smallest: float | None  # points; None where they show no difference, as one seed never does
    more_seeds: int
    with_more: float | None
    asked_seeds: int | None  # that `sweep.difference` takes; None where over a hundred


@dataclass(frozen=True)
class Conclusion:
    """What the rows of one model say, each by its label; the best is the one with the highest average."""

    model: str
    averages: dict[str, Estimate]  # of the compared rows, highest first
    bases: list[str]  # of these, the rows that are not trained
    references: list[str]  # rows that are compared with each other one, besides the best: a base, then one of SFT
    pairs: list[Pair]  # each row with the best and with these
    benchmarks: list[str]
    problems: int
    originals: int  # as many, where no problem is a version of another
    samples: tuple[int, ...]
    protocol: str | None  # of the scores; None where all rows of the model have the same
    seeds: tuple[int, int]  # fewest and most of a pair
    family: int  # number of pairs whose intervals are simultaneous
    spread: Spread | None  # None where no trained rows compare
    asked: float | None = None  # points that the sweep is to show
    left_out: list[str] = field(default_factory=list)  # rows that are not compared, and why
    rates: dict[str, list[float]] = field(default_factory=dict)  # learning rates of each trained objective or method
    one_recipe: bool = True  # whether the trained rows differ in their objective alone
    varies: list[str] = field(default_factory=list)  # what another seed changes
    sampled: bool = False  # whether answers are sampled, and not greedy
    cut: Cut | None = None  # the largest share of answers cut by length
    seen: Seen = Seen()  # problems in the training data
    engines: dict[str, list[str]] = field(default_factory=dict)  # rows by the engine of their scores
    tuned: str | None = None  # the key of which each objective has its own best value, on half of the problems
    choices: list[Choice] = field(default_factory=list)  # of the compared rows

    @property
    def best(self) -> str:
        return next(iter(self.averages))

    @property
    def power(self) -> Power | None:
        if self.spread is None:
            return None
        parts, seeds, level = self.spread.variances, self.spread.seeds, simultaneous_level(self.family)
        more = more_seeds(seeds)
        smallest, with_more = (detectable(parts, count, level) for count in (seeds, more))
        asked = None if self.asked is None else seeds_for(self.asked, parts, level)
        return Power(seeds, smallest, more, with_more, asked)

    def against(self, label: str) -> list[Pair]:
        """The pairs of a row with every other."""
        return [pair for pair in self.pairs if label in (pair.higher, pair.lower)]

    @cached_property
    def beaten(self) -> list[Pair]:
        """The pairs of the best row in which it is better than the other."""
        return [pair for pair in self.against(self.best) if pair.decided and pair.higher == self.best]

    @cached_property
    def rivals(self) -> list[Pair]:
        """The other pairs of the best row."""
        return [pair for pair in self.against(self.best) if not (pair.decided and pair.higher == self.best)]

    @property
    def decided(self) -> bool:
        """Whether the best row is better than every other."""
        return len(self.averages) > 1 and not self.rivals


def conclude(table: Table) -> list[Conclusion]:
    """`conclusions` of a table alone."""
    shares = ProblemShares(table)
    return conclusions(table, shares, tune(table, shares))


def conclusions(table: Table, shares: ProblemShares, tuning: Tuning | None) -> list[Conclusion]:
    """The conclusion of each model that has a row with scores on all benchmarks of the table.

    With `sweep.tune` its rows are the objectives, each at its own best value of that key (`losslab.results.tuning`).
    Missing samples are not an error, since the table does not need them; rows without samples are not compared.
    """
    if tuning:
        table, shares = tuning.table, tuning.shares
    of_models = (_of_model(table, model, shares) for model in table.models)
    return [_with_choices(conclusion, tuning) for conclusion in of_models if conclusion]


def _with_choices(conclusion: Conclusion, tuning: Tuning | None) -> Conclusion:
    if tuning is None:
        return conclusion
    of_model = {choice.row.label: choice for choice in tuning.own if choice.row.names["model"] == conclusion.model}
    compared = [of_model[label] for label in conclusion.averages if label in of_model]
    return replace(conclusion, tuned=tuning.key, choices=compared)


def _of_model(table: Table, model: str, shares: ProblemShares) -> Conclusion | None:
    of_model = [row for row in table.rows if row.names["model"] == model]
    scored = [(row, value) for row in of_model if (value := row.value(AVERAGE)) and not row.earlier and row.measure]
    if not scored:
        return None
    scored = [(row, value) for row, value in scored if shares.on_record(row)] or scored
    measure = _chosen_measure([row for row, _ in scored], table)
    protocols = {row.measure.protocol for row, _ in scored if row.measure}
    ranked = sorted((each for each in scored if each[0].measure == measure), key=lambda each: -each[1].mean)
    best, family = ranked[0][0], len(ranked) * (len(ranked) - 1) // 2
    level = simultaneous_level(family)
    of_best = [(row, _pair(best, row, shares, level)) for row, _ in ranked[1:]]
    rows = [best, *(row for row, pair in of_best if pair)]
    pairs = [pair for _, pair in of_best if pair]
    references = _references(rows)
    pairs += [pair for two in _with_references(rows[1:], references) if (pair := _pair(*two, shares, level))]
    trained = [row for row in rows if row.trains]
    counts = [pair.seeds for pair in pairs] or [len(best.averaged)]
    first = shares.of(best.averaged[0])
    of_problems = [
        first.originals.get(name, [f"{name} {i}" for i in range(len(of))])
        for name, of in first.shares.items()
        if name in table.benchmarks
    ]
    return Conclusion(
        model=model,
        averages={row.label: value for row, value in ranked if row in rows},
        bases=[row.label for row in rows if row not in trained],
        references=[row.label for row in references],
        pairs=pairs,
        benchmarks=table.benchmarks,
        problems=sum(map(len, of_problems)),
        originals=len({name for names in of_problems for name in names}),
        samples=measure.samples,
        protocol=measure.protocol if len(protocols) > 1 else None,
        seeds=(min(counts), max(counts)),
        family=family,
        spread=_spread(pairs, {row.label for row in trained}),
        asked=table.sweep.difference,
        left_out=_left_out(of_model, rows, pairs, measure, shares),
        rates=_rates(trained),
        one_recipe=len({but_objective(row) for row in trained}) == 1,
        varies=varies(rows, table.benchmarks),
        sampled=sampled(rows, table.benchmarks),
        cut=cut_answers(rows, table.benchmarks, shares.scores),
        seen=seen_problems(trained, table.benchmarks, shares.scores),
        engines=engines({row.label: [shares.scores.of(entry) for entry in row.averaged] for row in rows}),
    )


def _chosen_measure(rows: Sequence[Row], table: Table) -> Measure:
    """The measure of which there are rows to compare: one that the sweep's file declares, else that of most rows."""
    counts, declared = Counter(row.measure for row in rows if row.measure), declared_measures(table)
    return max(counts, key=lambda measure: (counts[measure] > 1, measure in declared, counts[measure]))


def _references(rows: Sequence[Row]) -> list[Row]:
    """Besides the best row, which is the first, the best base and the best row of SFT: of a grid, each at its best."""
    best = {row.name: row for row in reversed(rows) if row.name in REFERENCES}
    return sorted((row for row in best.values() if row is not rows[0]), key=lambda row: row.name != BASE)


def _with_references(rows: Sequence[Row], references: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The pairs of a reference with another row, each once."""
    return [
        (reference, row)
        for i, reference in enumerate(references)
        for row in rows
        if row is not reference and row not in references[:i]
    ]


def _pair(a: Row, b: Row, shares: ProblemShares, level: float) -> Pair | None:
    """None where the rows have no seed, or not all problems, in common."""
    points = shares.points(a, b, shares.table.benchmarks)
    if points is None:
        return None
    average, parts = with_variances(points.benchmarks, level, points.originals)
    higher, lower = (b, a) if average.mean > 0 else (a, b)
    return Pair(higher.label, lower.label, Estimate(abs(average.mean), average.half), len(points.seeds), parts)


def _spread(pairs: Sequence[Pair], trained: set[str]) -> Spread | None:
    """Of the pairs of trained rows on average; None where there is no such pair."""
    between_trained = [pair for pair in pairs if {pair.higher, pair.lower} <= trained and pair.variances]
    parts = [pair.variances for pair in between_trained if pair.variances]
    if not parts:
        return None
    repeated = [pair for pair in between_trained if pair.seeds > 1]
    several = [pair.variances for pair in repeated if pair.variances]
    between = float(np.mean([v.between_seeds for v in several])) if several else between_runs(len(parts[0].problems))
    rest = float(np.mean([v.rest for v in several])) if several else 0.0
    columns = zip(*(part.problems for part in parts), strict=True)
    problems = tuple((float(np.mean([v for v, _ in column])), column[0][1]) for column in columns)
    seeds = min(pair.seeds for pair in repeated or between_trained)
    return Spread(Variances(between, problems, rest), seeds, assumed=not several)


def _rates(trained: Sequence[Row]) -> dict[str, list[float]]:
    rates: dict[str, set[float]] = {}
    for row in trained:
        if "optimizer.lr" in row.config:
            rates.setdefault(row.name, set()).add(row.config["optimizer.lr"])
    return {name: sorted(of) for name, of in rates.items()}


def _left_out(
    of_model: Sequence[Row], rows: Sequence[Row], pairs: Sequence[Pair], measure: Measure, shares: ProblemShares
) -> list[str]:
    """The rows of a model that are not compared, and the seeds that compared rows lack, each with the reason."""
    reasons = []
    for row in of_model:
        missing, partial = len(row.entries) - len(row.scored), len(row.scored) - len(row.averaged)
        if row in rows:
            reasons += [f"{row.label} lacks {missing} of its {len(row.entries)} seeds"] if missing else []
            reasons += [f"{row.label} lacks benchmarks in {partial} of its {len(row.entries)} seeds"] if partial else []
        elif row.earlier:
            reasons.append(f"{row.label} is of code or data that has changed since")
        elif not row.scored:
            reasons.append(f"{row.label} has no score")
        elif row.measure != measure:
            reasons.append(f"{row.label} is scored by another protocol, verdict, number of samples or set of problems")
        elif row.value(AVERAGE) is None:
            reasons.append(f"{row.label} is not scored on all benchmarks")
        elif not shares.on_record(row):
            reasons.append(f"{row.label} has no usable record of its answers problem by problem")
        else:
            reasons.append(f"{row.label} has no seed, or not all problems, in common with the best")
    counts = {row.label: len(row.averaged) for row in rows}
    for pair in pairs:
        if pair.seeds < min(counts[pair.higher], counts[pair.lower]):
            both = f"{pair.higher} and {pair.lower}"
            reasons.append(
                f"seeds that only one of {both} has, or without the same problems on record ({pair.seeds} remain)"
            )
    return reasons
