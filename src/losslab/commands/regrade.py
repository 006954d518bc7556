"""Grade stored responses again, without a model.

losslab regrade IN.jsonl OUT.jsonl

A row of IN has the columns
  benchmark   the row is graded by the rules of conf/benchmark/<benchmark>.yaml, or by those in its column rules
  response    the whole text of the model; or prediction
  gold        the right answer as the official evaluation cleaned it, a text or a number: for the official verdict
  gold_raw    optional: the right answer as its authors wrote it, for the corrected verdict
The gold of code is a problem (docs/evaluation.md). Code runs in a sandbox, or without one if machine.unsafe_code=true;
that of a language without its compiler comes out without a verdict. machine.grading_seconds=10 allows any other
answer ten seconds in place of three.
OUT has the same rows with extracted, official, corrected and timed_out; the accuracy of each benchmark by both verdicts
is printed. After an interruption the same command grades the rest.
"""

from pathlib import Path

import yaml

from losslab.commands.cli import flag, parse
from losslab.config.choices import Rules
from losslab.config.errors import exit_on_error
from losslab.config.machine import MachineConfig
from losslab.config.paths import CONF
from losslab.keys import check_bounds

UNSAFE, SECONDS = "machine.unsafe_code", "machine.grading_seconds"


def main(arguments: list[str]) -> None:
    files, values = parse(arguments, [UNSAFE, SECONDS])
    if len(files) != 2:
        raise ValueError("regrading takes two files: losslab regrade IN.jsonl OUT.jsonl")
    unsafe, limit = flag(values, UNSAFE), seconds(values)
    with exit_on_error(RuntimeError):  # raised if a grading process does not start
        from losslab.distributed.environment import available_cores
        from losslab.grading.regrade import regrade

        regrade(Path(files[0]), Path(files[1]), available_cores(), rules(), unsafe, limit)


def seconds(values: dict[str, str]) -> float:
    """The limit of the verdict on one answer. Raises ValueError for one that is out of the schema's bounds."""
    machine = MachineConfig()
    try:
        machine.grading_seconds = float(values.get(SECONDS, machine.grading_seconds))
    except ValueError:
        raise ValueError(f"{SECONDS}={values[SECONDS]} is not a number") from None
    check_bounds(machine, "machine.")
    return machine.grading_seconds


def rules() -> dict[str, str]:
    """The rules of each benchmark of conf/."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CONF / "benchmark").glob("*.yaml")]
    return {name: keys.get("rules", Rules.general) for file in files for name, keys in file.items()}
