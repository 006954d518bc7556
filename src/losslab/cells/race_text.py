"""What a race says of its rows: the verdict in sentences, a table of rows and rungs, and the cost."""

from collections.abc import Sequence

from losslab.cells.race import LAST, RUNGS, Race, Rung
from losslab.config.schema import BASE
from losslab.files.csv_files import csv_text
from losslab.results.conclusion_text import points
from losslab.results.table_formats import MISSING, Sheet, SheetCell, and_, markdown
from losslab.results.threats import engines_sentence
from losslab.statistics.intervals import Estimate
from losslab.statistics.racing import ALPHA, Standing

SURE = f"{100 * (1 - ALPHA):.0f}%"


def sentences(race: Race, rungs: Sequence[Rung]) -> list[str]:
    """The answer first, then how the rows stand against the base, what was dropped, and the limits."""
    if not rungs:
        return [f"No verdict yet: cells of {race.name}/{next(iter(RUNGS))} have no scores."]
    last = rungs[-1]
    said = [f"{_answer(race, last)}{_doubt(last)}", _against_base(last), *_dropped(rungs)]
    if len(last.left) == 1 and last.name != LAST:
        said.append(f"Nothing was compared on more than {_share(last)} of the rows.")
    said.append(
        f"In brackets: simultaneous {SURE} intervals of all rows and rungs (all of them hold with a probability of "
        f"{SURE}; Bonferroni). Each holds for training on the rows of its rung."
    )
    return [*said, *filter(None, [engines_sentence(last.engines)])]


def ended(rungs: Sequence[Rung]) -> bool:
    """Whether the race has come to a verdict: one row is left, or all rows of the data were used."""
    return bool(rungs) and (len(rungs[-1].left) == 1 or rungs[-1].name == LAST)


def _answer(race: Race, last: Rung) -> str:
    """One row that is left, or what is undecided; of a race that has not ended, where it stands."""
    leader = last.standings[0]
    if len(last.left) == 1:
        worse = and_([f"{row.name} ({points(_turned(row.difference))})" for row in last.standings[1:]])
        return f"{leader.name} is left: after {_share(last)} of the rows it was better than {worse}."
    objectives = {last.objectives[name] for name in last.left}
    if last.name == LAST and len(objectives) == 1:
        return (
            f"{objectives.pop()} is left. Which of its rows is best is undecided: {and_(last.left)} are left after all "
            f"rows, and {leader.name} has the highest average, {leader.average:.1f}%."
        )
    if last.name == LAST:
        return (
            f"Undecided: {and_(last.left)} are left after all rows. {leader.name} has the highest average, "
            f"{leader.average:.1f}%, which does not set it apart from the others that are left."
        )
    following = list(RUNGS)[list(RUNGS).index(last.name) + 1]
    on = f" on the rows of {objectives.pop()}, which is left" if len(objectives) == 1 else ""
    return f"No verdict yet{on}: {and_(last.left)} are left, and cells of {race.name}/{following} have no scores."


def _doubt(last: Rung) -> str:
    """Said beside the answer where no row that is left is better than the base."""
    if any(_beside_base(row) == "better" for row in last.standings if row.name in last.left):
        return ""
    return f" {'It is not' if len(last.left) == 1 else 'None of them is'} shown to be better than the base."


def _against_base(last: Rung) -> str:
    """How the rows that are left stand against the base."""
    groups: dict[str, list[str]] = {}
    for row in last.standings:
        if row.name in last.left:
            groups.setdefault(_beside_base(row), []).append(f"{row.name} ({points(row.over_base)})")
    told = "; ".join(f"{kind}: {and_(rows)}" for kind, rows in groups.items())
    return f"Against the base, {last.base:.1f}%, after {_share(last)} of the rows: {told}."


def _beside_base(row: Standing) -> str:
    if not row.over_base.nonzero:
        return "undecided"
    return "better" if row.over_base.mean > 0 else "worse"


def _dropped(rungs: Sequence[Rung]) -> list[str]:
    """Which rows were dropped, and behind which row; a sentence for each rung that dropped any."""
    told = []
    one_left = len(rungs[-1].left) == 1  # whose answer says what the last rung dropped
    for rung in rungs[:-1] if one_left else rungs:
        if worse := [f"{row.name} ({points(row.difference)})" for row in rung.standings if row.name not in rung.left]:
            told.append(
                f"{and_(worse)} {'were' if len(worse) > 1 else 'was'} dropped after {_share(rung)} of the rows, behind "
                f"{rung.standings[0].name}, and not trained on more."
            )
    return told


