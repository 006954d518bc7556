"""Scores a model on benchmarks: prompts, samples, verdicts, records.

What `folder` holds afterwards:
    protocol.yaml               what every sample in the folder was made with
    <benchmark>.jsonl           one record for each problem, with its samples and their verdicts
    scores.json                 the scores; written last
    samples.html                the records for reading
    engine.log                  what the engine printed
While samples are generated they are in <benchmark>.samples.jsonl, one line each, from the moment they finish. The same
call goes on from what is there.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losslab.evaluation import benchmarks, engines, pages, scores
from losslab.evaluation import protocol as protocols
from losslab.evaluation.benchmarks import Benchmark
from losslab.evaluation.engines import Generation
from losslab.evaluation.grading import Grader
from losslab.evaluation.jobs import Completion, Job, Request, Sampling, context_length, request_seed
from losslab.evaluation.samples import Samples
from losslab.files import read_lines, write
from losslab.progress import bar
from losslab.prompts import encode, render
from losslab.schema import Config, Engine, EvalConfig

CUT_SHARE = 20  # percent of samples cut by length above which a score misleads
TOO_LONG = "too_long"  # the finish reason of a problem that does not fit the context

Prompts = dict[tuple[str, int], str]  # of (benchmark, problem)


def evaluate(config: Config, model: str, folder: Path) -> dict[str, Any]:
    """Score a model, a hub id or a folder with its tokenizer, and return what scores.json holds.

    Only samples that `folder` lacks are generated.

    Raises:
        ValueError: no engine or tokenizer, a broken benchmark, or a folder with samples of another protocol.
        RuntimeError: the engine died; what it had finished is kept.
    """
    if not config.benchmark:
        raise ValueError("no benchmark is chosen: set benchmark=[math500,...]")
    engine = engines.choose(config.machine.engine)
    engines.warm_up(engine, config.machine.device)
    chosen = [benchmarks.load(name, cfg, config.eval.data) for name, cfg in config.benchmark.items()]
    tokenizer = _tokenizer(config, model)
    folder.mkdir(parents=True, exist_ok=True)
    protocol = protocols.agree(folder / "protocol.yaml", protocols.describe(config, model, tokenizer, engine, chosen))
    prompts = {
        (b.name, p.index): render(config.model.eval_prompt, p.question, tokenizer) for b in chosen for p in b.problems
    }
    workers = min(16, max(1, (os.cpu_count() or 1) // 2))
    with Grader(workers, config.machine.grading_seconds) as grader, Samples(folder, chosen, grader) as samples:
        generation = _generate(config, model, tokenizer, protocol, prompts, samples)
        start = time.perf_counter()
        samples.finish()
        generation["seconds_of_grading_alone"] = round(time.perf_counter() - start, 2)

    result = _result(config, model, tokenizer, protocol, chosen, prompts, samples, generation)
    print(scores.table(result), flush=True)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return result


def verdicts(folder: Path, verdict: str) -> dict[str, NDArray[np.float64]]:
    """The (problems, samples) verdicts of each benchmark in a folder of `evaluate`, for `scores.paired_difference`."""
    known = json.loads((folder / "scores.json").read_text())["benchmarks"]
    rows = {name: [record["samples"] for record in read_lines(folder / f"{name}.jsonl")] for name in known}
    return {
        name: np.array([[sample[verdict] for sample in row[: known[name]["samples"]]] for row in rows[name]], float)
        for name in known
    }


def _tokenizer(config: Config, model: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, **protocols.source(config, model))
    except Exception as error:  # of many kinds, all of which mean this
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"no tokenizer can be loaded from {model}: {reason}") from None


def _generate(
    config: Config, model: str, tokenizer: Any, protocol: dict[str, Any], prompts: Prompts, samples: Samples
) -> dict[str, Any]:
    """Generate what is missing; returns what it took."""
    cfg, source = config.eval, protocols.source(config, model)
    wanted = [(*problem, j) for problem in prompts for j in range(cfg.samples)]
    missing = [key for key in wanted if key not in samples.known]
    if not missing:
        return {}
    room = context_length(model, **source)
    ids = dict(zip(prompts, encode(list(prompts.values()), tokenizer), strict=True))
    seeds = [request_seed(cfg.seed, *key) if cfg.request_seeds else None for key in missing]
    requests = []
    for i, key in enumerate(missing):
        if len(ids[key[:2]]) < room:
            requests.append(Request(i, ids[key[:2]], seeds[i]))
        else:
            samples.add(key, Completion(i, "", 0, TOO_LONG), seeds[i])
    sampling = Sampling(
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        max_new_tokens=cfg.max_new_tokens,
        stop=tuple(protocol["stop"]),
        stop_ids=tuple(protocol["stop_ids"]),
        # Another one for each continuation: the same stream again would repeat samples that are there.
        seed=request_seed(cfg.seed, "engine", len(missing)),
    )
    machine = config.machine
    job = Job(
        model,
        sampling,
        threads=machine.threads,
        device=machine.device,
        tensor_parallel=machine.tensor_parallel,
        **source,
    )
    tokens, begin = 0, time.perf_counter()
    with (
        bar("samples", len(wanted), "sample", initial=len(wanted) - len(requests)) as progress,
        Generation(Engine(protocol["engine"]), job, requests, samples.folder / "engine.log") as generation,
    ):
        for completions in generation:
            for completion in completions:
                samples.add(missing[completion.key], completion, seeds[completion.key])
                tokens += completion.tokens
            progress.update(len(completions))
    seconds = time.perf_counter() - begin
    return {
        "samples": len(requests),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "seconds_of_start": round(generation.start_seconds, 2),
        "tokens_per_second": round(tokens / max(seconds - generation.start_seconds, 1e-9)),
    }


def _result(
    config: Config,
    model: str,
    tokenizer: Any,
    protocol: dict[str, Any],
    chosen: list[Benchmark],
    prompts: Prompts,
    samples: Samples,
    generation: dict[str, Any],
) -> dict[str, Any]:
    """Write the records, the page and the scores, in this order."""
    folder, cfg = samples.folder, config.eval
    rows, records = {}, {}
    for benchmark in chosen:
        records[benchmark.name] = [
            {
                "index": p.index,
                "question": p.question,
                "prompt": prompts[benchmark.name, p.index],
                "gold_official": p.gold_official,
                "gold": p.gold,
                "samples": samples.of(benchmark.name, p.index),
            }
            for p in benchmark.problems
        ]
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records[benchmark.name])
        write(folder / f"{benchmark.name}.jsonl", "".join(lines))
        (folder / f"{benchmark.name}.samples.jsonl").unlink(missing_ok=True)
        rows[benchmark.name] = scores.summary(records[benchmark.name], cfg.samples, str(cfg.verdict))
    engine = Engine(protocol["engine"])
    result = {
        "model": model,
        "verdict": str(cfg.verdict),
        "average": scores.average(rows),
        "benchmarks": _others(folder, rows, cfg) | rows,
        "engine": str(engine),
        "engine_version": engines.version(engine),
        "seeds": protocol["seeds"],
        "generation": generation,
        "warnings": _warnings(config, tokenizer, prompts, rows),
    }
    write(folder / "samples.html", pages.page(model, result, records))
    write(folder / "scores.json", json.dumps(result, indent=1))
    return result


def _others(folder: Path, rows: dict[str, dict[str, Any]], cfg: EvalConfig) -> dict[str, dict[str, Any]]:
    """The scores of benchmarks that earlier calls left in the folder with as many samples."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        records = [] if path.stem in rows or path.name.endswith(".samples.jsonl") else list(read_lines(path))
        if records and min(len(record["samples"]) for record in records) >= cfg.samples:
            found[path.stem] = scores.summary(records, cfg.samples, str(cfg.verdict))
    return found


def _warnings(config: Config, tokenizer: Any, prompts: Prompts, rows: dict[str, dict[str, Any]]) -> list[str]:
    """What would mislead a reader of the scores."""
    found = []
    for name, row in rows.items():
        if row["cut_by_length"] > CUT_SHARE:
            limit = config.eval.max_new_tokens
            found.append(
                f"{name}: {row['cut_by_length']:.0f}% of the samples are cut by length (max_new_tokens={limit})"
            )
        if row["too_long"]:
            found.append(f"{name}: {row['too_long']} problems are longer than the model's context and are scored 0")
        if row["timed_out"]:
            found.append(f"{name}: grading ran out of time or memory on {row['timed_out']} samples, which are scored 0")
    full = config.eval.full_samples
    if full and config.eval.samples < full:
        found.append(f"{config.eval.samples} samples of each problem in place of the protocol's {full}")
    if tokenizer.chat_template:
        opening = render("chat", "PROBLEM", tokenizer).split("PROBLEM")[-1]
        if opening and not all(prompt.endswith(opening) for prompt in prompts.values()):
            found.append("the prompt does not end as the model's own chat template does")
    return found
