"""What an evaluation leaves behind when all samples are graded: records, the page, the scores and their warnings."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.config.choices import Rules
from losslab.config.schema import Config, Engine, EvalConfig
from losslab.data.prompts import render
from losslab.evaluation import engines, scores
from losslab.evaluation.benchmarks import Benchmark
from losslab.evaluation.contamination import Seen
from losslab.evaluation.engine_interface import TOO_LONG
from losslab.evaluation.images import thumbnail
from losslab.evaluation.prompting import Prompt
from losslab.evaluation.sample_page import sample_page
from losslab.evaluation.samples import Samples
from losslab.files import RECORD_VERSION, read_json, read_lines, write

MOST = 200  # problems of a benchmark, the first ones, whose records have thumbnails: some 7 KB each
CUT_SHARE = 20  # percent of samples cut by length above which a score misleads


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


def keep(subject: Subject, samples: Samples) -> dict[str, list[dict[str, Any]]]:
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
                **({"step": p.step} if p.step else {}),
                **({"thumbnails": [thumbnail(image) for image in p.images]} if p.images and p.index < MOST else {}),
                **({"judged": True} if benchmark.rules == Rules.mathverse else {}),  # by a model, as published
                **({"task": benchmark.task} if benchmark.task is not None else {}),
                "samples": samples.of(benchmark.name, p.index),
            }
            for p in benchmark.problems
        ]
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records[benchmark.name])
        write(samples.folder / f"{benchmark.name}.jsonl", "".join(lines))
        (samples.folder / f"{benchmark.name}.samples.jsonl").unlink(missing_ok=True)
    return records


def publish(subject: Subject, samples: Samples, generation: dict[str, Any]) -> dict[str, Any]:
    """Write the records, the page and the scores, in this order; returns the scores."""
    cfg, protocol, folder = subject.config.eval, subject.protocol, samples.folder
    records = keep(subject, samples)
    counts = {b.name: 1 if b.task is not None else cfg.samples for b in subject.chosen}
    rows = {name: scores.summarise(entries, counts[name], str(cfg.verdict)) for name, entries in records.items()}
    engine = Engine(protocol["engine"])
    everything = _others(folder, rows, cfg) | rows
    earlier, version = read_json(folder / "scores.json"), engines.version(engine)
    if "samples" not in generation:  # none was missing: what is known of an earlier call stays
        generation, version = earlier.get("generation", generation), earlier.get("engine_version", version)
    elif (before := earlier.get("engine_version", version)) != version:  # which made the other samples
        version = f"{before}, {version}"
    result = {
        "version": RECORD_VERSION,
        "model": subject.model,
        "verdict": str(cfg.verdict),
        "prompt": subject.config.prompt_name,
        "examples": {name: len(prompt.examples) for name, prompt in subject.framed.items() if prompt.examples},
        "average": scores.average(everything),
        "benchmarks": everything,
        "engine": str(engine),
        "engine_version": version,
        "seeds": protocol["seeds"],
        "generation": generation,
        **_of_endpoint(subject.config, records),
        "warnings": [*subject.notes, *warnings(subject, rows, records)],
    }
    write(folder / "samples.html", sample_page(subject.model, result, records))
    write(folder / "scores.json", json.dumps(result, indent=1))
    return result


def _of_endpoint(config: Config, records: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    machine = config.machine
    return {"endpoint": machine.api_url, "cost": cost(records, machine.api_prices)} if config.served else {}


def _others(folder: Path, rows: dict[str, dict[str, Any]], cfg: EvalConfig) -> dict[str, dict[str, Any]]:
    """The scores of benchmarks that earlier calls left in the folder with as many samples."""
    earlier = {}
    for path in sorted(folder.glob("*.jsonl")):
        records = [] if path.stem in rows or path.name.endswith(".samples.jsonl") else list(read_lines(path))
        count = 1 if records and "task" in records[0] else cfg.samples  # lm_eval asks once
        if records and min(len(record["samples"]) for record in records) >= count:
            earlier[path.stem] = scores.summarise(records, count, str(cfg.verdict))
    return earlier


def cost(records: dict[str, list[dict[str, Any]]], prices: list[float]) -> dict[str, Any]:
    """What the samples of an endpoint took, each once, whichever call asked for them; in dollars by two prices."""
    samples = [sample for rows in records.values() for record in rows for sample in record["samples"]]
    read, written = (sum(sample.get(name, 0) for sample in samples) for name in ("prompt_tokens", "tokens"))
    dollars = {"prices": prices, "dollars": (prices[0] * read + prices[1] * written) / 1e6} if prices else {}
    return {"prompt_tokens": read, "tokens": written, **dollars}


def warnings(subject: Subject, rows: dict[str, dict[str, Any]], records: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What would mislead a reader of the scores."""
    cfg, tokenizer, texts = subject.config.eval, subject.tokenizer, []
    for benchmark in subject.chosen:
        for column in subject.config.benchmark[benchmark.name].breakdown:
            if not any(column in problem.groups for problem in benchmark.problems):
                texts.append(f"{benchmark.name}: no row has the column {column}, so there is no breakdown by it")
    for name, row in rows.items():
        if row["cut_by_length"] > CUT_SHARE:
            share, limit = row["cut_by_length"], cfg.max_new_tokens
            texts.append(f"{name}: {share:.0f}% of the samples are cut by length (max_new_tokens={limit})")
        if row["too_long"]:
            texts.append(f"{name}: {row['too_long']} problems are longer than the model's context and are scored 0")
        if row["timed_out"]:
            texts.append(f"{name}: grading ran out of time or memory on {row['timed_out']} samples, which are scored 0")
        if row["seen_exact"] or row["seen_words"]:
            rest = "" if row["unseen"] is None else f"; {row['unseen']:.1f} on the others"
            texts.append(
                f"{name}: the training data holds the question of {row['seen_exact']} of {row['problems']} problems, "
                f"and 13 words in a row of {row['seen_words']}{rest}"
            )
    if cfg.full_samples and cfg.samples < cfg.full_samples:
        texts.append(f"{cfg.samples} samples of each problem in place of the protocol's {cfg.full_samples}")
    ends = (
        {}
        if not subject.config.served
        else Counter(s["finish_reason"] for row in records.values() for record in row for s in record["samples"])
    )
    for reason in set(ends) - {"stop", "length", TOO_LONG}:
        texts.append(f"{ends[reason]} samples ended by {reason}")
    if tokenizer is not None and tokenizer.chat_template:
        images = 0 if subject.reads_images else None
        whole = render("chat", "PROBLEM", tokenizer, subject.config.model.template_arguments, images=images)
        opening = whole.split("PROBLEM")[-1]
        names = {benchmark.name for benchmark in subject.chosen if benchmark.task is None}
        if opening and not all(prompt.endswith(opening) for key, prompt in subject.prompts.items() if key[0] in names):
            texts.append("the prompt does not end as the model's own chat template does")
    return texts
