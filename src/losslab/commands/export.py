"""Write a cell's scores and samples in other formats: the hub's .eval_results, and lighteval's details.

losslab export CELL FOLDER
  repo=USER/NAME       the model's repository on the hub, named as source in .eval_results

losslab export results/cells/CELL /tmp/exports
FOLDER/.eval_results/<benchmark>.yaml belongs in the model's repository (`losslab push` uploads it), and
FOLDER/details/... has one parquet file for each benchmark with all samples.
"""

from pathlib import Path

from losslab.commands.cli import parse

USAGE = "losslab export CELL FOLDER"


def main(arguments: list[str]) -> None:
    names, options = parse(arguments, ["repo"])
    if len(names) != 2:
        raise ValueError(f"give a cell and a folder to write to: {USAGE}")
    source, folder = Path(names[0]).resolve(), Path(names[1])
    if not (source / "cell.json").is_file():
        raise ValueError(f"{names[0]} is not the folder of a cell: give one of results/cells")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to write to")
    from losslab.hub.details import write_details
    from losslab.hub.eval_results import write_eval_results
    from losslab.records.record import Cell

    cell = Cell.at(source)
    written = [*write_eval_results(cell, folder, options.get("repo")), *write_details(cell, folder)]
    if not written:
        raise ValueError(f"{source.name} has no scores: score it first, as in losslab evaluate model={names[0]}")
    for path in written:
        print(path, flush=True)
