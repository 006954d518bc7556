"""One HTML page for a sweep, from records alone.

python report.py [SWEEP ...]   all sweeps, or those named
against=ROW                    the row that others are compared with; else SFT's, else the base model's
results=FOLDER                 where the records are, if not in results

They go to results/reports/<sweep>.html.
"""

if __name__ == "__main__":
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.commands.cli import arguments
    from losslab.config.errors import exit_on_error

    with exit_on_error():
        sweeps, options = arguments(__doc__, ["against", "results"])
        from losslab.report.page import rebuild

        for page in rebuild(sweeps, options.get("results", "results"), options.get("against")):
            print(f"report:  {page}", flush=True)
