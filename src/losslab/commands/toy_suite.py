"""Run a small twin of every table and figure of the paper on the embedded task.

losslab toy-suite                              the paper's; continues from what is on record
losslab toy-suite twins=objectives             others, which are named: objectives, distillation, preferences
losslab toy-suite loss=mine                    with one more objective, and how it stands beside SFT and DFT
losslab toy-suite twins=table1,facts seed=0    some of them, with one seed
losslab toy-suite run=false                    tables and figures again, from the existing records

Other arguments are overrides of every sweep. All goes to results/toy_suite: records, logs and tables in its folders,
and beside them what is worth a commit, the tables, figures, claims and hashes of records of the twins that are
complete and were run as their files have them. docs/toy_suite.md says what they are worth.
"""

import hashlib
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from losslab.commands.cli import flag
from losslab.config.messages import did_you_mean
from losslab.files.atomic import write
from losslab.files.csv_files import csv_text
from losslab.planning.memory import at_once
from losslab.records.record import Cell
from losslab.results import compare_to_baselines, table_formats, tables
from losslab.results.tables import Table
from losslab.results.write_tables import layouts, write_tables

TWINS = (
    "table1",
    "table3",
    "table4",
    "table5",
    "table6",
    "table8",
    "table9",
    "facts",
    "figure3_rate",
    "figure3_batch",
    "table7",
    "table2",
)
OURS = ("objectives", "distillation", "preferences")  # of no table of the paper: run where they are named
FIRST = ("table1",)  # it exports models along the way, in cells that others share
SAMPLED = ("table7", "table2", "preferences")  # these need the base model's own answers
METHODS = ("table2", "distillation", "preferences")  # the rows of these fix their objectives
RESULTS = "results/toy_suite"  # apart from other results: a cell that exists already would not export its steps
SEEDS = "0,1,2,3,4"
FEWER_SEEDS = dict.fromkeys(("table4", *OURS), "0,1,2")  # as their files declare
OWN = ("twins", "seed", "run", "machine.results")  # options of this program
LOSSLAB = [sys.executable, "-m", "losslab"]


def main(arguments: list[str]) -> int:
    """Run the twins, and write down what came out. Returns the exit status: 1 where a run failed."""
    if wrong := [argument for argument in arguments if "=" not in argument]:
        raise ValueError(f"{wrong[0]} is not an option: options are written key=value, as in twins=table1")
    options = dict(argument.split("=", 1) for argument in arguments)
    run = flag(options, "run", default=True)
    twins = options.get("twins", ",".join(TWINS)).split(",")
    for name in twins:
        if name not in TWINS + OURS:
            raise ValueError(f"there is no twin {name}{did_you_mean(name, TWINS + OURS)}")
    objective_overrides = [argument for argument in arguments if argument.startswith(("loss=", "loss."))]
    if "loss" in options:
        if set(twins) <= set(METHODS):
            raise ValueError(f"the rows of {', '.join(twins)} name their objectives: leave loss= out")
        twins = [name for name in twins if name not in METHODS]
    results = Path(options.get("machine.results", RESULTS))
    given = [
        argument for argument in arguments if argument not in objective_overrides and argument.split("=")[0] not in OWN
    ]
    overrides = [*given, f"machine.results={results}"]
    seeds = {name: options.get("seed", FEWER_SEEDS.get(name, SEEDS)).split(",") for name in twins}
    if given or objective_overrides:
        check(twins[0], [f"seed={seeds[twins[0]][0]}", *overrides, *objective_overrides])
    done = not run or run_twins(seeds, overrides, objective_overrides, results / "logs")
    sweeps = [f"toy_suite/{name}" for name in twins]
    write_tables(sweeps, str(results))
    studies = [tables.build(layout, str(results)) for layout in layouts(sweeps, str(results))]
    for objective in options["loss"].split(",") if "loss" in options else []:
        sheet = compare_to_baselines.sheet(objective, studies)
        Console().print(table_formats.terminal(sheet))
        write(results / f"{objective}.md", table_formats.markdown(sheet))
        print(f"{objective}: {results}/{objective}.md")
    changed = objective_overrides or [argument for argument in given if not argument.startswith("tracker")]
    whole = [] if changed else [name for name, study in zip(twins, studies, strict=True) if complete(study)]
    for name in whole:
        collect(name, studies[twins.index(name)], results)
    if left := [name for name in twins if name not in whole]:
        why = (
            "they were run with options of yours"
            if changed
            else "cells are missing, or are of other objectives or of earlier code"
        )
        print(f"not copied to {results}, since {why}: {', '.join(left)}")
    print(f"tables, figures, claims: {results}/tables/toy_suite")
    return int(not done)


