"""How often our verdicts on code are the published ones, and how fast the sandbox is.

python benchmarks/code_verdicts.py speed                             results/benchmarks/sandbox.md
python benchmarks/code_verdicts.py agreement VERDICTS BENCHMARKS     results/benchmarks/code.md

VERDICTS is a .jsonl.gz of {benchmark, task_id, passed}: of HumanEval with `program` and `passed_plus`, of MultiPL-E
with `response`. BENCHMARKS is a folder of <benchmark>.jsonl or .jsonl.gz. Verdicts are kept in results/cache/code as
they are made; the same command goes on from there.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from losslab.files import read_lines
from losslab.programs import assembly
from losslab.programs.languages import LANGUAGES, Toolchains, missing
from losslab.records.environment import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results/benchmarks"
CACHE = ROOT / "results/cache/code"
Row = dict[str, Any]
EMPTY = {
    "python": "print(1)",
    "js": "process.exit(0)",
    "ts": "let x: number = 1;",
    "php": "<?php ?>",
    "sh": "true",
    "cpp": "int main() { return 0; }",
    "cs": "class Problem { public static void Main(string[] args) {} }",
    "java": "class Problem { public static void main(String[] args) {} }",
}


def stops() -> dict[str, list[str]]:
    """Of each benchmark of conf/."""
    found: dict[str, list[str]] = {}
    for name in ("humaneval", "humaneval_plus", "multipl_e"):
        text = (ROOT / f"conf/benchmark/{name}.yaml").read_text(encoding="utf-8")
        found |= {key: about["stop"] for key, about in yaml.safe_load(text).items()}
    return found


def problems(folder: Path, name: str) -> dict[str, Row]:
    path = folder / f"{name}.jsonl"
    with path.open() if path.exists() else gzip.open(f"{path}.gz", "rt") as lines:
        return {row["task_id"]: row for row in map(json.loads, lines)}


def rows(verdicts: Path, folder: Path) -> Iterator[Row]:
    """Each answer with its problem, and the published verdict."""
    wanted = stops()
    sets = {name: problems(folder, name) for name in wanted if (folder / f"{name}.jsonl").exists()}
    sets["humaneval_plus"] = problems(folder, "humaneval_plus")
    with gzip.open(verdicts, "rt") as lines:
        for row in map(json.loads, lines):
            names = ["humaneval", "humaneval_plus"] if row["benchmark"] == "humaneval" else [row["benchmark"]]
            for name in names:
                problem, response = sets[name][row["task_id"]], row.get("response")
                if response is None:  # HumanEval's rows have whole programs, in EvalPlus's wording of the prompt
                    prompt = sets["humaneval_plus"][row["task_id"]]["prompt"]
                    problem, response = (
                        problem | {"prompt": prompt},
                        row["program"].removeprefix(f"{prompt.rstrip()}\n"),
                    )
                yield {
                    "benchmark": name,
                    "task": row["task_id"],
                    "gold": assembly.problem(problem, wanted[name] if "response" in row else []),
                    "response": response,
                    "published": row["passed_plus" if name == "humaneval_plus" else "passed"],
                    "result": row.get("result", ""),
                }


def graded(all_rows: list[Row]) -> list[Row]:
    """The rows with our verdicts; those of languages without a compiler are left out."""
    CACHE.mkdir(parents=True, exist_ok=True)
    code = "".join(file.read_text() for file in sorted((ROOT / "src/losslab/programs").glob("*.py")))
    kept = CACHE / f"{hashlib.sha256(code.encode()).hexdigest()[:16]}.jsonl"
    known = {(line["benchmark"], line["task"]): line for line in read_lines(kept)}
    todo = [row for row in all_rows if not missing(assembly.language(row["gold"]))]
    toolchains = Toolchains()
    with kept.open("a") as file, ThreadPoolExecutor(os.cpu_count()) as threads:

        def grade(row: Row) -> Row:
            key = {name: row[name] for name in ("benchmark", "task")}
            if tuple(key.values()) not in known:
                verdict = asdict(assembly.verdict(toolchains, row["response"], row["gold"]))
                file.write(json.dumps(key | verdict) + "\n")
                file.flush()
                known[row["benchmark"], row["task"]] = key | verdict
            return row | known[row["benchmark"], row["task"]]

        return list(threads.map(grade, todo))


def agreement(verdicts: Path, folder: Path) -> None:
    done = graded(list(rows(verdicts, folder)))
    lines = [
        "# Code: our verdicts beside the published ones",
        "",
        "Answers of Qwen2.5-Coder-1.5B, with the verdicts of its published evaluation. `corrected` also asks that the",
        "program ends well. Made by `python benchmarks/code_verdicts.py agreement VERDICTS BENCHMARKS`.",
        "",
        "| benchmark | answers | agree | published right | official | corrected | timed out |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["benchmark"] for row in done):
        part = [row for row in done if row["benchmark"] == name]
        agree = sum(row["official"] == row["published"] for row in part)
        counts = [sum(row[key] for row in part) for key in ("published", "official", "corrected", "timed_out")]
        lines.append(
            f"| {name} | {len(part)} | {100 * agree / len(part):.1f}% | {' | '.join(str(count) for count in counts)} |"
        )
    lines += ["", "## Where they differ", "", "| benchmark | task | published | ours |", "|---|---|---|---|"]
    for row in done:
        if row["official"] != row["published"]:
            ours = "right" if row["official"] else f"wrong: {_short(row['report'])}"
            theirs = "right" if row["published"] else f"wrong: {_short(row['result'])}"
            lines.append(f"| {row['benchmark']} | {row['task']} | {theirs} | {ours} |")
    lacking = [LANGUAGES[name].title for name in LANGUAGES if missing(name)]
    lines += ["", *([f"Not run, for want of a compiler: {', '.join(lacking)}.", ""] if lacking else [])]
    lines += [f"{title}: {text}  " for title, text in versions().items()]
    (RESULTS / "code.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    asked = {"g++": "--version", "node": "--version", "tsc": "--version", "php": "--version", "mono": "--version"}
    asked |= {"javac": "-version", "bash": "--version", "bwrap": "--version"}
    found = {"python3": sys.version.split()[0]}
    for program, option in asked.items():
        try:
            told = subprocess.run([program, option], capture_output=True, text=True)
        except OSError:
            continue
        found[program] = (told.stdout or told.stderr).strip().split("\n")[0]
    return found


def speed() -> None:
    toolchains = Toolchains()
    lines = [
        "# The sandbox: programs a second",
        "",
        f"Programs that do nothing, on {os.cpu_count()} cores ({processor()}), as many at once as cores, by the",
        "clock, isolation included. Made by `python benchmarks/code_verdicts.py speed`, with a",
        f"load of {os.getloadavg()[0]:.1f} by other work at its start.",
        "",
        "| language | programs | a second | a second on each core |",
        "|---|---:|---:|---:|",
    ]
    for name, program in EMPTY.items():
        if missing(name):
            continue
        count = 100 if not LANGUAGES[name].compile else 6
        begin = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            ends = list(threads.map(lambda _, n=name, p=program: toolchains.run(n, p).status, range(count)))
        assert set(ends) == {0}, (name, ends)
        rate = count / (time.perf_counter() - begin)
        lines.append(f"| {LANGUAGES[name].title} | {count} | {rate:.1f} | {rate / (os.cpu_count() or 1):.1f} |")
    (RESULTS / "sandbox.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _short(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:120]


if __name__ == "__main__":
    if sys.argv[1:2] == ["speed"]:
        speed()
    elif sys.argv[1:2] == ["agreement"] and len(sys.argv) == 4:
        agreement(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(__doc__)
