"""What an evaluation leaves behind when all samples are graded: records, the page, the scores and their warnings."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.config.choices import Rules
from losslab.config.log import log
from losslab.config.messages import counted
from losslab.config.schema import Config, Engine
from losslab.data.prompts import render
from losslab.evaluation import benchmarks, engines, scores
from losslab.evaluation.benchmarks import Benchmark
from losslab.evaluation.contamination import Seen
from losslab.evaluation.engine_interface import TOO_LONG
from losslab.evaluation.images import thumbnail
from losslab.evaluation.prompting import Prompt
from losslab.evaluation.sample_page import sample_page
from losslab.evaluation.samples import Samples
from losslab.files.atomic import write
from losslab.files.json_files import read_json, read_lines, write_lines
from losslab.files.record_names import RECORD_VERSION
from losslab.grading.version import grader_version

MOST = 200  # problems of a benchmark, the first ones, whose records have thumbnails: some 7 KB each
CUT_SHARE = 20  # percent of samples cut by length above which a score misleads

Records = dict[str, list[dict[str, Any]]]  # of each benchmark, one for each problem
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is scored, and how."""

    config: Config
    model: str
    tokenizer: Any
    protocol: dict[str, Any]
    chosen: list[Benchmark]
    framed: dict[str, Prompt]  # how each benchmark asks, except tasks of lm_eval
    prompts: dict[tuple[str, int], str]  # of (benchmark, problem)
    # Problems that occur in the training data, of each benchmark without images; None if that is not known.
    seen: dict[str, Seen] | None
    notes: list[str]  # what failed before the first sample without stopping the evaluation
    reads_images: bool = False  # the model is a vision-language model, whose chat template takes lists of parts


@dataclass(frozen=True)
class Generated:
    """What a call added to the samples of a folder."""

    took: dict[str, Any]  # with the number of `samples` where there are new ones of benchmarks other than tasks
    ran: list[Facts]  # `made_with` of each engine that made samples


def made_with(config: Config, engine: Engine, dtype: str | None = None) -> Facts:
    """What a record says of an engine: its name, version, dtype and, of an endpoint, its address."""
    facts = {"engine": str(engine), "engine_version": engines.version(engine)} | ({"dtype": dtype} if dtype else {})
    return facts | ({"endpoint": str(config.machine.api_url)} if engine == Engine.api else {})


def keep(subject: Subject, samples: Samples) -> Records:
    """Write the records of each benchmark, which take the place of what was kept while it was sampled; return them."""
    records = {}
    for benchmark in subject.chosen:
        matches = None if subject.seen is None else subject.seen.get(benchmark.name)
        records[benchmark.name] = [
            {
                "index": p.index,
                "question": p.question,
                "prompt": subject.prompts[benchmark.name, p.index],
                "gold_official": p.gold_official,
                "gold": p.gold,
                "seen": None if matches is None else [kind for kind, indices in matches.items() if p.index in indices],
                **({"groups": p.groups} if p.groups else {}),
                **({"original": p.original} if p.original else {}),
                **({"step": p.step} if p.step else {}),
                **({"thumbnails": [thumbnail(image) for image in p.images]} if p.images and p.index < MOST else {}),
                **({"judged": True} if benchmark.rules == Rules.mathverse else {}),  # by a model, as published
                **({"grader": grader_version()} if benchmark.task is None else {"task": benchmark.task}),
                "samples": samples.of(benchmark.name, p.index),
            }
            for p in benchmark.problems
        ]
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records[benchmark.name])
        write(samples.folder / f"{benchmark.name}.jsonl", "".join(lines))
        waiting = samples.folder / f"{benchmark.name}.samples.jsonl"
        if beyond := samples.beyond(benchmark.name):  # behind a gap that a call for more samples will fill
            write_lines(waiting, beyond)
        else:
            waiting.unlink(missing_ok=True)
    return records


