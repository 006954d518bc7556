"""Write the tables and figures of sweeps again, from records alone.

losslab table [SWEEP ...]   all sweeps, or those named
  results=FOLDER            where the records are, if not in results

They go to results/tables/<sweep>.
"""

from losslab.commands.cli import parse


def main(arguments: list[str]) -> None:
    sweeps, options = parse(arguments, ["results"])
    from losslab.results.write_tables import write_tables

    write_tables(sweeps, options.get("results", "results"))
