"""What a sweep will be able to show, said in its plan: `losslab.statistics.power` with the numbers of its cells."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from losslab.config.schema import BASE, EMBEDDED, Config
from losslab.data.toy_task import PROBLEMS
from losslab.planning.plan_tuning import tuned
from losslab.planning.recorded_runs import Runs, scored
from losslab.results.model_names import of_config
from losslab.results.table_formats import and_
from losslab.statistics.intervals import Variances, simultaneous_level
from losslab.statistics.power import (
    CORRELATION,
    MOST_SEEDS,
    Floats,
    assumed,
    detectable,
    more_seeds,
    seeds_for,
    true_chances,
    uniform_chances,
)

MOST_SAMPLES = 256


def sentence(groups: Sequence[Sequence[Config]]) -> str:
    """The smallest differences that a sweep shows with a chance of 80%, and what `sweep.difference` takes, by model.

    `groups` are its cells by row, those of a row differing in their seeds. Empty where no two rows compare.
    """
    of_models: dict[Hashable, list[Sequence[Config]]] = {}
    for group in groups:
        of_models.setdefault(of_config(group[0]), []).append(group)
    models_of: dict[str, list[str]] = {}  # by what is said of them
    for rows in of_models.values():
        models_of.setdefault(_of_model(rows), []).append(rows[0][0].names.model)
    several = len(of_models) > 1
    return "\n".join(f"power{f' of {and_(models)}' * several}: {said}" for said, models in models_of.items() if said)


def _of_model(groups: Sequence[Sequence[Config]]) -> str:
    """What the rows of one model can show; empty for fewer than two."""
    tune, recorded = groups[0][0].sweep.tune, Runs.of(groups)
    groups = tuned(groups, tune) if tune else groups
    rows = [group for group in groups if group[0].trains]
    if len(rows) < 2:
        return ""
    config, seeds = rows[0][0], min(len(group) for group in rows)
    problems = {
        name: PROBLEMS if about.path == EMBEDDED else about.problems for name, about in config.benchmark.items()
    }
    if missing := [name for name, count in problems.items() if count is None]:
        return f"not known before the problems of {', '.join(missing)} are read; benchmark.NAME.rows says how many"
    compared = len(groups)
    level = simultaneous_level(compared * (compared - 1) // 2)
    tasks = {name for name, about in config.benchmark.items() if about.task is not None}  # one answer to each question
    samples = {name: 1 if name in tasks else config.eval.samples for name in config.benchmark}
    base_chances = scored_base(config)
    chances = base_chances or {name: uniform_chances(count) for name, count in problems.items() if count}
    if tune:  # half of the problems score, easy and hard ones alike
        chances = {name: np.sort(p)[::2] for name, p in chances.items()}

    def spread(names: Iterable[str], each: Mapping[str, int] = samples) -> Variances:
        names = list(names)
        return assumed([chances[name] for name in names], [each[name] for name in names], recorded.variance(names))

    average = spread(chances)

    def points(count: int) -> str:
        least = {name: detectable(spread([name]), count, level) for name in chances}
        each = ", ".join(f"{name} {'none' if points is None else f'{points:.1f}'}" for name, points in least.items())
        whole = detectable(average, count, level)
        return f"{'no difference' if whole is None else f'{whole:.1f} points'} of the average ({each})"

    more = more_seeds(seeds)
    of_seeds = f"{seeds} seeds show {points(seeds)}" if seeds > 1 else "one seed each shows no difference"
    rows_shown = f"between two of {compared} rows {of_seeds}, and {more} seeds {points(more)}"
    sentences = [f"{rows_shown}, with a chance of 80%"]
    if (asked := config.sweep.difference) is not None:
        sampled = {name: count for name, count in samples.items() if name not in tasks}
        more_samples = (
            (count, spread(chances, samples | dict.fromkeys(sampled, count)))
            for count in _more(max(sampled.values(), default=MOST_SAMPLES))
        )
        sentences.append(f"sweep.difference={asked:g}: {_needed(asked, average, more_samples, seeds, level)}")
    evenly = "the chances of problems spread evenly from 0 to 1"
    hardness = "problems are as hard as for the base" if base_chances else evenly
    versions = [name for name, about in config.benchmark.items() if about.versions_of is not None]
    apart = f"versions of one problem are as different as other problems ({', '.join(versions)}), " * bool(versions)
    sentences.append(
        f"assumed: {apart}{hardness}, correlate by {CORRELATION} between two models, and "
        f"{recorded.sentence([*chances])} (losslab.statistics.power)"
    )
    return "\n".join(sentences)


def _more(samples: int) -> list[int]:
    return [count for i in range(1, 9) if (count := samples * 2**i) <= MOST_SAMPLES]


def _needed(
    asked: float, average: Variances, more_samples: Iterable[tuple[int, Variances]], seeds: int, level: float
) -> str:
    """The seeds, or else the samples, that a difference of the average takes."""
    needed = seeds_for(asked, average, level)
    ways = [f"{needed} seeds" if needed else f"more than {MOST_SEEDS} seeds, so other or more problems"]
    if needed and seeds < needed:
        for count, variances in more_samples:
            if (smallest := detectable(variances, seeds, level)) is not None and smallest <= asked:
                ways.append(f"{count} samples of each problem")
                break
    return " or ".join(ways)


def scored_base(config: Config) -> dict[str, Floats] | None:
    """The chances of the base on each benchmark's problems, where it is scored under this protocol; else None."""
    loss = {"_target_": "losslab.objectives.base.Base"}
    shares = scored(replace(config, loss=loss, names=replace(config.names, loss=BASE, method=None)))
    return {name: true_chances(*of) for name, of in shares.items()} if shares else None