def publish(subject: Subject, samples: Samples, generated: Generated) -> dict[str, Any]:
    """Write the records, the page and the scores, in this order; returns the scores.

    The page, the scores and their warnings are of all benchmarks in the folder, whichever call sampled them.
    """
    cfg, protocol, folder = subject.config.eval, subject.protocol, samples.folder
    earlier = read_json(folder / "scores.json")
    written = keep(subject, samples)
    records, counts = _of_folder(subject, folder, written, earlier)
    rows = {name: scores.summarise(entries, counts[name], str(cfg.verdict)) for name, entries in records.items()}
    others = [name for name in rows if name not in written]
    examples = {name: count for name, count in earlier.get("examples", {}).items() if name in others}
    examples |= {name: len(prompt.examples) for name, prompt in subject.framed.items() if prompt.examples}
    prices = subject.config.machine.api_prices
    sources = {name: benchmarks.source(subject.config.benchmark[name], cfg.data) for name in written}
    kept = earlier.get("notes", {})
    notes = {name: kept[name] for name in others if name in kept} | _notes(subject)
    result = {
        "version": RECORD_VERSION,
        "model": subject.model,
        "verdict": str(cfg.verdict),
        "prompt": subject.config.prompt_name,
        "examples": examples,
        "sources": {name: of for name, of in earlier.get("sources", {}).items() if name in others} | sources,
        "average": scores.average(rows, str(cfg.verdict)),
        "benchmarks": rows,
        "graders": {name: of[0].get("grader") for name, of in records.items() if "task" not in of[0]},
        **_generated(subject, earlier, generated),
        "seeds": protocol["seeds"],
        **({"cost": scores.cost(_samples(records), prices)} if subject.config.served else {}),
        "notes": notes,
        "warnings": warnings(subject, rows, records, notes),
    }
    write(folder / "samples.html", sample_page(subject.model, result, records))
    write(folder / "scores.json", json.dumps(result, indent=1))
    return result


def _of_folder(subject: Subject, folder: Path, written: Records, earlier: Facts) -> tuple[Records, dict[str, int]]:
    """The records of all benchmarks in the folder, and how many samples of each problem their scores are of.

    What this call does not score keeps the number that it was scored with.
    """
    records, counts, tasks = Records(), dict[str, int](), {b.name for b in subject.chosen if b.task is not None}
    for name in subject.protocol["benchmarks"]:
        entries = written.get(name) or read_lines(folder / f"{name}.jsonl")
        stored = min((len(record["samples"]) for record in entries), default=0)
        if not stored:  # an interrupted call named it
            continue
        asked = 1 if name in tasks else subject.config.eval.samples  # lm_eval asks once
        if name not in written:
            asked = earlier.get("benchmarks", {}).get(name, {}).get("samples", stored)
        elif asked < stored:
            log.info(f"{name}: the scores are of the first {asked} of {stored} stored samples of each problem")
        records[name], counts[name] = entries, min(asked, stored)
    return records, counts


def _generated(subject: Subject, earlier: Facts, generated: Generated) -> dict[str, Any]:
    """What made the samples of the folder, each fact as the sorted set of all calls, and what the last ones took."""
    config, before, took = subject.config, earlier.get("generation", {}), generated.took
    asked = {Engine(subject.protocol["engine"]) if b.task is None else Engine.transformers for b in subject.chosen}
    made = {}
    for key in ("engine", "engine_version", *(["endpoint"] if config.served else [])):
        # Earlier calls without a record, such as one that was killed, are assumed to have used the current engine.
        facts = generated.ran if key in earlier else [made_with(config, engine) for engine in asked]
        made[key] = _united(earlier.get(key), *(of_engine.get(key) for of_engine in facts))
    dtype = _united(before.get("dtype"), *(of_engine.get("dtype") for of_engine in generated.ran))
    generation = took if "samples" in took else before or took  # the last call that sampled
    return {**made, "generation": generation | ({"dtype": dtype} if dtype else {})}


def _united(*facts: str | None) -> str:
    return ", ".join(sorted({part for fact in facts if fact for part in fact.split(", ")}))


def _samples(records: Records) -> list[dict[str, Any]]:
    return [sample for entries in records.values() for record in entries for sample in record["samples"]]


def _notes(subject: Subject) -> dict[str, list[str]]:
    """What a reader should know of each benchmark of this call that its records do not show."""
    notes: dict[str, list[str]] = {}
    names = [benchmark.name for benchmark in subject.chosen]
    for benchmark in subject.chosen:
        others = tuple(f"{name}: " for name in names if name != benchmark.name)
        of_benchmark = [text for text in subject.notes if not text.startswith(others)]
        for column in subject.config.benchmark[benchmark.name].breakdown:
            if not any(column in problem.groups for problem in benchmark.problems):
                text = f"{benchmark.name}: no row has the column {column}, so there is no breakdown by it"
                of_benchmark.append(text)
        notes[benchmark.name] = of_benchmark
    return notes


