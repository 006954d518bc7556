"""Processor time of the commands that should feel instant, and what a reader of records waits for.

    python benchmarks/latency.py [starts=5] [cells=12,2000]    writes results/benchmarks/latency.md, in some minutes

Each command stands beside the start of Python with an import of hydra, right before it, and their ratio: a busy machine
makes both longer, and leaves the ratio. The tables and reports of so many cells are those of `latency_readers.py`.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import latency_readers

from losslab.files.atomic import write
from losslab.records.environment import processor

RESULT = Path(__file__).parent.parent / "results/benchmarks/latency.md"
HYDRA = ["-c", "import hydra"]
LOSSLAB = ["-m", "losslab"]
# Name, arguments, and the processor seconds that it should take on an idle core.
COMMANDS = {
    "losslab --help": ([*LOSSLAB, "--help"], 0.5),
    "losslab train --help": ([*LOSSLAB, "train", "--help"], 0.5),
    "losslab plan loss=dft": ([*LOSSLAB, "plan", "loss=dft"], 1.5),
    "losslab plan -m loss=dft,sft": ([*LOSSLAB, "plan", "-m", "loss=dft,sft"], 1.5),
    "losslab plan experiment=table1 (15 cells)": ([*LOSSLAB, "plan", "experiment=table1"], 1.5),
    "losslab plan -m 'seed=range(0,100000)'": ([*LOSSLAB, "plan", "-m", "seed=range(0,100000)"], 10.0),
}


def seconds(arguments: list[str], folder: str) -> float:
    """Processor time of one start of Python, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command_rows(starts: int) -> Iterator[str]:
    """A line of the table for each command: the least of its starts, and of those of hydra."""
    yield "| command | processor seconds | target | import hydra | ratio |\n|---|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as folder:
        for name, (arguments, target) in COMMANDS.items():
            repeats = range(1 if "range" in name else starts)
            pairs = [(seconds(HYDRA, folder), seconds(arguments, folder)) for _ in repeats]
            hydra, taken = (min(column) for column in zip(*pairs, strict=True))
            over = ", not reached" if taken > target else ""
            yield f"| `{name}` | {taken:.2f} | {target:g}{over} | {hydra:.2f} | {taken / hydra:.1f} |"


def reader_rows(counts: list[int]) -> Iterator[str]:
    yield "\n| command | processor seconds | peak MB |\n|---|---:|---:|"
    for count in counts:
        for command, taken, memory in latency_readers.records(count):
            yield f"| {command} | {taken:.1f} | {memory:.0f} |"


def main(starts: int, counts: list[int]) -> None:
    """Print and write the lines one by one, so that a run that is stopped leaves those that it has."""
    lines = ["# Latency", "", f"`python benchmarks/latency.py {' '.join(sys.argv[1:])}`".replace(" `", "`"), ""]
    load = os.getloadavg()[0]
    lines += [f"{processor()}, {os.cpu_count()} cores, load {load:.0f}, Python {platform.python_version()}", ""]
    for line in chain(command_rows(starts), reader_rows(counts)):
        print(line, flush=True)
        lines.append(line)
        write(RESULT, "\n".join([*lines, ""]))


if __name__ == "__main__":
    options = dict(argument.split("=") for argument in sys.argv[1:])
    main(int(options.get("starts", "5")), [int(count) for count in options.get("cells", "12,2000").split(",") if count])
