"""How often our verdicts on code are the published ones, and how fast the sandbox is.

python benchmarks/code_verdicts.py speed                             results/benchmarks/sandbox.md
python benchmarks/code_verdicts.py agreement VERDICTS BENCHMARKS     results/benchmarks/code.md

VERDICTS is a .jsonl.gz of {benchmark, task_id, passed}: of HumanEval with `program` and `passed_plus`, of MultiPL-E
with `response`. BENCHMARKS is a folder of <benchmark>.jsonl or .jsonl.gz. Verdicts are kept in results/cache/code as
they are made, by what decides them; the same command continues from there. Ctrl-C writes the table of what is done.
WORKERS=1 runs one program at a time.
"""

import ctypes
import gzip
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from losslab.files.json_files import append_line, read_lines
from losslab.files.python_source import syntax
from losslab.programs import assembly
from losslab.programs.languages import LANGUAGES, RUN_SECONDS, Toolchains, missing
from losslab.records.environment import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results/benchmarks"
CACHE = ROOT / "results/cache/code"
RULES = syntax((ROOT / "src/losslab/programs/assembly.py").read_text(encoding="utf-8"))
SLOWER = "the published run reached its limit of time; here it ends within ours"
WHY = {  # of known differences
    ("multipl_e_php", "HumanEval_16_count_distinct_characters"): "from PHP 8.2 on, str_split makes nothing of no text",
    ("multipl_e_cs", "HumanEval_70_strange_sort_list"): SLOWER,
    ("multipl_e_cs", "HumanEval_100_make_a_pile"): SLOWER,
}
PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
Row = dict[str, Any]
FIRST = ("python", "js", "php", "sh", "cs", "java", "cpp", "ts")  # by what a program costs: the order of running
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


def key(row: Row) -> str:
    """A hash of what decides a verdict: the answer, the problem, how programs are put together and how they run."""
    about = [row["response"], row["gold"], RULES, str(LANGUAGES[assembly.language(row["gold"])]), RUN_SECONDS]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def graded(all_rows: list[Row]) -> list[Row]:
    """The rows that have our verdicts; those of languages without a compiler do not."""
    CACHE.mkdir(parents=True, exist_ok=True)
    kept = CACHE / "verdicts.jsonl"
    verdicts = {line.pop("key"): line for line in read_lines(kept)}
    todo = [row for row in all_rows if not missing(assembly.language(row["gold"]))]
    toolchains = Toolchains()

    def grade(row: Row) -> None:
        if (name := key(row)) not in verdicts:
            verdicts[name] = asdict(assembly.verdict(toolchains, row["response"], row["gold"]))
            append_line(kept, {"key": name} | verdicts[name])

    threads = ThreadPoolExecutor(int(os.environ.get("WORKERS", os.cpu_count() or 1)))
    try:
        list(threads.map(grade, sorted(todo, key=lambda row: FIRST.index(assembly.language(row["gold"])))))
    except KeyboardInterrupt:
        threads.shutdown(cancel_futures=True)
    return [row | verdicts[name] for row in todo if (name := key(row)) in verdicts]


def agreement(verdicts: Path, folder: Path) -> None:
    everything = list(rows(verdicts, folder))
    done = graded(everything)
    lines = [
        "# Code: our verdicts beside the published ones",
        "",
        "Answers of Qwen2.5-Coder-1.5B, with the verdicts of its published evaluation. `corrected` also asks that the",
        "program ends well. Made by `python benchmarks/code_verdicts.py agreement VERDICTS BENCHMARKS`.",
        "",
        "| benchmark | answers | run | agree | published right, of these | official | corrected | timed out |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["benchmark"] for row in done):
        part = [row for row in done if row["benchmark"] == name]
        agree = sum(row["official"] == row["published"] for row in part)
        counts = [sum(row[key] for row in part) for key in ("published", "official", "corrected", "timed_out")]
        answers = sum(row["benchmark"] == name for row in everything)
        shown = [name, answers, len(part), f"{100 * agree / len(part):.1f}%", *counts]
        lines.append(f"| {' | '.join(map(str, shown))} |")
    lines += ["", "## Where they differ", "", "| benchmark | task | published | ours | why |", "|---|---|---|---|---|"]
    for row in done:
        if row["official"] != row["published"]:
            ours = "right" if row["official"] else f"wrong: {_short(row['report'])}"
            theirs = "right" if row["published"] else f"wrong: {_short(row['result'])}"
            why = WHY.get((row["benchmark"], row["task"]), "")
            lines.append(f"| {row['benchmark']} | {row['task']} | {theirs} | {ours} | {why} |")
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
    toolchains, seeing = Toolchains(), Toolchains()
    seeing.sandbox.folders = tuple(pair for pair in seeing.sandbox.folders if pair[1] is not None)
    lines = [
        "# The sandbox: programs a second",
        "",
        f"Programs that do nothing, on {os.cpu_count()} cores ({processor()}), as many at once as cores.",
        "By the clock they share the cores with other work; by processor time (of a program and its sandbox, all",
        "processes) they do not. Made by `python benchmarks/code_verdicts.py speed`, with a load of "
        f"{os.getloadavg()[0]:.1f} at its start.",
        "",
        "| language | programs | a second, by the clock | processor time of one, ms | a second of one core |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, program in EMPTY.items():
        if missing(name):
            continue
        count = 100 if not LANGUAGES[name].compile else 6
        kinds = {LANGUAGES[name].title: toolchains}
        if name == "python":
            kinds["Python that reads this machine's packages at its start"] = seeing
        for title, made in kinds.items():
            elapsed, used = _timed(made, name, program, count)
            ms = 1000 * used / count
            lines.append(f"| {title} | {count} | {count / elapsed:.1f} | {ms:.0f} | {count / used:.1f} |")
    (RESULTS / "sandbox.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _timed(toolchains: Toolchains, language: str, program: str, count: int) -> tuple[float, float]:
    """Seconds by the clock, and of the processes' processor time, of running a program so many times."""
    # Bubblewrap leaves what it starts behind: that becomes a child of this process, and counts when it is waited for.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        ends = list(threads.map(lambda _: toolchains.run(language, program).status, range(count)))
    assert set(ends) == {0}, (language, ends)
    elapsed = time.perf_counter() - begin
    with suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _short(text: str) -> str:
    without_folders = re.sub(r"(?<!\w)/(\S+/)+", "", text)
    return " ".join(without_folders.split()).replace("|", "\\|")[:120]


if __name__ == "__main__":
    if sys.argv[1:2] == ["speed"]:
        speed()
    elif sys.argv[1:2] == ["agreement"] and len(sys.argv) == 4:
        agreement(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(__doc__)
