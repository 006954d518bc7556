"""One objective against SFT and DFT in every table that has it: where it is better and where it is worse.

Rows are compared that differ in their objective alone, seed by seed.
"""

from collections.abc import Iterator

from losslab.results.claims import Finding
from losslab.results.learning_curves import AVERAGE
from losslab.results.table_formats import MISSING, Cell, Sheet
from losslab.results.tables import Row, Table, canonical

RIVALS = ("sft", "dft")
WORDS = {"holds": "better", "the other way round": "worse"}
CAPTION = (
    "In brackets, the objective minus the rival, paired by seed: better or worse where the interval of that lies on "
    "one side of zero, which needs two seeds."
)


def sheet(objective: str, studies: list[Table]) -> Sheet:
    """A line for each setting of each study in which the objective has a score."""
    lines = [
        [Cell(table.name), Cell(_setting(row)), Cell(str(row.value(AVERAGE))), *_beside(row, table)]
        for table in studies
        for row in table.rows
        if row.names["loss"] == objective and row.value(AVERAGE)
    ]
    return Sheet(
        f"{objective} beside {' and '.join(RIVALS)}", "", ["study", "setting", objective, *RIVALS], lines, CAPTION, []
    )


def _setting(row: Row) -> str:
    """What sets the row apart from others of its objective in its table."""
    return row.label.removeprefix(row.name).strip() or MISSING


def _beside(row: Row, table: Table) -> Iterator[Cell]:
    for rival in RIVALS:
        others = [one for one in table.rows if one.names["loss"] == rival and _apart(one) == _apart(row)]
        others = sorted((one for one in others if not one.earlier), key=lambda one: not one.declared)
        scores = [_averages(others[0]) if others else {}, _averages(row)]
        both = sorted(scores[0].keys() & scores[1].keys())
        finding = Finding(rival, {seed: scores[1][seed] - scores[0][seed] for seed in both})
        if finding.estimate is None:
            yield Cell(MISSING)
        else:
            word = WORDS.get(finding.verdict, finding.verdict)
            sign = "+" if finding.estimate.mean >= 0 else ""
            yield Cell(f"{others[0].value(AVERAGE)} ({sign}{finding.estimate}, {word})")


def _apart(row: Row) -> dict[str, object]:
    """The configuration of a row but for its objective, and the measure of its scores."""
    own = {key: value for key, value in row.config.items() if key != "loss" and not key.startswith("loss.")}
    return {"config": canonical(own), "measure": row.measure}


def _averages(row: Row) -> dict[int, float]:
    return {entry.seed: entry.scores[AVERAGE] for entry in row.entries if AVERAGE in entry.scores}
