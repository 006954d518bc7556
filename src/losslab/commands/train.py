"""Train and score a cell, or a sweep of cells, and add it to the ablation table."""

from losslab.composition.compose import entry


def main(arguments: list[str]) -> None:
    entry("losslab.cells.run.run", arguments)
