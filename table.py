"""Rebuild the table and figure of a sweep, or of all, from records alone.

python table.py [sweep ...] [results=FOLDER]
"""

if __name__ == "__main__":
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.publish import rebuild

    sweeps = [argument for argument in sys.argv[1:] if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    try:
        if unknown := set(options) - {"results"}:
            raise ValueError(f"unknown option {sorted(unknown)[0]}: the only one is results=FOLDER")
        rebuild(sweeps, options.get("results", "results"))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
