"""Grade stored responses again, without a model.

losslab regrade IN.jsonl OUT.jsonl

A row of IN has benchmark, response (or prediction) and gold, and gold_raw where the gold was cleaned up; OUT has the
same rows with extracted, official, corrected and timed_out.
"""

import os
from pathlib import Path

from losslab.commands.cli import parse
from losslab.config.errors import exit_on_error


def main(arguments: list[str]) -> None:
    files, _ = parse(arguments, [])
    if len(files) != 2:
        raise ValueError("regrading takes two files: losslab regrade IN.jsonl OUT.jsonl")
    with exit_on_error(RuntimeError):  # of a grading process that does not start
        from losslab.grading.graders import regrade

        regrade(Path(files[0]), Path(files[1]), os.cpu_count() or 1)