def sheet(race: Race, rungs: Sequence[Rung]) -> Sheet:
    """A line for each row, best first: its average on every rung, how far it was behind, and how it ended."""
    order = dict.fromkeys(row.name for rung in reversed(rungs) for row in rung.standings)
    lines = [_line(name, rungs) for name in order]
    lines.append([BASE, *(f"{rung.base:.1f}" for rung in rungs), "", "not trained"])
    leaders = [rung.standings[0].name for rung in rungs]
    cells = [
        [SheetCell(text, best=0 < i <= len(rungs) and line[0] == leaders[i - 1]) for i, text in enumerate(line)]
        for line in lines
    ]
    caption = (
        "Average accuracy in percent after training on the rows of each rung and, in brackets, the difference to the "
        "leader of the rung, ± half of its interval; over base: the difference to the base on the last rung of the "
        f"row. Differences are paired by seed and problem, and their intervals are simultaneous at {SURE} for all rows "
        "and rungs (Bonferroni). An objective is dropped when the intervals of all of its rows to the leader lie below "
        "zero; on the last rung each such row is."
    )
    head = ["row", *(f"{rung.name} ({rung.rows:,})" for rung in rungs), "over base", "outcome"]
    return Sheet(f"Race: {race.name}", "", head, cells, caption, [], naming=1)


def _line(name: str, rungs: Sequence[Rung]) -> list[str]:
    """The texts of a row."""
    texts, over_base, outcome = [name], MISSING, "left"
    for rung in rungs:
        row = next((row for row in rung.standings if row.name == name), None)
        if row is None:
            texts.append(MISSING)
            continue
        behind = "leader" if row is rung.standings[0] else _signed(row.difference)
        texts.append(f"{row.average:.1f} ({behind})")
        over_base = _signed(row.over_base)
        if name not in rung.left:
            outcome = f"dropped after {_share(rung)} of the rows, behind {rung.standings[0].name}"
    return [*texts, over_base, outcome]


def cost(race: Race, rungs: Sequence[Rung]) -> str:
    """What the rungs took, compared with a sweep of all rows on all of the data."""
    rows, seeds = len(race.entrants), len(race.seeds)
    trained = sum(len(rung.standings) * rung.rows for rung in rungs) * seeds
    scored = sum(len(rung.standings) for rung in rungs) * seeds
    whole = rows * race.training_rows("all") * seeds
    return (
        f"Trained on {trained:,} rows in place of {whole:,} ({100 * trained / whole:.0f}%), and scored {scored} "
        f"trained models in place of {rows * seeds}."
    )


def page(race: Race, rungs: Sequence[Rung]) -> str:
    """The race as Markdown."""
    answer, *rest = sentences(race, rungs)
    head = [f"**{answer}**", "\n".join(f"- {sentence}" for sentence in [*rest, cost(race, rungs)])]
    return "\n\n".join([f"# Race: {race.name}", *head, markdown(sheet(race, rungs), 2)])


def to_csv(rungs: Sequence[Rung]) -> str:
    lines = [
        [
            rung.name,
            rung.rows,
            s.name,
            s.average,
            *_numbers(s.difference),
            *_numbers(s.over_base),
            s.name not in rung.left,
        ]
        for rung in rungs
        for s in rung.standings
    ]
    lines += [[rung.name, rung.rows, BASE, rung.base, *[None] * 4, False] for rung in rungs]
    head = ["rung", "training_rows", "row", "average", "difference", "half", "over_base", "over_base_half", "dropped"]
    return csv_text(head, lines)


def _numbers(difference: Estimate) -> tuple[float, float | None]:
    return difference.mean, difference.half


def _turned(difference: Estimate) -> Estimate:
    return Estimate(-difference.mean, difference.half)


def _signed(difference: Estimate) -> str:
    return f"{difference:+.1f}".replace("-", "−")


def _share(rung: Rung) -> str:
    return {"all": "all", "eighth": "an eighth", "quarter": "a quarter", "half": "half"}[rung.name]
