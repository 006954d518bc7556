"""Write one HTML page for each sweep, from records alone.

losslab report [SWEEP ...]   all sweeps, or those named
  against=ROW                the row that others are compared with; by default SFT's, else the base model's
  results=FOLDER             the folder of the records, if not results

They go to results/reports/<sweep>.html.
"""

from losslab.commands.cli import parse


def main(arguments: list[str]) -> None:
    sweeps, options = parse(arguments, ["against", "results"])
    from losslab.report.page import write_reports

    for page in write_reports(sweeps, options.get("results", "results"), options.get("against")):
        print(f"report:  {page}", flush=True)
