"""Put a cell's trained model on the hub, with a model card made from its record.

python push.py cell=CELL repo=USER/NAME license=LICENCE [dry_run=true] [private=true]

cell=results/cells/CELL   a finished cell
license=apache-2.0        the hub's name of the licence; that of the base model allows some and not others
dry_run=true              writes the card and prints what would be uploaded; needs no network
private=true              makes the repository a private one
revision=main             the branch

The card and what goes beside the model are written to <cell>/hub. `hf auth login` comes first.
"""

if __name__ == "__main__":
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.commands.cli import arguments
    from losslab.config.errors import exit_on_error

    with exit_on_error():
        names, options = arguments(__doc__, ["cell", "repo", "license", "dry_run", "private", "revision"])
        for key in ("cell", "repo", "license"):
            if key not in options:
                raise ValueError(f"{key} has no value: python push.py cell=CELL repo=USER/NAME license=apache-2.0")
        for key in ("dry_run", "private"):
            if options.get(key, "false") not in ("true", "false"):
                raise ValueError(f"{key}={options[key]} means nothing: write {key}=true or false")
        from losslab.hub.push import push

        push(
            options["cell"],
            options["repo"],
            options["license"],
            dry_run=options.get("dry_run") == "true",
            private=options.get("private") == "true",
            revision=options.get("revision", "main"),
        )
