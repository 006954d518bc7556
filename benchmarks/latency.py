"""Processor time of the commands that should feel instant, user and system, the least of several starts.

    python benchmarks/latency.py

Beside each stands the time to start Python and import hydra, which all but the first take, and their ratio: a busy
machine makes both longer, and leaves the ratio.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable

STARTS = 5
LOSSLAB = ["-m", "losslab"]
COMMANDS = {
    "losslab --help": [*LOSSLAB, "--help"],
    "losslab train --help": [*LOSSLAB, "train", "--help"],
    "losslab plan loss=dft": [*LOSSLAB, "plan", "loss=dft"],
    "losslab plan -m loss=dft,sft": [*LOSSLAB, "plan", "-m", "loss=dft,sft"],
    "losslab plan experiment=table1 (15 cells)": [*LOSSLAB, "plan", "experiment=table1"],
    "losslab plan -m 'seed=range(0,100000)'": [*LOSSLAB, "plan", "-m", "seed=range(0,100000)"],
}


def seconds(arguments: list[str], folder: str) -> float:
    """Processor time of one start of Python, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def least(measure: Callable[[], float], starts: int) -> float:
    return min(measure() for _ in range(starts))


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| command | processor time | import hydra | ratio |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in COMMANDS.items():
            starts = 1 if "range" in name else STARTS
            base = least(lambda: seconds(["-c", "import hydra"], folder), starts)
            taken = least(lambda arguments=arguments: seconds(arguments, folder), starts)
            print(f"| `{name}` | {taken:.2f} s | {base:.2f} s | {taken / base:.1f} |", flush=True)


if __name__ == "__main__":
    main()
