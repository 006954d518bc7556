"""Formats tables as Markdown, LaTeX, CSV, and for the terminal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from losslab.config.log import printable
from losslab.files.csv_files import csv_text
from losslab.results.paper import Comparison, PaperDifference
from losslab.results.tables import Measure, Row, Table, sampled, varies
from losslab.statistics.intervals import Estimate

MISSING = "–"
TERMINAL_ROWS = 60  # of a table on a terminal; its files have all
PAPER_CAPTION = (
    "The paper's score and, in brackets, ours minus the paper's. * The paper's score lies outside our 95% interval. "
    f"{MISSING} Ours is missing."
)


@dataclass(frozen=True)
class SheetCell:
    text: str
    best: bool = False
    note: int | None = None  # number of a footnote


@dataclass(frozen=True)
class Sheet:
    """A table of texts, whose first columns name the row, such as model and objective."""

    title: str
    text: str  # before the table
    head: list[str]
    rows: list[list[SheetCell]]
    caption: str
    notes: list[str]
    naming: int = 2  # columns that name a row


def caption(table: Table) -> str:
    """The caption: what the numbers and intervals of the table are."""
    verdicts = {row.measure.verdict for row in table.rows if row.measure}
    by = f" by the {verdicts.pop()} verdict" if len(verdicts) == 1 else ""
    of_rows = [len(row.scored) for row in table.rows if row.scored]
    covers, benchmarks = [], [*table.benchmarks, *table.others]
    if max(of_rows, default=1) > 1:
        if seeds := varies(table.rows, benchmarks):
            covers.append(f"over several seeds it covers another {and_(seeds)} on the same problems")
        if any(row.alike(column) for row in table.rows for column in table.columns):
            covers.append("of a base with equal scores in all seeds it covers other problems")
        if not covers:
            covers.append("over several seeds it covers nothing: all seeds give the same answers")
    if min(of_rows, default=1) == 1:
        answers = " and answers" if sampled(table.rows, benchmarks) else ""
        covers.append(f"with one seed it covers other problems{answers}, but not another training")
    earlier = (
        " Rows with `earlier` have code or data that has changed since." if any(r.earlier for r in table.rows) else ""
    )
    return (
        f"Accuracy in percent{by} ± half of the 95% interval: {'; '.join(covers)}; never another model, data set or "
        f"recipe.{earlier}"
    )


def and_(parts: Sequence[str]) -> str:
    """Parts as in a sentence: `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def score_cells(values: Sequence[Estimate | None], best: Sequence[str | None]) -> list[SheetCell]:
    """A row's scores, marked if they are the `best` of their column."""
    return [
        SheetCell(str(value) if value else MISSING, value is not None and f"{value.mean:.1f}" == highest)
        for value, highest in zip(values, best, strict=True)
    ]


def scores_sheet(table: Table, notes: Sequence[str] = ()) -> Sheet:
    """Our scores. The best mean of rows that compare is marked; `1/3` seeds means that one of three has all scores.

    A score over another number of seeds has that number as a footnote.
    """
    values = [[row.value(column) for column in table.columns] for row in table.rows]
    best = best_of_rows(table, values)
    rows, footnotes = [], list(dict.fromkeys(row.seeds(c) for row in table.rows for c in _of_other_seeds(table, row)))
    for row, of_row in zip(table.rows, values, strict=True):
        apart = {column: 1 + footnotes.index(row.seeds(column)) for column in _of_other_seeds(table, row)}
        cells = [
            replace(scores, note=apart.get(column))
            for column, scores in zip(table.columns, score_cells(of_row, best[measure_of(row)]), strict=True)
        ]
        scored, asked = len(row.averaged), len(row.entries)
        seeds = str(scored) if scored == asked else f"{scored}/{asked}"
        rows.append([*map(SheetCell, _naming(table, row)), *cells, SheetCell(seeds)])
    naming = ["model", "objective", *(["prompt"] if len(table.prompts) > 1 else [])]
    head = [*naming, *table.columns, "seeds"]
    counts = [f"Over {count} seed{'s' * (count > 1)}." for count in footnotes]
    return Sheet(table.name, table.question, head, rows, " ".join([caption(table), *notes]), counts, len(naming))


def _of_other_seeds(table: Table, row: Row) -> list[str]:
    """The columns of a row whose score is over another number of seeds than the row's column of seeds says."""
    return [column for column in table.columns if row.value(column) and row.seeds(column) != len(row.averaged)]


def _naming(table: Table, row: Row) -> list[str]:
    """Model and objective of a row and, in a table of several prompts, its prompt."""
    if len(table.prompts) < 2:
        return [row.names["model"], row.label]
    prompt = row.measure.prompt if row.measure else MISSING
    return [row.names["model"], row.label.replace(f" prompt={prompt}", ""), prompt]


Measured = tuple[str, Measure | None, bool]  # model, measure, and whether it is of earlier code or data


def measure_of(row: Row) -> Measured:
    """What rows have in common whose scores compare."""
    return row.names["model"], row.measure, row.earlier is not None


def best_of_rows(table: Table, values: Sequence[Sequence[Estimate | None]]) -> dict[Measured, list[str | None]]:
    """For rows whose scores compare, the text of the highest mean of each column; None if there is only one, and for
    rows of earlier code or data."""
    best: dict[Measured, list[str | None]] = {}
    for key in dict.fromkeys(map(measure_of, table.rows)):
        alike = [scores for scores, row in zip(values, table.rows, strict=True) if measure_of(row) == key]
        columns = [[value.mean for value in column if value] for column in zip(*alike, strict=True)]
        best[key] = [f"{max(means):.1f}" if len(means) > 1 and not key[2] else None for means in columns]
    return best


def paper_sheet(table: Table, comparison: Comparison) -> Sheet:
    """The paper's scores, with the differences of ours."""
    columns = [column for column in table.columns if any(column in of_row for _, of_row in comparison.rows)]
    rows = []
    for row, of_row in comparison.rows:
        cells = [
            SheetCell(_paper_text(of_row[c]), note=comparison.note(row, c)) if c in of_row else SheetCell(MISSING)
            for c in columns
        ]
        rows.append([SheetCell(row.names["model"]), SheetCell(row.label), *cells])
    notes = [f"{slip.row.model}, {slip.row.method}, {slip.column}: {slip.text}." for slip in comparison.slips]
    title = f"Against the paper ({comparison.source})"
    return Sheet(title, "", ["model", "objective", *columns], rows, PAPER_CAPTION, notes)


def _paper_text(difference: PaperDifference) -> str:
    if difference.value is None:
        return f"{difference.paper:.2f} ({MISSING})"
    mark = "*" if difference.inside is False else ""
    return f"{difference.paper:.2f} ({difference.value:+.1f}{mark})".replace("-", "−")


def markdown(sheet: Sheet, level: int = 1) -> str:
    def text(cell: SheetCell) -> str:
        inner = printable(cell.text).replace("|", "\\|")
        marked = f"**{inner}**" if cell.best else inner
        return marked if cell.note is None else f"{marked} [{cell.note}]"

    lines = [
        "| " + " | ".join(sheet.head) + " |",
        "|" + "---|" * sheet.naming + "---:|" * (len(sheet.head) - sheet.naming),
    ]
    lines += ["| " + " | ".join(map(text, row)) + " |" for row in sheet.rows]
    notes = [f"[{number}] {note}" for number, note in enumerate(sheet.notes, start=1)]
    before = ["", sheet.text] if sheet.text else []
    parts = [f"{'#' * level} {sheet.title}", *before, "", *lines, "", sheet.caption.replace("*", "\\*")]
    return "\n".join([*parts, *(line for note in notes for line in ("", note)), ""])


LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
}


def latex(sheet: Sheet) -> str:
    """A `table` environment with booktabs rules, space between models, and footnotes below."""

    def escape(text: str) -> str:
        return "".join(LATEX.get(character, character) for character in printable(text))

    def text(cell: SheetCell) -> str:
        inner = escape(cell.text)
        marked = rf"\textbf{{{inner}}}" if cell.best else inner
        return marked if cell.note is None else rf"{marked}\textsuperscript{{{cell.note}}}"

    body = []
    for i, row in enumerate(sheet.rows):
        same = i > 0 and sheet.rows[i - 1][0] == row[0]
        if i > 0 and not same:
            body.append(r"\addlinespace")
        body.append(" & ".join([*([""] if same else [text(row[0])]), *map(text, row[1:])]) + r" \\")
    notes = [rf"\textsuperscript{{{n}}} {escape(note)}" for n, note in enumerate(sheet.notes, start=1)]
    caption = " ".join(part for part in (sheet.text, sheet.caption) if part)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{'-'.join(re.findall('[a-z0-9]+', sheet.title.lower()))}}}",
        rf"\begin{{tabular}}{{{'l' * sheet.naming}{'r' * (len(sheet.head) - sheet.naming)}}}",
        r"\toprule",
        " & ".join(map(escape, sheet.head)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\footnotesize {note}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def terminal(sheet: Sheet) -> RichTable:
    """A rich table. The column of models is left out if there is one model; control characters are escaped."""
    models = list(dict.fromkeys(row[0].text for row in sheet.rows))
    skipped = 1 if sheet.head[0] == "model" and len(models) == 1 else 0
    title = ": ".join(part for part in (sheet.title, sheet.text) if part) + (f" ({models[0]})" if skipped else "")
    notes = [f"[{number}] {note}" for number, note in enumerate(sheet.notes, start=1)]
    if left := len(sheet.rows) - TERMINAL_ROWS if len(sheet.rows) > TERMINAL_ROWS else 0:
        notes.insert(0, f"{left:,} more rows are in the files.")
    caption = "\n".join(map(printable, [sheet.caption, *notes]))
    out = RichTable(title=Text(printable(title)), caption=Text(caption), title_justify="left", caption_justify="left")
    for i, name in enumerate(sheet.head[skipped:], start=skipped):
        out.add_column(Text(printable(name)), justify="left" if i < sheet.naming else "right", overflow="fold")
    for i, row in enumerate(sheet.rows[:TERMINAL_ROWS]):
        texts = [printable(cell.text if cell.note is None else f"{cell.text} [{cell.note}]") for cell in row]
        lines = [text.replace(" ± ", "\n± ").replace(" (", "\n(") for text in texts]  # five benchmarks fit 80 columns
        lines[0] = "" if i and sheet.rows[i - 1][0] == row[0] else lines[0]
        styled = [Text(line, "bold" if cell.best else "") for line, cell in zip(lines, row, strict=True)]
        out.add_row(*styled[skipped:])
    return out


def columns_and_rows(table: Table, comparison: Comparison | None) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of plain values, None if missing: for CSV and for a tracker's table.

    Each benchmark has its mean, half of its interval and, with a comparison, the paper's score, ours minus it, and
    whether the paper's score lies inside our interval; and its number of seeds where any row has scores over other
    numbers than its own.
    """
    with_seeds = any(_of_other_seeds(table, row) for row in table.rows)
    parts = ("", "_half") if comparison is None else ("", "_half", "_paper", "_difference", "_inside")
    several = len(table.prompts) > 1
    naming = ["model", "objective", *(["prompt"] if several else [])]
    of_column = (*parts, *(["_seeds"] if with_seeds else []))
    head = [*naming, "seeds", "seeds_asked", *(f"{c}{part}" for c in table.columns for part in of_column)]
    of_paper = {id(row): of_row for row, of_row in comparison.rows} if comparison else {}
    rows = []
    for row in table.rows:
        line: list[Any] = [row.names["model"], row.label, *([row.measure and row.measure.prompt] if several else [])]
        line += [len(row.averaged), len(row.entries)]
        for column in table.columns:
            ours, paper = row.value(column), of_paper.get(id(row), {}).get(column)
            values = [ours and ours.mean, ours and ours.half]
            values += [paper.paper, paper.value, paper.inside] if paper else [None] * 3
            line += [*values[: len(parts)], *([row.seeds(column) if ours else None] if with_seeds else [])]
        rows.append(line)
    return head, rows


def to_csv(table: Table, comparison: Comparison | None) -> str:
    return csv_text(*columns_and_rows(table, comparison))
