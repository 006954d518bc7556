"""Rebuild the tables and figures of sweeps from their records.

losslab table [SWEEP ...]   all sweeps, or those named
  results=FOLDER            the folder of the records, if not results

They go to results/tables/<sweep>.
"""

from losslab.commands.cli import parse


def main(arguments: list[str]) -> None:
    sweeps, options = parse(arguments, ["results"])
    from losslab.results.write_tables import write_tables

    write_tables(sweeps, options.get("results", "results"))
