"""Compares one objective with SFT and DFT in every table that has it.

Only rows that differ in nothing but the objective are compared, by the estimator of the claims.
"""

from collections.abc import Iterator

from losslab.results.claims import judge_rows
from losslab.results.labels import canonical
from losslab.results.learning_curves import AVERAGE
from losslab.results.problem_shares import ProblemShares
from losslab.results.table_formats import MISSING, Sheet, SheetCell
from losslab.results.tables import Row, Table

BASELINES = ("sft", "dft")
WORDS = {"holds": "better", "the other way round": "worse"}
CAPTION = (
    "In brackets, the objective minus the baseline, paired by seed and problem: better or worse if the interval of "
    "several seeds excludes zero. Each is a 95% interval by itself, for other seeds and other problems of these kinds, "
    "or for other seeds on the same problems where the records have no problems: of twenty comparisons in which "
    "nothing differs, one is expected to say better or worse. A few equal numbers have no interval, and are open."
)


def sheet(objective: str, tables: list[Table]) -> Sheet:
    """A line for each setting of each sweep in which the objective has a score."""
    lines = [
        [SheetCell(table.name), SheetCell(_setting(row)), SheetCell(str(row.value(AVERAGE))), *_beside(row, shares)]
        for table, shares in ((table, ProblemShares(table)) for table in tables)
        for row in table.rows
        if row.names["loss"] == objective and row.value(AVERAGE)
    ]
    head = ["sweep", "setting", objective, *BASELINES]
    return Sheet(f"{objective} beside {' and '.join(BASELINES)}", "", head, lines, CAPTION, [])


def _setting(row: Row) -> str:
    """The part of a row's label that distinguishes it from other rows of its objective."""
    return row.label.removeprefix(row.name).strip() or MISSING


def _beside(row: Row, shares: ProblemShares) -> Iterator[SheetCell]:
    current = [other for other in shares.table.rows if not other.earlier and but_objective(other) == but_objective(row)]
    for baseline in BASELINES:
        others = [other for other in current if other.names["loss"] == baseline]
        others.sort(key=lambda other: not other.declared)
        judged = judge_rows(baseline, row, others[0], shares) if others else None
        if judged is None or judged.estimate is None:
            yield SheetCell(MISSING)
        else:
            word = WORDS.get(judged.outcome, judged.outcome)
            sign = "+" if judged.estimate.mean >= 0 else ""
            yield SheetCell(f"{others[0].value(AVERAGE)} ({sign}{judged.estimate}, {word})")


def but_objective(row: Row) -> tuple[str, object]:
    """The configuration of a row except its objective, and the measure of its scores."""
    rest = {key: value for key, value in row.config.items() if key != "loss" and not key.startswith("loss.")}
    return canonical(rest), row.measure