def run_twins(seeds: dict[str, list[str]], overrides: list[str], objective_overrides: list[str], logs: Path) -> bool:
    """Run what is not on record of the twins that `seeds` has seeds of; returns whether all is done.

    `objective_overrides` add the rows of an objective to every twin.
    """
    logs.mkdir(parents=True, exist_ok=True)

    def sample() -> bool:
        machine_overrides = [argument for argument in overrides if argument.startswith(("machine.", "tracker"))]
        return call(logs / "samples.txt", "sample", "experiment=toy_suite/samples", *machine_overrides)

    def run(name: str, seed: str) -> bool:
        command = ["train", f"experiment=toy_suite/{name}", f"seed={seed}", *overrides]
        done = call(logs / f"{name}-s{seed}.txt", *command)
        return (
            call(logs / f"{name}-s{seed}-own.txt", *command, *objective_overrides) & done
            if objective_overrides
            else done
        )

    done = True
    with ThreadPoolExecutor(at_once(threads=1)) as pool:
        try:
            runs = [pool.submit(sample)] if set(seeds) & set(SAMPLED) else []
            runs += [pool.submit(run, name, seed) for name in seeds if name in FIRST for seed in seeds[name]]
            done &= all([each.result() for each in runs])
            runs = [pool.submit(run, name, seed) for name in seeds if name not in FIRST for seed in seeds[name]]
            done &= all([each.result() for each in runs])
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return done


def check(twin: str, overrides: list[str]) -> None:
    """Plan a twin with what the user gave. ValueError for an unknown option or value."""
    command = [*LOSSLAB, "plan", f"experiment=toy_suite/{twin}", *overrides]
    planned = subprocess.run(command, capture_output=True, text=True, check=False)
    if planned.returncode:
        raise ValueError(planned.stderr.strip().removeprefix("error: "))


def complete(study: Table) -> bool:
    """Whether every cell that a twin's file declares has its scores, and the table only the file's objectives."""
    declared = {config.names.loss for config in study.grid}
    return all(
        row.names["loss"] in declared and not row.earlier and all(entry.scores for entry in row.entries if row.declared)
        for row in study.rows
    )


def call(log: Path, verb: str, *arguments: str) -> bool:
    """Run a verb of losslab, its output in a file; returns whether it did all there was to do."""
    began = time.monotonic()
    print(f"started: {log.stem}", flush=True)
    with log.open("w") as output:
        done = subprocess.run([*LOSSLAB, verb, *arguments], stdout=output, stderr=output, check=False)
    outcome = "failed, see" if done.returncode else "done:"
    print(f"{outcome} {log.stem if not done.returncode else log} ({time.monotonic() - began:.0f} s)", flush=True)
    return not done.returncode


def collect(name: str, study: Table, results: Path) -> None:
    """Copy what was published of a twin to the results' folder, with a list of the records behind it."""
    for stale in (*results.glob(f"{name}.*"), *results.glob(f"{name}_*.*")):
        stale.unlink()
    for file in sorted((results / "tables" / "toy_suite" / name).iterdir()):
        if file.suffix in (".md", ".csv", ".svg"):
            shutil.copyfile(file, results / (name + file.suffix if file.stem == "table" else f"{name}_{file.name}"))
    write(results / f"{name}_records.csv", digest(study))


def digest(study: Table) -> str:
    """CSV with the identity of each cell and a SHA-256 of what the study shows of it: its samples with their verdicts.

    Other studies may have scored the cell on benchmarks, by protocols or along the way of training as this one did not.
    """
    steps = any(config.machine.export_steps for config in study.grid)
    rows = []
    for entry in sorted((entry for row in study.rows for entry in row.entries), key=lambda entry: entry.folder):
        samples, folder = hashlib.sha256(), entry.scores_folder
        files = [file for name in study.benchmarks for file in folder.glob(f"{name}.jsonl")]
        if steps:
            files += [file for name in study.benchmarks for file in sorted(folder.glob(f"steps/*/{name}.jsonl"))]
        for file in files:
            samples.update(file.read_bytes())
        identity = Cell.at(entry.folder).identity
        rows.append([entry.folder.name, identity, samples.hexdigest() if files else ""])
    return csv_text(["cell", "identity", "samples"], rows)
