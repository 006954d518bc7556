"""One HTML page for a sweep, or for each of all, from records alone: results/reports/<sweep>.html.

python report.py [sweep ...] [against=ROW] [results=FOLDER]
"""

if __name__ == "__main__":
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.report.page import rebuild

    sweeps = [argument for argument in sys.argv[1:] if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    try:
        if unknown := set(options) - {"against", "results"}:
            raise ValueError(f"unknown option {sorted(unknown)[0]}: there are against=ROW and results=FOLDER")
        for page in rebuild(sweeps, options.get("results", "results"), options.get("against")):
            print(f"report:  {page}", flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
