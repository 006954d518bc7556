"""How right and how fast the grading is: agreement with stored verdicts, errors against known truth, throughput.

    python benchmarks/grading.py DATA > results/benchmarks/grading.md

The folder holds grader/pairs_open.jsonl, grader/truth_open.jsonl, grader/reference_golds.jsonl and benchmarks/*.jsonl.
Math-Verify alone takes minutes on the rows of known truth. Throughput is measured
with one worker process, both verdicts, extraction included, the start of the worker not; equal answers are graded once.
Where other programs share the processors, the rate per processor second is the one to look at.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from losslab.grading import corrected_text, official_text
from losslab.grading.graders import Grader, Verdict

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def grade(rows: list[Row]) -> tuple[list[Verdict], float, float]:
    """The verdicts, the seconds that they took, and the processor seconds of both processes with the worker's start."""
    before = sum(os.times()[:4])
    with Grader(workers=1) as grader:
        grader.submit("warm_up", "\\boxed{x+1}", "1+x").result()
        start = time.perf_counter()
        futures = [grader.submit(row["benchmark"], row["prediction"], row["gold"], row.get("gold_raw")) for row in rows]
        verdicts = [future.result() for future in futures]
        seconds = time.perf_counter() - start
    return verdicts, seconds, sum(os.times()[:4]) - before


def golds(folder: Path) -> list[Row]:
    """All rows of the five benchmarks with their reference gold, the official one and the corrected one."""
    files = {name: read(folder / f"benchmarks/{name}.jsonl") for name in ("math500", "minerva_math", "olympiadbench")}
    files |= {name: read(folder / f"benchmarks/{name}.jsonl") for name in ("aime24", "amc23")}
    rows = []
    for row in read(folder / "grader/reference_golds.jsonl"):
        name = "math500" if row["benchmark"] == "math_oai" else row["benchmark"]
        source = files[name][row["idx"]]
        mine, true = official_text.gold(name, source), corrected_text.gold(name, source)
        rows.append({"benchmark": name, "reference": row["gold_at_scoring"], "gold": mine, "gold_raw": true})
    return rows


def ordinary(rows: list[Row]) -> list[Row]:
    """Three answers to each problem, few of them twice: the gold as it is, written otherwise, and that of the next."""
    answers = []
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        rewritten = re.sub(r"\\frac\{(\w+)\}\{(\w+)\}", r"\\dfrac{\1}{\2}", row["gold_raw"]).replace("+", " + ")
        for answer in (row["gold_raw"], rewritten + " \\, ", other["gold_raw"]):
            answers.append({**row, "prediction": f"Step by step.\n\nThe final answer is $\\boxed{{{answer}}}$."})
    return answers


def by_math_verify(row: Row) -> bool:
    """What Math-Verify says of a response, with its own extraction; wrong where it raises."""
    from math_verify import parse, verify

    try:
        return bool(verify(parse(f"\\boxed{{{row['gold']}}}"), parse(row["prediction"])))
    except Exception:  # it fails in as many ways as there are bad formulas
        return False


def errors_on_truth(rows: list[Row]) -> None:
    """Prints how many wrong answers each grader accepts, and how many right ones it rejects, by the kind of row."""
    logging.disable(logging.CRITICAL)
    verdicts, _, _ = grade(rows)
    graders = {
        "corrected": [verdict.corrected for verdict in verdicts],
        "official": [verdict.official for verdict in verdicts],
        "Math-Verify alone": [by_math_verify(row) for row in rows],
    }
    wrong = sum(not row["truth"] for row in rows)
    right = len(rows) - wrong
    print("\n## Against the truth\n")
    print(f"{len(rows)} answers of known truth, hard by design: {wrong} wrong, {right} right. They were at hand when")
    print("the corrected verdict was written, so its row is in-sample: expect more errors on other kinds of answers.\n")
    print("| grader | wrong ones accepted | | right ones rejected | |\n|---|---:|---:|---:|---:|")
    for name, accepted in graders.items():
        pairs = list(zip(accepted, rows, strict=True))
        accepts = sum(accept and not row["truth"] for accept, row in pairs)
        rejects = sum(row["truth"] and not accept for accept, row in pairs)
        print(f"| {name} | {accepts} | {accepts / wrong:.1%} | {rejects} | {rejects / right:.1%} |")


def main(folder: Path) -> None:
    print("# Grading\n")
    versions = ", ".join(f"{name} {version(name)}" for name in ("sympy", "math-verify", "latex2sympy2_extended"))
    print(f"`python benchmarks/grading.py DATA`; {versions}, Python {platform.python_version()}, "
          f"{os.cpu_count()} cores shared with other work, one worker.")  # fmt: skip
    pairs, reference = read(folder / "grader/pairs_open.jsonl"), golds(folder)
    verdicts, _, _ = grade(pairs)
    print("\n## The official verdict against the official evaluation\n")
    print("Stored outputs of unmodified runs on answers that are hard by design, and its golds of five benchmarks.\n")
    print("| | equal | of |\n|---|---:|---:|")
    agreed = sum(v.official == row["reference_score"] for v, row in zip(verdicts, pairs, strict=True))
    alike = sum(v.extracted == (row["reference_extracted"] or "") for v, row in zip(verdicts, pairs, strict=True))
    print(f"| verdicts | {agreed} | {len(pairs)} |\n| extracted answers | {alike} | {len(pairs)} |")
    print(f"| golds | {sum(r['gold'] == r['reference'] for r in reference)} | {len(reference)} |")

    truth = [{**row, "prediction": row["response"]} for row in read(folder / "grader/truth_open.jsonl")]
    errors_on_truth(truth)

    print("\n## Speed, both verdicts on each response\n")
    columns = ("mix", "responses", "distinct", "timed out", "seconds", "responses/s", "responses/processor second")
    print("| " + " | ".join(columns) + " |\n|---" + "|---:" * (len(columns) - 1) + "|")
    to_start = grade([])[2]
    real = [row for row in pairs if row["kind"] == "generation"]
    for name, rows in {
        "open pairs, hard by design": pairs,
        "open pairs without the adversarial": [row for row in pairs if not row["kind"].startswith("adversarial")],
        "real responses among them": real,
        "three answers to each problem": ordinary(reference),
    }.items():
        verdicts, seconds, processor = grade(rows)
        distinct = len({(row["benchmark"], v.extracted, row["gold"]) for v, row in zip(verdicts, rows, strict=True)})
        late = sum(v.timed_out for v in verdicts)
        rates = f"{len(rows) / seconds:.0f} | {len(rows) / (processor - to_start):.0f}"
        print(f"| {name} | {len(rows)} | {distinct} | {late} | {seconds:.2f} | {rates} |")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python benchmarks/grading.py DATA")
    main(Path(sys.argv[1]))
