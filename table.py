"""Rebuild the tables and figures of sweeps from records alone.

python table.py [SWEEP ...]   all sweeps, or those named
results=FOLDER                where the records are, if not in results

They go to results/tables/<sweep>.
"""

if __name__ == "__main__":
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.commands.cli import arguments
    from losslab.config.errors import exit_on_error

    with exit_on_error():
        sweeps, options = arguments(__doc__, ["results"])
        from losslab.results.write_tables import rebuild

        rebuild(sweeps, options.get("results", "results"))
