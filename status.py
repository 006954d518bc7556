"""How sweeps stand: waiting, running, preempted, failed with the reason, done with the score.

python status.py [sweep ...] [watch=true] [results=FOLDER]
python status.py SWEEP cancel=true       end its SLURM jobs, waiting and running
python status.py SWEEP retry=failed      submit its failed, cancelled and lost cells again, with the code as it is now
"""

if __name__ == "__main__":
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab import slurm, status

    sweeps = [argument for argument in sys.argv[1:] if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    allowed = {"watch": ("true", "false"), "cancel": ("true",), "retry": ("failed",)}
    results = options.pop("results", "results")
    try:
        for key, value in options.items():
            if value not in allowed.get(key, ()):
                raise ValueError(f"{key}={value} is no option here: there are watch=true, cancel=true and retry=failed")
        if {"cancel", "retry"} & set(options) and len(sweeps) != 1:
            raise ValueError("name the one sweep to cancel or to retry")
        if "cancel" in options:
            print(f"{sweeps[0]}: {slurm.cancel(sweeps[0], results)} jobs cancelled")
        elif "retry" in options:
            status.retry(sweeps[0], results)
        else:
            status.show(sweeps, results, options.get("watch") == "true")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        pass
