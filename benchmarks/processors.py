"""Whether the demo's intervals hold on other processors, imitated by the vector instructions that libraries may use.

python benchmarks/processors.py results=FOLDER run=true    the demo under each of them, twice: an hour on two cores
python benchmarks/processors.py results=FOLDER             the page results/benchmarks/processors.md, from its records

Another processor rounds differently, and training amplifies that: it is one more repetition with the same seeds.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from math import hypot
from pathlib import Path

import torch

from losslab.config.sweep import SweepConfig
from losslab.records.environment import processor
from losslab.results.problem_shares import ProblemShares
from losslab.results.tables import build
from losslab.statistics.intervals import Estimate

ROOT = Path(__file__).parents[1]
PROCESSORS = {  # what torch's own kernels, oneDNN and MKL may use
    "all": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "none": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
REPETITIONS = {  # what a seed of the demo varies
    "demo_shared": ["model.pretrain_seed=0", "dataset.seed=0"],
    "demo_repetitions": ["model.pretrain_seed=null", "dataset.seed=null"],
}
TITLES = {
    "demo_shared": "One base and one set of demonstrations for all seeds",
    "demo_repetitions": "Each seed with a base and demonstrations of its own",
}
DEMO = ["experiment=demo", "loss=base,sft,dft", "tracker=none", "machine.probabilities=null", "hydra/launcher=local"]
DIFFERENCE = "dft − sft"

Row = dict[str, Estimate]  # by column


def run(results: Path) -> None:
    for name, variables in PROCESSORS.items():
        for sweep, options in REPETITIONS.items():
            words = [*DEMO, *options, f"sweep.name={sweep}", f"machine.results={results / name}"]
            subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, env=os.environ | variables, check=True)


def rows(results: Path, sweep: str) -> dict[str, Row]:
    """The scores of each objective and the paired difference of DFT and SFT, in percent."""
    table = build(SweepConfig(name=sweep), str(results))
    of_name = {row.name: row for row in table.rows}
    scores = {name: {column: row.value(column) for column in table.columns} for name, row in of_name.items()}
    difference = ProblemShares(table).difference(of_name["sft"], of_name["dft"])
    assert difference is not None
    whole: dict[str, dict[str, Estimate | None]] = scores | {DIFFERENCE: dict(difference.columns)}
    return {name: {column: value for column, value in row.items() if value} for name, row in whole.items()}


def agreements(by_processor: dict[str, dict[str, Row]]) -> Iterator[tuple[str, bool]]:
    """For each two processors, row and column: the row, and whether their difference is within its 95% interval."""
    for a, b in combinations(by_processor.values(), 2):
        for name, row in a.items():
            for column, value in row.items():
                other = b[name][column]
                assert value.half is not None and other.half is not None
                yield name, abs(value.mean - other.mean) <= hypot(value.half, other.half)


def page(results: Path) -> str:
    measured = [name for name in PROCESSORS if (results / name).exists()]
    parts = [
        "# The demo on other processors",
        f"`python benchmarks/processors.py results=FOLDER`: the demo with base, SFT and DFT on {processor()}, "
        f"torch {torch.__version__.split('+')[0]}, with all of its vector instructions, with those up to AVX2 or with "
        "none (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`, `MKL_ENABLE_INSTRUCTIONS`). Averages in percent ± "
        "half of their 95% intervals. `agree`: of the figures of two processors in all columns, those whose "
        "difference is at most the root of the sum of the squares of their halves, as 95 of 100 should.",
    ]
    for sweep, title in TITLES.items():
        by_processor = {name: rows(results / name, sweep) for name in measured}
        agree: dict[str, list[bool]] = {}
        for name, is_within in agreements(by_processor):
            agree.setdefault(name, []).append(is_within)
        lines = [f"| row | {' | '.join(measured)} | agree |", "|---|" + "---:|" * (len(measured) + 1)]
        for name, marks in agree.items():
            averages = [f"{by_processor[each][name]['average']}" for each in measured]
            lines.append(f"| {name} | {' | '.join(averages)} | {sum(marks)} of {len(marks)} |")
        total = [mark for marks in agree.values() for mark in marks]
        parts += [f"## {title}", "\n".join(lines), f"Of all figures {sum(total)} of {len(total)} agree."]
    return "\n\n".join(parts)


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    results = Path(options["results"]).resolve()
    if options.get("run") == "true":
        run(results)
    print(page(results))


if __name__ == "__main__":
    main()
