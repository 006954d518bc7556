"""Examples of each row token by token, shaded by the page's style sheet, from records alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from losslab.records.tokens import ShownExample, Token, read_examples
from losslab.report.rows import ReportRow
from losslab.results.tables import Table

SHADES = 8  # from 0 to 1
LONGEST = 800  # tokens of an example on the page


@dataclass(frozen=True)
class ShadedToken:
    text: str
    classes: str  # its shades by probability and by weight; empty if it is not trained
    tip: str


@dataclass(frozen=True)
class ShadedExample:
    title: str
    tokens: list[ShadedToken]
    left_out: int  # tokens at the end


@dataclass(frozen=True)
class TokenView:
    """The examples of a row, from its first cell that has any."""

    label: str
    style: int
    examples: list[ShadedExample]


def token_views(table: Table, rows: Sequence[ReportRow]) -> list[TokenView]:
    """One view for each row with recorded examples."""
    views = []
    for row in rows:
        for cell in row.trained:
            if examples := table.attempt(read_examples, cell.folder, []):
                views.append(TokenView(f"{row.label}, seed {cell.seed}", row.style, [*map(_shaded, examples)]))
                break
    return views


def _shaded(example: ShownExample) -> ShadedExample:
    heaviest = example.heaviest
    tokens = [
        ShadedToken(token.text.replace("\n", "↵\n"), *(_shade(token, heaviest) if token.trained else ("", "")))
        for token in example.tokens[:LONGEST]
    ]
    title = f"example {example.number:,} of {example.of:,}"
    return ShadedExample(title, tokens, max(0, len(example.tokens) - LONGEST))


def _shade(token: Token, heaviest: float) -> tuple[str, str]:
    by_p, by_weight = (min(int(share * SHADES), SHADES - 1) for share in (token.after, abs(token.weight) / heaviest))
    return f"p{by_p} w{by_weight}", f"p {token.before:.4f} → {token.after:.4f}, weight {token.weight:.4f}"
