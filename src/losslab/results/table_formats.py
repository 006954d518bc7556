"""A table in the formats that people and programs read: Markdown, LaTeX, the terminal, CSV, and rows for a tracker."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from losslab.results.paper import Comparison, Difference
from losslab.results.tables import Table
from losslab.statistics.intervals import Estimate

MISSING = "–"
AGAINST = (
    "The paper's figure and, in brackets, ours minus the paper's. * The paper's figure lies outside our 95% interval. "
    f"{MISSING} Ours is missing."
)


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False
    note: int | None = None  # number of a footnote


@dataclass(frozen=True)
class Sheet:
    """A table as texts: the first two columns name a row, as by its model and objective."""

    title: str
    text: str  # before the table
    head: list[str]
    rows: list[list[Cell]]
    caption: str
    notes: list[str]


def caption(table: Table) -> str:
    """What the numbers of the table are."""
    verdicts = {row.measure.verdict for row in table.rows if row.measure}
    by = f" by the {verdicts.pop()} verdict" if len(verdicts) == 1 else ""
    told = " Rows with `earlier` are of code or data that has changed since." if _earlier(table) else ""
    return (
        f"Accuracy in percent{by} ± half of the 95% interval (over seeds where there are several, else over problems)."
        + told
    )


def _earlier(table: Table) -> bool:
    return any(row.earlier for row in table.rows)


def scores(table: Table, notes: Sequence[str] = ()) -> Sheet:
    """Our scores: the best mean of a model is marked, and `1/3` seeds are one scored of three asked for."""
    rows = []
    for row in table.rows:
        found = [row.value(column) for column in table.columns]
        best = [_best(table, column, row.names["model"]) for column in table.columns]
        cells = [
            Cell(str(value) if value else MISSING, value is not None and f"{value.mean:.1f}" == highest)
            for value, highest in zip(found, best, strict=True)
        ]
        scored, asked = len(row.scored), len(row.entries)
        seeds = str(scored) if scored == asked else f"{scored}/{asked}"
        rows.append([Cell(row.names["model"]), Cell(row.label), *cells, Cell(seeds)])
    head = ["model", "objective", *table.columns, "seeds"]
    return Sheet(table.name, table.question, head, rows, " ".join([caption(table), *notes]), [])


def _best(table: Table, column: str, model: str) -> str | None:
    """The text of the highest mean of a column among a model's rows, where it is higher than another one."""
    values = [row.value(column) for row in table.rows if row.names["model"] == model]
    means = [value.mean for value in values if value]
    return f"{max(means):.1f}" if len(means) > 1 else None


def against(table: Table, comparison: Comparison) -> Sheet:
    """The paper's figures, and how far ours are from them."""
    columns = [column for column in table.columns if any(column in found for _, found in comparison.rows)]
    rows = []
    for row, found in comparison.rows:
        cells = [
            Cell(_difference(found[c]), note=comparison.note(row, c)) if c in found else Cell(MISSING) for c in columns
        ]
        rows.append([Cell(row.names["model"]), Cell(row.label), *cells])
    notes = [f"{slip.row.model}, {slip.row.method}, {slip.column}: {slip.text}." for slip in comparison.slips]
    return Sheet(f"Against the paper ({comparison.source})", "", ["model", "objective", *columns], rows, AGAINST, notes)


def _difference(one: Difference) -> str:
    if one.value is None:
        return f"{one.paper:.2f} ({MISSING})"
    return f"{one.paper:.2f} ({one.value:+.1f}{'*' if one.inside is False else ''})".replace("-", "−")


def markdown(sheet: Sheet, level: int = 1) -> str:
    def text(cell: Cell) -> str:
        marked = f"**{cell.text}**" if cell.best else cell.text
        return marked if cell.note is None else f"{marked} [{cell.note}]"

    lines = ["| " + " | ".join(sheet.head) + " |", "|" + "---|" * 2 + "---:|" * (len(sheet.head) - 2)]
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
    """A `table` with booktabs' rules, a space between models, and the footnotes below."""

    def escape(text: str) -> str:
        return "".join(LATEX.get(character, character) for character in text)

    def text(cell: Cell) -> str:
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
        rf"\begin{{tabular}}{{ll{'r' * (len(sheet.head) - 2)}}}",
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
    """Without the column of models where there is one."""
    models = list(dict.fromkeys(row[0].text for row in sheet.rows))
    skipped = 1 if sheet.head[0] == "model" and len(models) == 1 else 0
    title = ": ".join(part for part in (sheet.title, sheet.text) if part) + (f" ({models[0]})" if skipped else "")
    caption = "\n".join([sheet.caption, *(f"[{number}] {note}" for number, note in enumerate(sheet.notes, start=1))])
    out = RichTable(title=Text(title), caption=Text(caption), title_justify="left", caption_justify="left")
    for i, name in enumerate(sheet.head[skipped:], start=skipped):
        out.add_column(Text(name), justify="left" if i < 2 else "right", overflow="fold")
    for i, row in enumerate(sheet.rows):
        texts = [cell.text if cell.note is None else f"{cell.text} [{cell.note}]" for cell in row]
        lines = [text.replace(" ± ", "\n± ").replace(" (", "\n(") for text in texts]  # five benchmarks fit 80 columns
        lines[0] = "" if i and sheet.rows[i - 1][0] == row[0] else lines[0]
        styled = [Text(line, "bold" if cell.best else "") for line, cell in zip(lines, row, strict=True)]
        out.add_row(*styled[skipped:])
    return out


def records(table: Table, comparison: Comparison | None) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of plain values, None for what is missing: for CSV and for a tracker's table.

    A column has its mean, half of its interval and, where there is a comparison, the paper's figure, ours minus it, and
    whether the paper's lies inside our interval.
    """
    parts = ("", "_half") if comparison is None else ("", "_half", "_paper", "_difference", "_inside")
    head = ["model", "objective", "seeds", "seeds_asked", *(f"{c}{part}" for c in table.columns for part in parts)]
    theirs = {id(row): found for row, found in comparison.rows} if comparison else {}
    rows = []
    for row in table.rows:
        line: list[Any] = [row.names["model"], row.label, len(row.scored), len(row.entries)]
        for column in table.columns:
            ours, one = row.value(column) or Estimate(float("nan")), theirs.get(id(row), {}).get(column)
            values = [ours.mean, ours.half, *((one.paper, one.value, one.inside) if one else (None,) * 3)]
            line += [None if value != value else value for value in values[: len(parts)]]
        rows.append(line)
    return head, rows


def spreadsheet(table: Table, comparison: Comparison | None) -> str:
    out = io.StringIO()
    head, rows = records(table, comparison)
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue()
