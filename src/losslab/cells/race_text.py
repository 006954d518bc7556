"""What a race says of its rows: a table of each rung, the verdict in a sentence, and the cost."""

from collections.abc import Sequence

from losslab.cells.race import RUNGS, Race, Rung
from losslab.files import csv_text
from losslab.results.table_formats import Sheet, SheetCell, and_, markdown
from losslab.statistics.racing import ALPHA


def verdict(race: Race, rungs: Sequence[Rung]) -> str:
    """One row that is left, or what is undecided; of a race that has not ended, where it stands."""
    if not rungs:
        return f"No verdict yet: cells of {race.name}/{next(iter(RUNGS))} have no scores."
    last, leader = rungs[-1], rungs[-1].standings[0]
    sure = f"{100 * (1 - ALPHA):.0f}%"
    if len(last.left) == 1:
        worse = and_([f"{row.name} ({-row.difference.mean:.1f} points)" for row in last.standings[1:]])
        beyond = "" if last.name == "all" else " On more rows than that nothing was compared."
        return (
            f"{leader.name} is left: after {_share(last)} of the rows it was better than {worse}.{_dropped(rungs[:-1])}"
            f"{beyond} All of these comparisons hold together with {sure}, each for the rows that it was made on."
        )
    if last.name == "all":
        return (
            f"Undecided: {and_(last.left)} are left after all rows. {leader.name} has the highest average, "
            f"{leader.average:.1f}%, which does not set it apart from the others that are left.{_dropped(rungs)}"
        )
    following = list(RUNGS)[list(RUNGS).index(last.name) + 1]
    return f"No verdict yet: {and_(last.left)} are left, and cells of {race.name}/{following} have no scores."


def sheets(race: Race, rungs: Sequence[Rung]) -> list[Sheet]:
    """A table for each rung: the average of each row, how far it is behind the leader, and whether it continues."""
    made = []
    for rung in rungs:
        lines = []
        for i, standing in enumerate(rung.standings):
            behind = "leader" if i == 0 else f"{standing.difference:+.1f}".replace("-", "−")
            state = "dropped" if standing.worse else "left"
            texts = (standing.name, f"{standing.average:.1f}", behind, state)
            lines.append([SheetCell(text, best=i == 0 and j == 1) for j, text in enumerate(texts)])
        caption = (
            "Average accuracy in percent, and points of the paired difference to the leader ± half of the interval. "
            f"The intervals of all rows and rungs hold together with {100 * (1 - ALPHA):.0f}% (Bonferroni); a row whose"
            " interval lies below zero is dropped."
        )
        title = f"{race.name}/{rung.name}: {rung.rows:,} training rows"
        made.append(Sheet(title, "", ["row", "average", "behind", "state"], lines, caption, [], naming=1))
    return made


def cost(race: Race, rungs: Sequence[Rung]) -> str:
    """What the rungs took, compared with a sweep of all rows on all of the data."""
    rows, seeds = len(race.entrants), len(race.seeds)
    trained = sum(len(rung.standings) * rung.rows for rung in rungs) * seeds
    scored = sum(len(rung.standings) for rung in rungs) * seeds
    whole = rows * race.rows * seeds
    return (
        f"Trained on {trained:,} rows in place of {whole:,} ({100 * trained / whole:.0f}%), and scored {scored} models "
        f"in place of {rows * seeds}."
    )


def schedule(race: Race) -> str:
    """What is going to happen, at most and at least, for a plan."""
    rows, seeds = len(race.entrants), len(race.seeds)
    whole = rows * race.rows * seeds
    most = sum(rows * (race.rows // part) for part in RUNGS.values()) * seeds
    least = rows * (race.rows // max(RUNGS.values())) * seeds
    rungs = ", ".join(f"{name} ({race.rows // part:,})" for name, part in RUNGS.items())
    lines = [f"{race.name}: a race of {rows} rows with {seeds} seeds each over the rungs {rungs}"]
    lines += [f"  {entrant.label}" for entrant in race.entrants]
    lines.append(
        f"training rows: {least:,} where one row is left after the first rung, {most:,} where none is dropped; all "
        f"rows on all of the data would take {whole:,}"
    )
    return "\n".join(lines)


def page(race: Race, rungs: Sequence[Rung]) -> str:
    """The race as Markdown."""
    head = [f"# Race: {race.name}", f"**{verdict(race, rungs)}**", *([cost(race, rungs)] if rungs else [])]
    return "\n\n".join([*head, *(markdown(sheet, 2) for sheet in sheets(race, rungs))])


def to_csv(rungs: Sequence[Rung]) -> str:
    lines = [
        [rung.name, rung.rows, s.name, s.average, s.difference.mean, s.difference.half, s.worse]
        for rung in rungs
        for s in rung.standings
    ]
    return csv_text(["rung", "training_rows", "row", "average", "difference", "half", "dropped"], lines)


def _dropped(rungs: Sequence[Rung]) -> str:
    """Which rows were dropped at these rungs, and behind which row, a sentence for each rung that dropped some."""
    told = []
    for rung in rungs:
        if worse := [row.name for row in rung.standings if row.worse]:
            told.append(
                f" {and_(worse)} {'were' if len(worse) > 1 else 'was'} dropped after {_share(rung)} of the rows, "
                f"behind {rung.standings[0].name}, and not trained on more."
            )
    return "".join(told)


def _share(rung: Rung) -> str:
    return {"all": "all", "eighth": "an eighth", "quarter": "a quarter", "half": "half"}[rung.name]
