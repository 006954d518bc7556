"""Prints token probabilities and weights of a cell's examples after training: `losslab data CELL`."""

from typing import Any

from losslab.records.tokens import ShownExample, Token

MOVED = 8  # listed tokens: those whose probability changed most
COLOURS = ("#d73027", "#f46d43", "#fdae61", "#fee08b", "#d9ef8b", "#a6d96a", "#66bd63", "#1a9850")  # from 0 to 1
BREAK = "↵"


def show(console: Any, name: str, examples: list[ShownExample], by: str) -> None:
    """Print examples with each trained token coloured by its `probability` after training, or by its `weight`."""
    from rich.text import Text

    console.print(f"\n[bold]{name}[/]", soft_wrap=True)
    legend = Text(f"  coloured by {by}: ")
    for i, colour in enumerate(COLOURS):
        legend.append(f" {i / len(COLOURS):.2f} ", style=f"black on {colour}")
    legend.append(" or more" if by == "probability" else " of the largest in the example", style="dim")
    console.print(legend, soft_wrap=True)
    for example in examples:
        console.print(f"\n[bold]example {example.number:,} of {example.of:,}[/]", soft_wrap=True)
        shown = Text()
        for token in example.tokens:
            share = token.after if by == "probability" else abs(token.weight) / example.heaviest
            style = f"black on {COLOURS[min(int(share * len(COLOURS)), len(COLOURS) - 1)]}" if token.trained else "dim"
            shown.append(token.text.replace("\n", BREAK + "\n"), style=style)
        console.print(shown, soft_wrap=True)
        moved(console, example)


def moved(console: Any, example: ShownExample) -> None:
    """Print the tokens whose probability changed most, as numbers."""
    trained = [token for token in example.tokens if token.trained]
    console.print("\n        p before → after   weight   token", style="bold", soft_wrap=True)
    for token in sorted(trained, key=lambda token: -abs(token.change))[:MOVED]:
        console.print(line(token), soft_wrap=True, markup=False)


def line(token: Token) -> str:
    return f"  {token.before:>12.4f} → {token.after:.4f} {token.weight:>8.4f}   {token.text!r}"
