"""Put a cell's trained model on the hub, with a model card made from its record.

losslab push CELL repo=USER/NAME license=LICENCE
  license=apache-2.0   the hub's name of the licence; the base model's licence restricts the choice
  dry_run=true         writes the card and prints what would be uploaded; needs no network
  private=true         creates the repository as private
  revision=main        the branch

losslab push results/cells/CELL repo=me/sums license=apache-2.0 dry_run=true
The card and the files beside the model are written to <cell>/hub. Run `hf auth login` first.
Weights, scores and record of a model that was pushed to the repository before are removed from the branch.
"""

from losslab.commands.cli import flag, parse

USAGE = "losslab push CELL repo=USER/NAME license=apache-2.0"


def main(arguments: list[str]) -> None:
    cells, options = parse(arguments, ["repo", "license", "dry_run", "private", "revision"])
    if len(cells) != 1:
        raise ValueError(f"give the one cell whose model to upload: {USAGE}")
    for key in ("repo", "license"):
        if key not in options:
            raise ValueError(f"{key} has no value: {USAGE}")
    dry_run, private = flag(options, "dry_run"), flag(options, "private")
    from losslab.hub.push import push

    push(
        cells[0],
        options["repo"],
        options["license"],
        dry_run=dry_run,
        private=private,
        revision=options.get("revision", "main"),
    )
