"""Compares one objective with SFT and DFT in every table that has it.

Only rows that differ in nothing but the objective are compared, paired by seed.
"""

from collections.abc import Iterator

from losslab.results.claims import JudgedClaim
from losslab.results.labels import canonical
from losslab.results.learning_curves import AVERAGE
from losslab.results.table_formats import MISSING, Sheet, SheetCell
from losslab.results.tables import Row, Table

BASELINES = ("sft", "dft")
WORDS = {"holds": "better", "the other way round": "worse"}
CAPTION = (
    "In brackets, the objective minus the baseline, paired by seed: better or worse if the interval excludes zero, "
    "which takes at least two seeds. Each is a 95% interval by itself, for other seeds on the same problems: of twenty "
    "comparisons in which nothing differs, one is expected to say better or worse."
)


def sheet(objective: str, tables: list[Table]) -> Sheet:
    """A line for each setting of each sweep in which the objective has a score."""
    lines = [
        [SheetCell(table.name), SheetCell(_setting(row)), SheetCell(str(row.value(AVERAGE))), *_beside(row, table)]
        for table in tables
        for row in table.rows
        if row.names["loss"] == objective and row.value(AVERAGE)
    ]
    head = ["sweep", "setting", objective, *BASELINES]
    return Sheet(f"{objective} beside {' and '.join(BASELINES)}", "", head, lines, CAPTION, [])


def _setting(row: Row) -> str:
    """The part of a row's label that distinguishes it from other rows of its objective."""
    return row.label.removeprefix(row.name).strip() or MISSING


def _beside(row: Row, table: Table) -> Iterator[SheetCell]:
    for baseline in BASELINES:
        others = [r for r in table.rows if r.names["loss"] == baseline and but_objective(r) == but_objective(row)]
        others = sorted((other for other in others if not other.earlier), key=lambda other: not other.declared)
        theirs, ours = _averages(others[0]) if others else {}, _averages(row)
        both = sorted(theirs.keys() & ours.keys())
        judged = JudgedClaim(baseline, {seed: ours[seed] - theirs[seed] for seed in both})
        if judged.estimate is None:
            yield SheetCell(MISSING)
        else:
            word = WORDS.get(judged.verdict, judged.verdict)
            sign = "+" if judged.estimate.mean >= 0 else ""
            yield SheetCell(f"{others[0].value(AVERAGE)} ({sign}{judged.estimate}, {word})")


def but_objective(row: Row) -> tuple[str, object]:
    """The configuration of a row except its objective, and the measure of its scores."""
    rest = {key: value for key, value in row.config.items() if key != "loss" and not key.startswith("loss.")}
    return canonical(rest), row.measure


def _averages(row: Row) -> dict[int, float]:
    return {entry.seed: entry.scores[AVERAGE].mean for entry in row.entries if AVERAGE in entry.scores}