def graded_here(folder: Path, names: Collection[str]) -> bool:
    """Whether the scores of a folder have the verdicts of this version of the grader on all of these benchmarks."""
    graders = read_json(folder / "scores.json").get("graders", {})
    return all(graders.get(name) == grader_version() for name in names)


def warnings(subject: Subject, rows: dict[str, dict[str, Any]], records: Records, notes: Facts) -> list[str]:
    """What would mislead a reader of the scores."""
    cfg = subject.config.eval
    texts = list(dict.fromkeys(text for of_benchmark in notes.values() for text in of_benchmark))
    for name, row in rows.items():
        texts += _of_scores(name, row, cfg.max_new_tokens)
    # Choices are not generated: nothing of them can be cut.
    if untold := [name for name, row in rows.items() if row["cut_by_length"] is None and row["mean_tokens"]]:
        texts.append(f"lm_eval does not say which answers to {', '.join(untold)} are cut by length")
    ours = {name: entries for name, entries in records.items() if "task" not in entries[0]}
    for name, entries in ours.items():
        if (grader := entries[0].get("grader")) != grader_version():
            which = "another" if grader else "an unknown"
            texts.append(f"{name}: graded by {which} version of the grader: score it again for the same one")
        if count := sum(_cut_by_context(sample, cfg.max_new_tokens) for e in entries for sample in e["samples"]):
            verb = "was" if count == 1 else "were"
            texts.append(
                f"{name}: {counted(count, 'sample')} {verb} cut where the context ended, before max_new_tokens="
                f"{cfg.max_new_tokens}"
            )
    if cfg.full_samples:
        numbers = {name: rows[name]["samples"] for name in ours}
        for number in sorted({number for number in numbers.values() if number < cfg.full_samples}):
            names = ", ".join(name for name in numbers if numbers[name] == number)
            place = f"{names}: " if len(set(numbers.values())) > 1 else ""
            texts.append(
                f"{place}{counted(number, 'sample')} of each problem in place of the protocol's {cfg.full_samples}"
            )
    if subject.config.served:
        ends = Counter(sample["finish_reason"] for sample in _samples(records))
        for reason in sorted(set(ends) - {"stop", "length", TOO_LONG}):
            texts.append(f"{counted(ends[reason], 'sample')} ended by {reason}")
    return texts + _of_prompts(subject, ours)


def _cut_by_context(sample: Facts, limit: int) -> bool:
    return bool(sample["finish_reason"] == "length" and sample["tokens"] < limit)


def _of_scores(name: str, row: Facts, limit: int) -> list[str]:
    """What the scores of a benchmark themselves warn of."""
    texts = []
    if (row["cut_by_length"] or 0) > CUT_SHARE:
        texts.append(f"{row['cut_by_length']:.0f}% of the samples are cut by length (max_new_tokens={limit})")
    if count := row["too_long"]:
        problems, verb = counted(count, "problem"), "is" if count == 1 else "are"
        texts.append(f"{problems} {verb} longer than the model's context and {verb} scored 0")
    if count := row["timed_out"]:
        verb = "is" if count == 1 else "are"
        texts.append(f"grading ran out of time or memory on {counted(count, 'sample')}, which {verb} scored 0")
    if row["seen_exact"] or row["seen_words"]:
        rest = "" if row["unseen"] is None else f"; {row['unseen']:.1f} on the others"
        texts.append(
            f"the training data holds the question of {row['seen_exact']} of {counted(row['problems'], 'problem')}, "
            f"and 13 consecutive words of the question of {row['seen_words']}{rest}"
        )
    return [f"{name}: {text}" for text in texts]


def _of_prompts(subject: Subject, records: Records) -> list[str]:
    """A warning where a prompt does not end as the model's own chat template does."""
    tokenizer = subject.tokenizer
    if tokenizer is None or not tokenizer.chat_template:
        return []
    images = 0 if subject.reads_images else None
    whole = render("chat", "PROBLEM", tokenizer, subject.config.model.template_arguments, images=images)
    opening = whole.split("PROBLEM")[-1]
    prompts = (record["prompt"] for entries in records.values() for record in entries)
    if opening and not all(prompt.endswith(opening) for prompt in prompts):
        return ["the prompt does not end as the model's own chat template does"]
    return []
