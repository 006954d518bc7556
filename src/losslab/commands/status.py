"""Show the states of cells: waiting, running, preempted, failed with the reason, done with the score.

losslab status [SWEEP ...]             all sweeps, or those named; reads files only
losslab status table1 watch=true       updates the view until no cell can change any more
losslab status table1 cancel=true      cancels its queued and running SLURM jobs
losslab status table1 retry=failed     submits failed, stopped and lost cells again, with the current code
  results=FOLDER                       the folder of the records, if not results
"""

from losslab.commands.cli import flag, parse


def main(arguments: list[str]) -> None:
    sweeps, options = parse(arguments, ["watch", "cancel", "retry", "results"])
    results, watch, cancel = options.get("results", "results"), flag(options, "watch"), flag(options, "cancel")
    if options.get("retry", "failed") != "failed":
        raise ValueError(f"retry={options['retry']} does not exist: write retry=failed")
    if (cancel or "retry" in options) and len(sweeps) != 1:
        raise ValueError("give the one sweep to cancel or to retry")
    from losslab.launchers import slurm, status

    if cancel:
        print(f"{sweeps[0]}: {slurm.cancel(sweeps[0], results)} jobs cancelled")
    elif "retry" in options:
        from losslab.launchers.retry import retry

        retry(sweeps[0], results)
    else:
        status.show(sweeps, results, watch)
