"""How sweeps stand: waiting, running, preempted, failed with the reason, done with the score.

python status.py [SWEEP ...]             all sweeps, or those named; from files alone
python status.py table1 watch=true       follows it until no cell can change any more
python status.py table1 cancel=true      ends its SLURM jobs, waiting and running
python status.py table1 retry=failed     submits its failed, cancelled and lost cells again, with the code as it is now

results=FOLDER   where the records are, if not in results
"""

if __name__ == "__main__":
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.commands.cli import arguments
    from losslab.config.errors import exit_on_error

    allowed = {"watch": ("true", "false"), "cancel": ("true",), "retry": ("failed",)}
    with exit_on_error():
        sweeps, options = arguments(__doc__, [*allowed, "results"])
        results = options.pop("results", "results")
        for key, value in options.items():
            if value not in allowed[key]:
                raise ValueError(f"{key}={value} means nothing: write {key}={' or '.join(allowed[key])}")
        if {"cancel", "retry"} & set(options) and len(sweeps) != 1:
            raise ValueError("name the one sweep to cancel or to retry")
        from losslab.launchers import slurm, status

        if "cancel" in options:
            print(f"{sweeps[0]}: {slurm.cancel(sweeps[0], results)} jobs cancelled")
        elif "retry" in options:
            status.retry(sweeps[0], results)
        else:
            status.show(sweeps, results, options.get("watch") == "true")
