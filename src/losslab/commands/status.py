"""How sweeps stand: waiting, running, preempted, failed with the reason, done with the score.

losslab status [SWEEP ...]             all sweeps, or those named; from files alone
losslab status table1 watch=true       follows it until no cell can change any more
losslab status table1 cancel=true      ends its SLURM jobs, waiting and running
losslab status table1 retry=failed     submits its failed, cancelled and lost cells again, with the code as it is now
  results=FOLDER                       where the records are, if not in results
"""

from losslab.commands.cli import flag, parse


def main(arguments: list[str]) -> None:
    sweeps, options = parse(arguments, ["watch", "cancel", "retry", "results"])
    results, watch, cancel = options.get("results", "results"), flag(options, "watch"), flag(options, "cancel")
    if options.get("retry", "failed") != "failed":
        raise ValueError(f"retry={options['retry']} means nothing: write retry=failed")
    if (cancel or "retry" in options) and len(sweeps) != 1:
        raise ValueError("name the one sweep to cancel or to retry")
    from losslab.launchers import slurm, status

    if cancel:
        print(f"{sweeps[0]}: {slurm.cancel(sweeps[0], results)} jobs cancelled")
    elif "retry" in options:
        status.retry(sweeps[0], results)
    else:
        status.show(sweeps, results, watch)
