"""Benchmark problems in training data: what is found in real sets, and what 100,000 rows cost.

    python benchmarks/overlap.py DATA > results/benchmarks/overlap.md

DATA holds benchmarks/*.jsonl and train/{math_4500,gsm8k_7473}.jsonl. The 100,000 rows are those of math_4500 again and
again; they stream past the questions.
"""

import json
import os
import platform
import resource
import sys
import time
from itertools import cycle, islice
from pathlib import Path

from losslab.evaluation.contamination import search

ROWS = 100_000


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def main(folder: Path) -> None:
    files = sorted((folder / "benchmarks").glob("*.jsonl"))
    questions = {path.stem: [row.get("problem", row.get("question", "")) for row in read(path)] for path in files}
    math = [(row["problem"], row["solution"]) for row in read(folder / "train/math_4500.jsonl")]
    gsm8k = [(row["question"], row["answer"]) for row in read(folder / "train/gsm8k_7473.jsonl")]
    planted = [(text.upper(), "") for text in questions["math500"][:10]]
    print("# Benchmark problems in training data\n")
    print(f"`python benchmarks/overlap.py DATA`; Python {platform.python_version()}, {os.cpu_count()} cores shared "
          "with other work, one used.\n")  # fmt: skip
    print("Problems of each benchmark whose question is that of a row / that share 13 words in a row with one.\n")
    print("| rows | " + " | ".join(questions) + " |\n|---" + "|---:" * len(questions) + "|")
    for name, rows in {
        "MATH without MATH500 (4,500)": math,
        "the same with 10 of MATH500 planted": math + planted,
        "GSM8K train (7,473)": gsm8k,
    }.items():
        found = search(rows, questions).values()
        print(f"| {name} | " + " | ".join(f"{len(own['exact'])} / {len(own['words'])}" for own in found) + " |")
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    search(islice(cycle(math), ROWS), questions)
    seconds = time.process_time() - begin
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\n{ROWS:,} rows of MATH against the {sum(map(len, questions.values())):,} problems of all seven: "
          f"{seconds:.1f} processor seconds, {max(more, 0):.0f} MB more than for 4,500.")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python benchmarks/overlap.py DATA")
    main(Path(sys.argv[1]))
