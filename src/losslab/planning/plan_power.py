"""What a sweep will be able to show, said in its plan: `losslab.statistics.power` with the numbers of its cells."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from losslab.config.schema import BASE, EMBEDDED, Config
from losslab.data.toy_task import PROBLEMS
from losslab.planning.plan_tuning import tuned
from losslab.records.reading import DamagedRecord, read_scores
from losslab.records.record import Cell
from losslab.results.model_names import of_config
from losslab.results.right_shares import right_shares
from losslab.statistics.intervals import simultaneous_level
from losslab.statistics.power import (
    BETWEEN_RUNS,
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
    """The smallest differences that a sweep shows with a chance of 80%, and what `sweep.difference` takes.

    `groups` are its cells by row, those of a row differing in their seeds. Empty where no two rows compare.
    """
    tune = groups[0][0].sweep.tune
    groups = tuned(groups, tune) if tune else groups
    rows = [group for group in groups if group[0].trains]
    models = Counter(of_config(group[0]) for group in rows)
    if not rows or max(models.values()) < 2:
        return ""
    config, seeds = rows[0][0], min(len(group) for group in rows)
    problems = {
        name: PROBLEMS if about.path == EMBEDDED else about.problems for name, about in config.benchmark.items()
    }
    if missing := [name for name, count in problems.items() if count is None]:
        return (
            f"power: not known before the problems of {', '.join(missing)} are read; benchmark.NAME.rows says how many"
        )
    compared = max(Counter(of_config(group[0]) for group in groups).values())
    level = simultaneous_level(compared * (compared - 1) // 2)
    tasks = {name for name, about in config.benchmark.items() if about.task is not None}  # one answer to each question
    samples = {name: 1 if name in tasks else config.eval.samples for name in config.benchmark}
    base_chances = scored_base(config)
    chances = base_chances or {name: uniform_chances(count) for name, count in problems.items() if count}
    if tune:  # half of the problems score, easy and hard ones alike
        chances = {name: np.sort(p)[::2] for name, p in chances.items()}
    average = assumed([*chances.values()], [samples[name] for name in chances])

    def points(count: int) -> str:
        least = {name: detectable(assumed([p], [samples[name]]), count, level) for name, p in chances.items()}
        each = ", ".join(f"{name} {'none' if points is None else f'{points:.1f}'}" for name, points in least.items())
        whole = detectable(average, count, level)
        return f"{'no difference' if whole is None else f'{whole:.1f} points'} of the average ({each})"

    more = more_seeds(seeds)
    of_seeds = f"{seeds} seeds show {points(seeds)}" if seeds > 1 else "one seed each shows no difference"
    rows_shown = f"between two of {compared} rows {of_seeds}, and {more} seeds {points(more)}"
    sentences = [f"power: {rows_shown}, with a chance of 80%"]
    if (asked := config.sweep.difference) is not None:
        sentences.append(f"sweep.difference={asked:g}: {_needed(asked, chances, samples, tasks, seeds, level)}")
    spread = "the chances of problems spread evenly from 0 to 1"
    hardness = "problems are as hard as for the base" if base_chances else spread
    versions = [name for name, about in config.benchmark.items() if about.versions_of is not None]
    apart = f"versions of one problem are as different as other problems ({', '.join(versions)}), " * bool(versions)
    sentences.append(
        f"assumed: {apart}{hardness}, correlate by {CORRELATION} between two models, and runs of one recipe differ by "
        f"{BETWEEN_RUNS} points on the average of five benchmarks (losslab.statistics.power)"
    )
    return "\n".join(sentences)


def _needed(
    asked: float, chances: dict[str, Floats], samples: dict[str, int], tasks: set[str], seeds: int, level: float
) -> str:
    """The seeds, or else the samples, that a difference of the average takes; those of `tasks` are one each."""
    each = [samples[name] for name in chances]
    needed = seeds_for(asked, assumed([*chances.values()], each), level)
    ways = [f"{needed} seeds" if needed else f"more than {MOST_SEEDS} seeds, so other or more problems"]
    if needed and seeds < needed:
        most = max((samples[name] for name in chances if name not in tasks), default=MOST_SAMPLES)
        for count in (count for i in range(1, 9) if (count := most * 2**i) <= MOST_SAMPLES):
            more = assumed([*chances.values()], [1 if name in tasks else count for name in chances])
            if (smallest := detectable(more, seeds, level)) is not None and smallest <= asked:
                ways.append(f"{count} samples of each problem")
                break
    return " or ".join(ways)


def scored_base(config: Config) -> dict[str, Floats] | None:
    """The chances of the base on each benchmark's problems, where it is scored under this protocol; else None."""
    loss = {"_target_": "losslab.objectives.base.Base"}
    base = replace(config, loss=loss, names=replace(config.names, loss=BASE, method=None))
    folder = Cell.of(base).scores(base)
    if not (folder / "scores.json").is_file():
        return None
    try:
        content = read_scores(folder / "scores.json")
        shares = right_shares(folder, content, str(config.eval.verdict))
    except DamagedRecord:
        return None
    if not set(config.benchmark) <= set(shares):
        return None
    return {name: true_chances(shares[name], content["benchmarks"][name]["samples"]) for name in config.benchmark}
