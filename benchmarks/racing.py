"""How often a race keeps the row that a sweep on all of the data would name, and what it saves.

python benchmarks/racing.py [races=200]                        simulated scores: results/benchmarks/racing.md
python benchmarks/racing.py records=FOLDER run=true            the toy task: trains every row on every rung, then races
python benchmarks/racing.py records=FOLDER                     the same from the existing records

The races on the toy task are those of all subsets of three, four and five of its six seeds: they share cells, and are
fewer than they look.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from losslab.cells.race import RUNGS, Race, Rung, _train
from losslab.config.schema import BASE
from losslab.statistics import racing

Gains = Mapping[str, float]  # of each row, over the chances of the problems

TOY = [
    "experiment=demo", "loss=sft,dft", "optimizer.lr=1e-4,4e-4", "seed=range(0,6)", "dataset.seed=null", "tracker=none",
    "machine.probabilities=null", "sweep.name=race",
]  # fmt: skip
SEEDS = (3, 4, 5)  # of a race on the toy task


def scores(
    rng: np.random.Generator, gains: Gains, deviations: Mapping[str, float], chances: np.ndarray, seeds: int
) -> dict[str, racing.Shares]:
    """Of 16 samples of each problem; what problem and seed do to a row is its own. No seed changes the base."""
    rows: dict[str, racing.Shares] = {}
    for name, gain in {**gains, BASE: 0.0}.items():
        own = rng.normal(0, 0.05, len(chances)) + rng.normal(0, deviations.get(name, 0.0), (seeds, 1))
        rows[name] = {"x": rng.binomial(16, np.clip(chances + gain + own, 0, 1)) / 16}
    return rows


def simulated(
    rng: np.random.Generator, rungs: Sequence[Gains], deviations: Mapping[str, float], seeds: int, problems: int = 60
) -> tuple[list[list[str]], bool]:
    """The rows that a race leaves after each rung, and whether it called a row better or worse that is not, than the
    leader or than the base."""
    names, chances = list(rungs[0]), rng.uniform(0.2, 0.8, problems)
    level, left, wrong = racing.level(len(names) + 1, len(rungs)), list[list[str]](), False
    for gains in rungs:
        rows = scores(rng, {n: gains[n] for n in names}, deviations, chances, seeds)
        standings = racing.look(rows, rows.pop(BASE), level)
        wrong |= any(s.worse and gains[s.name] >= gains[standings[0].name] for s in standings)
        wrong |= any(s.over_base.nonzero and gains[s.name] * s.over_base.mean <= 0 for s in standings)
        names = [s.name for s in standings if not s.worse]
        left.append(names)
        if len(names) == 1:
            break
    return left, wrong


def curves(rng: np.random.Generator, rows: int, spread: float, change: float) -> list[dict[str, float]]:
    """Gains on each rung: on all rows they are normal with this spread, and each halving of the data adds to a row's
    what is normal with the spread `change`, so that rows change places.
    """
    gains = rng.normal(0, spread, rows)
    rungs = []
    for _ in RUNGS:
        rungs.append({f"row {i}": float(gain) for i, gain in enumerate(gains)})
        gains = gains + rng.normal(0, change, rows)
    return rungs[::-1]


def share_of_cost(left: Sequence[Sequence[str]], rows: int) -> float:
    """Training rows of a race, as a share of those of all rows on all of the data."""
    parts = list(RUNGS.values())
    begun = [rows, *map(len, left[:-1])]
    return sum(n / part for n, part in zip(begun, parts, strict=False)) / rows


def of_simulation(races: int) -> str:
    lines = ["| rows | spread | change by halving | seeds | winner kept, % | one left, % | training rows, % |"]
    lines += ["|---:|---:|---:|---:|---:|---:|---:|"]
    for spread, change in ((0.0, 0.0), (0.05, 0.0), (0.05, 0.02), (0.05, 0.05), (0.10, 0.05)):
        for seeds in (3, 5):
            rng, kept, alone, cost = np.random.default_rng(0), 0, 0, 0.0
            for _ in range(races):
                rungs = curves(rng, 6, spread, change)
                left, _ = simulated(rng, rungs, dict.fromkeys(rungs[0], 0.02), seeds)
                kept += max(rungs[-1], key=rungs[-1].__getitem__) in left[-1]
                alone += len(left[-1]) == 1
                cost += share_of_cost(left, 6)
            numbers = [f"{100 * kept / races:.0f}", f"{100 * alone / races:.0f}", f"{100 * cost / races:.0f}"]
            lines.append("| 6 | " + " | ".join([f"{100 * spread:g}", f"{100 * change:g}", str(seeds), *numbers]) + " |")
    return "\n".join(lines)


def of_records(folder: str, run: bool) -> str:
    """Races of all triples, quadruples and quintuples of the toy cells' seeds."""
    race = Race.of([*TOY, f"machine.results={folder}"])
    if run:
        for rung in RUNGS:
            _train(race.command(rung, race.entrants))
    lines = ["| rung | row | average of each seed, % |", "|---|---|---|"]
    rungs: list[dict[str, racing.Shares]] = []
    for rung in RUNGS:
        shares = {entrant.label: race.shares(rung, entrant) for entrant in (race.base, *race.entrants)}
        missing = [label for label, of in shares.items() if of is None]
        if missing:
            sys.exit(f"{race.name}/{rung} lacks scores of {', '.join(missing)}: add run=true")
        rungs.append({label: of for label, of in shares.items() if of is not None})
        for label, of in rungs[-1].items():
            averages = 100 * np.mean([part.mean(1) for part in of.values()], axis=0)
            lines.append(f"| {rung} | {label} | {', '.join(f'{a:.1f}' for a in averages)} |")
    lines += ["", "| seeds | races | winner kept | its objective kept | one row left | training rows, % |"]
    lines += ["|---:|---:|---:|---:|---:|---:|"]
    for number in SEEDS:
        races = [_race(race, rungs, chosen) for chosen in combinations(range(len(race.seeds)), number)]
        objectives = sum(winner.split()[0] in {name.split()[0] for name in left[-1]} for winner, left in races)
        counts = [number, len(races), sum(winner in left[-1] for winner, left in races), objectives]
        share = sum(share_of_cost(left, len(race.entrants)) for _, left in races) / len(races)
        counts += [sum(len(left[-1]) == 1 for _, left in races), round(100 * share)]
        lines.append("| " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def _race(
    race: Race, rungs: Sequence[Mapping[str, racing.Shares]], seeds: Sequence[int]
) -> tuple[str, list[list[str]]]:
    """The row with the highest average on all of the data, and the rows that a race of these seeds leaves after each
    rung."""

    def shares(rung: Mapping[str, racing.Shares], name: str) -> racing.Shares:
        return {benchmark: np.asarray(part)[list(seeds)] for benchmark, part in rung[name].items()}

    names, left = [entrant.label for entrant in race.entrants], list[list[str]]()
    whole = {name: float(np.mean([np.mean(part) for part in shares(rungs[-1], name).values()])) for name in names}
    objectives = {entrant.label: entrant.objective for entrant in race.entrants}
    for part, rung in zip(RUNGS, rungs, strict=True):
        standings = racing.look({name: shares(rung, name) for name in names}, shares(rung, BASE), race.level)
        names = Rung(part, 0, standings, 0.0, {}, objectives).left
        left.append(names)
        if len(names) == 1:
            break
    return max(whole, key=whole.__getitem__), left


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if "records" in options:
        print(of_records(options["records"], options.get("run") == "true"))
    else:
        print(of_simulation(int(options.get("races", 200))))


if __name__ == "__main__":
    main()
