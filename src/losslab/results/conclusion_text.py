"""The conclusion of a sweep in sentences: for the terminal, the report, the files of a table and the trackers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from losslab.results.conclusion import Conclusion, Pair
from losslab.results.table_formats import and_
from losslab.results.threats import engines_sentence
from losslab.statistics.intervals import MOST_POINTS, Estimate
from losslab.statistics.power import BETWEEN_RUNS, MOST_SEEDS

LISTED = 6  # rows that a sentence names; the others are counted


def sentences(conclusion: Conclusion) -> list[str]:
    """The answer first, then its evidence, its statistical power and its limits, one sentence each."""
    parts = [_answer(conclusion)]
    if len(conclusion.averages) > 1:
        parts += _against(conclusion)
        parts.append(_grounds(conclusion))
        parts += _choices(conclusion)
        parts += _power(conclusion)
    if conclusion.left_out:
        parts.append(f"Not compared: {_listed(conclusion.left_out, '; ')}.")
    parts += _threats(conclusion) if len(conclusion.averages) > 1 else []
    return [*parts, *filter(None, [engines_sentence(conclusion.engines)])]


def text(conclusions: Sequence[Conclusion]) -> str:
    """Of all models as plain text, a line for each sentence; of several each under its name."""
    several = len(conclusions) > 1
    blocks = ["\n".join(([f"{c.model}:"] if several else []) + sentences(c)) for c in conclusions]
    return "\n\n".join(blocks)


def markdown(conclusions: Sequence[Conclusion]) -> str:
    """Likewise as Markdown: the answer in bold, the rest as a list."""
    blocks = ["# Conclusion"]
    for conclusion in conclusions:
        answer, *rest = sentences(conclusion)
        blocks += [f"## {conclusion.model}"] if len(conclusions) > 1 else []
        blocks += [f"**{answer}**", "\n".join(f"- {sentence}" for sentence in rest)]
    return "\n\n".join(blocks) + "\n"


def _answer(c: Conclusion) -> str:
    average = f"{c.averages[c.best].mean:.1f}%"
    if len(c.averages) == 1:
        return f"Nothing to compare with {c.best} ({average}): no other row has scores of the same problems and seeds."
    over = _listed(f"{pair.lower} ({_points(pair)})" for pair in c.beaten)
    if c.decided and c.best in c.bases:
        return f"No objective improves the model: {c.best}, with an average of {average}, is better than {over}."
    if c.decided:
        return f"{c.best} is the best, with an average of {average}: better than {over}."
    others = _listed(f"{pair.lower} ({_points(pair)})" for pair in c.rivals if pair.higher == c.best)
    # Averages are over all seeds of a row, differences over those that both have.
    above = _listed(f"{pair.higher} ({_points(pair)})" for pair in c.rivals if pair.lower == c.best)
    rest = f" On the seeds that both have, it is below {above}." if above else ""
    if all(pair.seeds == 1 for pair in c.rivals) and not c.beaten:
        return (
            "Undecided: with one seed per row the models can be compared, but not the objectives. The model of "
            f"{c.best} has the highest average, {average}{f', above {others}' * bool(others)}.{rest}"
        )
    rest += f" It is better than {over}." if c.beaten else ""
    lead = f", but its lead over {others} is not certain" if others else ""
    return f"Undecided: {c.best} has the highest average, {average}{lead}.{rest}"


def _against(c: Conclusion) -> list[str]:
    """Which rows besides the best one are better or worse than a base, and than SFT; each pair once."""
    compared = {c.best}
    shown = []
    for reference in c.references:
        groups: dict[str, list[str]] = {}
        for pair in c.against(reference):
            if (other := _other(pair, reference)) not in compared:
                higher = other == pair.higher
                kind = "undecided" if not pair.decided else "better" if higher else "worse"
                groups.setdefault(kind, []).append(f"{other} ({'+' * higher}{_points(pair, 1 if higher else -1)})")
        order = [kind for kind in ("better", "worse", "undecided") if kind in groups]
        if order:
            shown.append(f"Against {reference}: {'; '.join(f'{kind}: {_listed(groups[kind])}' for kind in order)}.")
        compared.add(reference)
    return shown


def _grounds(c: Conclusion) -> str:
    fewest, most = c.seeds
    seeds = f"{fewest} to {most} seeds" if fewest < most else f"{most} seed{'s' * (most > 1)}"
    samples = ", ".join(map(str, c.samples)) + " samples each"
    samples += f" under the protocol {c.protocol}" if c.protocol else ""
    of_pairs = f" of all {c.family} pairs of rows (all of them hold with a probability of 95%; Šidák)"
    intervals = "95% intervals" if c.family == 1 else f"simultaneous 95% intervals{of_pairs}"
    if most > 1:
        covered = f", and other seeds, which change the {and_(c.varies)}" if c.varies else ""
    else:
        covered = f"{' and other samples' * c.sampled}, but not another training"
    versions = "" if c.originals == c.problems else f", versions of {c.originals:,} that are each taken together,"
    return (
        f"In brackets: {intervals}, paired by seed and problem, over {seeds} and {c.problems:,} problems of "
        f"{', '.join(c.benchmarks)}{versions} with {samples}. They cover other problems of these kinds{covered}."
    )


def _choices(c: Conclusion) -> list[str]:
    """Which values of the tuned key the objectives have, and who chose them."""
    texts = []
    chose = [f"{choice.row.label} at {choice}" for choice in c.choices if len(choice.values) > 1]
    single = [f"{choice.row.label} at {choice}" for choice in c.choices if len(choice.values) == 1]
    if chose:
        which = "Each objective that had several values" if single else "Each objective"
        texts.append(
            f"{which} has its own best {c.tuned}: {_listed(chose, '; ')}. In each seed half of the problems chose it, "
            "by their average, and the other half makes the scores."
        )
    if single:
        texts.append(f"With one value of {c.tuned} alone, scored on the same half: {_listed(single, '; ')}.")
    return texts


def _power(c: Conclusion) -> list[str]:
    power = c.power
    if power is None or c.spread is None:
        return []
    seeds = f"{power.seeds} seeds show" if power.seeds > 1 else "one seed each shows"
    shown = (
        f"With a chance of 80%, {seeds} {_at_least(power.smallest)} between two objectives, and {power.more_seeds} "
        f"seeds would show {_at_least(power.with_more)}"
    )
    if not c.spread.assumed:
        shown += (
            f", if differences vary between seeds as they do between these {c.spread.seeds}, which is a rough estimate"
        )
    else:
        runs = f"{BETWEEN_RUNS} points on the average of five benchmarks"
        shown += f", if runs of one recipe differ by {runs} (standard deviation; arXiv 2508.05629)"
    if c.asked is not None:
        asked = f"the {c.asked:g} points of sweep.difference"
        if power.asked_seeds:
            shown += f"; {asked} take {power.asked_seeds} seeds"
        else:
            shown += f"; {asked} cannot be shown with {MOST_SEEDS} seeds: use more or other problems"
    return [shown + "."]


def _at_least(points: float | None) -> str:
    """In words: records without any spread could show a difference of 0.0 points, which is told as less than 0.1."""
    if points is None:
        return "no difference"
    return f"a difference of {f'{points:.1f}' if points >= 0.05 else 'less than 0.1'} points"


def _threats(c: Conclusion) -> list[str]:
    recipe = "one recipe " if c.one_recipe else ""
    threats = [
        f"This is one model, {c.model}, {recipe}and one prompt: another of these may order the rows otherwise.",
        *_rates(c.rates),
    ]
    if ends := [choice for choice in c.choices if choice.at_the_end]:
        told = _listed(f"{choice.row.label} in {choice.at_the_end} of {len(choice.chosen)} seeds" for choice in ends)
        threats.append(f"Chosen at an end of the values that were tried, so that a better one may lie beyond: {told}.")
    counts = {len(choice.values) for choice in c.choices}
    if len(counts) > 1:
        told = _listed(f"{choice.row.label} {len(choice.values)}" for choice in c.choices)
        threats.append(f"The objectives had different numbers of values of {c.tuned} to choose from: {told}.")
    if c.cut:
        label, benchmark, share, right = c.cut
        # A box before the cut is read as any other, and records of earlier versions do not count these.
        rest = "" if right is None else f"; {right:.0f}% of these are right all the same"
        threats.append(f"{share:.0f}% of the answers of {label} to {benchmark} are cut by length{rest}.")
    if c.seen.unknown:
        threats.append("Not all rows were checked for problems of the benchmarks in their training data.")
    if c.seen.most:
        benchmark, count, problems = c.seen.most
        threats.append(f"The training rows hold the question of {count} of the {problems} problems of {benchmark}.")
    return threats


def _rates(rates: Mapping[str, Sequence[float]]) -> list[str]:
    """At which learning rates the rows were trained, where none was tuned."""
    distinct = sorted({rate for of in rates.values() for rate in of})
    if len(distinct) < 2:
        return [f"All objectives have the learning rate {r:g}; none has one that was chosen for it." for r in distinct]
    told = "; ".join(f"{rate:g}: {_listed(name for name, of in rates.items() if rate in of)}" for rate in distinct)
    return [f"The rows have different learning rates, none of them tuned, which may order them too: {told}."]


def _points(pair: Pair, sign: int = 1) -> str:
    """The difference of a pair, the lower row's minus the higher one's where the sign is -1."""
    difference = replace(pair.difference, mean=sign * pair.difference.mean)
    return points(difference) + ", one seed" * (pair.seeds == 1)


def points(difference: Estimate) -> str:
    """`1.5 points, −0.5 to 3.5`, with no bound beyond 100 points; `1.5 points, no interval` where there is none."""
    low, high = max(difference.low, -MOST_POINTS), min(difference.high, MOST_POINTS)
    interval = "no interval" if difference.half is None else f"{low:.1f} to {high:.1f}"
    return f"{difference.mean:.1f} points, {interval}".replace("-", "−")


def _other(pair: Pair, label: str) -> str:
    return pair.lower if pair.higher == label else pair.higher


def _listed(parts: Iterable[str], separator: str = ", ") -> str:
    parts = list(parts)
    rest = [f"and {len(parts) - LISTED} more"] if len(parts) > LISTED else []
    return separator.join([*parts[:LISTED], *rest])
