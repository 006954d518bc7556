"""How much better one cell is than another, problem by problem, with 95% intervals.

losslab compare CELL CELL     how much better the second is; CELL may also be a folder of scores
  verdict=corrected           instead of official, the verdict of the published tables
"""

from losslab.commands.cli import parse


def main(arguments: list[str]) -> None:
    cells, options = parse(arguments, ["verdict"])
    if len(cells) != 2:
        raise ValueError("a comparison takes two cells: losslab compare CELL CELL")
    from losslab.results.compare import compare

    print(compare((cells[0], cells[1]), options.get("verdict")))
