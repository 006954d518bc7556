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

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from losslab.config.log import log
from losslab.config.prompt import CHAT
from losslab.config.schema import Config, Engine
from losslab.data.prompts import check_tokenizer, encode
from losslab.distributed.environment import available_cores
from losslab.evaluation import benchmarks, contamination, engines, harness, prompting, scores
from losslab.evaluation import protocol as protocols
from losslab.evaluation.benchmarks import Benchmark
from losslab.evaluation.contamination import Corpus, Seen
from losslab.evaluation.engine_interface import (
    TOO_LONG,
    Completion,
    Endpoint,
    Job,
    Request,
    Sampling,
    context_length,
    request_seed,
)
from losslab.evaluation.engines import Generation
from losslab.evaluation.harness import TaskRequest
from losslab.evaluation.prompting import Prompt
from losslab.evaluation.runnable import runnable
from losslab.evaluation.samples import Key, Samples
from losslab.evaluation.write_scores import Subject, publish
from losslab.files import refuse_pickled_weights
from losslab.grading.graders import Grader
from losslab.progress import bar


def evaluate(config: Config, model: str, folder: Path, corpus: Corpus | None = None) -> dict[str, Any]:
    """Score a model, and return what scores.json holds.

    The model is a hub id or a folder with its tokenizer; with engine=api the name of a served one.
    Only samples that `folder` lacks are generated. `corpus` is what the model was trained on, where that is known.

    Raises:
        ValueError: no engine or tokenizer, a broken benchmark, or a folder with samples of another protocol.
        RuntimeError: the engine died; what it had finished is kept.
    """
    engines.warm_up(engines.choose(config.machine.engine), config.machine.device)
    return publish(*answer(config, model, folder, check(config), corpus))


def answer(
    config: Config, model: str, folder: Path, chosen: list[Benchmark], corpus: Corpus | None = None
) -> tuple[Subject, Samples, dict[str, Any]]:
    """The samples of all problems with their verdicts, and what it took to generate those that `folder` lacked.

    Raises what `evaluate` does.
    """
    engine = engines.choose(config.machine.engine)
    tokenizer = None if config.served else _tokenizer(config, model)
    seen, notes = _seen(config, corpus, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    protocol = protocols.agree(folder / "protocol.yaml", protocols.describe(config, model, tokenizer, engine, chosen))
    framed = {b.name: Prompt.of(config, b) for b in chosen if b.task is None}
    if line := prompting.announced(framed, config.prompt_name):
        log.info(line)
    prompts = {
        (b.name, p.index): framed[b.name].asked(p.question)
        if tokenizer is None and framed[b.name].chat
        else framed[b.name].text(p.question, tokenizer, config.model.template_arguments)
        for b in chosen
        for p in b.problems
        if b.task is None
    }
    notes += prompting.notes(config, chosen, framed)
    subject = Subject(config, model, tokenizer, protocol, chosen, framed, prompts, seen, notes)
    workers = min(16, max(1, available_cores() // 2))
    machine = config.machine
    with (
        Grader(workers, machine.grading_seconds, unsafe_code=machine.unsafe_code) as grader,
        Samples(folder, chosen, grader) as samples,
    ):
        generation = _generate(subject, samples)
        _run_tasks(subject, samples)
        start = time.perf_counter()
        samples.finish()
        generation["seconds_of_grading_alone"] = round(time.perf_counter() - start, 2)
    return subject, samples, generation


def check(config: Config) -> list[Benchmark]:
    """The benchmarks of a configuration. Raises ValueError for all that can be wrong before there is a model."""
    if not config.benchmark:
        raise ValueError("no benchmark is chosen: set benchmark=[math500,...]")
    engines.choose(config.machine.engine)
    chosen = [
        harness.load(name, cfg) if cfg.task is not None else benchmarks.load(name, cfg, config.eval.data)
        for name, cfg in config.benchmark.items()
    ]
    return runnable(chosen, config.machine.unsafe_code)


def show(result: dict[str, Any], folder: Path) -> None:
    """Print what `evaluate` returns for a folder: the table, where to read on, and the warnings on standard error."""
    print(f"{scores.markdown(result)}\nsamples to read: {folder / 'samples.html'}", flush=True)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def _seen(config: Config, corpus: Corpus | None, chosen: list[Benchmark]) -> tuple[dict[str, Seen] | None, list[str]]:
    """What the corpus holds of the benchmarks, and why that is not known where it cannot be read any more."""
    if corpus is None:
        return None, []
    try:
        return contamination.seen(corpus, chosen, Path(config.machine.results) / "cache" / "overlap"), []
    except (ValueError, OSError) as error:  # the scores are worth having all the same
        return None, [f"nobody knows which problems stand in the training data: {error}"]


def _tokenizer(config: Config, model: str) -> Any:
    from transformers import AutoTokenizer

    if Path(model).is_dir():
        refuse_pickled_weights(model, (file.name for file in Path(model).iterdir()))
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, **protocols.source(config, model))
    except Exception as error:  # of many kinds, all of which mean this
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"no tokenizer can be loaded from {model}: {reason}") from None
    check_tokenizer(tokenizer, model)
    return tokenizer


def _generate(subject: Subject, samples: Samples) -> dict[str, Any]:
    """Generate what is missing; returns what it took."""
    cfg, protocol, prompts = subject.config.eval, subject.protocol, subject.prompts
    wanted = [(*problem, j) for problem in prompts for j in range(cfg.samples)]
    missing = [key for key in wanted if key not in samples.known]
    if not missing:
        return {}
    seed = protocol["seed"]
    seeds = [request_seed(seed, *key) if cfg.request_seeds else None for key in missing]
    asked = _to_endpoint(subject, missing, seeds) if subject.tokenizer is None else _to_model(subject, missing, seeds)
    for i in set(range(len(missing))) - {request.key for request in asked}:
        samples.add(missing[i], Completion(i, "", 0, TOO_LONG), seeds[i])
    sampling = Sampling(
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        max_new_tokens=cfg.max_new_tokens,
        stop=tuple(protocol["stop"]),
        stop_ids=tuple(protocol["stop_ids"]),
        # Another one for each continuation: the same stream again would repeat samples that are there.
        seed=request_seed(seed, "engine", len(missing)),
    )
    job = _job(subject, sampling)
    tokens, begin = 0, time.perf_counter()
    with (
        bar(f"starting {protocol['engine']}", len(wanted), "sample", initial=len(wanted) - len(asked)) as progress,
        Generation(Engine(protocol["engine"]), job, asked, samples.folder / "engine.log") as generation,
    ):
        for completions in generation:
            progress.set_description_str("samples", refresh=False)
            for completion in completions:
                samples.add(missing[completion.key], completion, seeds[completion.key])
                tokens += completion.tokens
            progress.update(len(completions))
    seconds = time.perf_counter() - begin
    return {
        "samples": len(asked),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "seconds_of_start": round(generation.start_seconds, 2),
        "tokens_per_second": round(tokens / max(seconds - generation.start_seconds, 1e-9)),
    }


def _run_tasks(subject: Subject, samples: Samples) -> None:
    """Run the tasks of lm-evaluation-harness of which an answer is missing, on transformers whatever the engine is."""
    tasks = [b for b in subject.chosen if b.task is not None]
    missing = [b for b in tasks if any((b.name, p.index, 0) not in samples.known for p in b.problems)]
    requests = [
        TaskRequest(
            b.name,
            str(b.task),
            subject.config.benchmark[b.name].metric,
            subject.config.model.eval_prompt == CHAT,
            samples.folder / f"{b.name}.cache",
        )
        for b in missing
    ]
    if requests:
        job = replace(_job(subject, Sampling(0.0, 1.0, subject.config.eval.max_new_tokens)), tensor_parallel=1)
        log = samples.folder / "engine.log"
        module = "losslab.evaluation.harness_engine"
        with (
            bar("tasks of lm_eval", len(requests), "task") as progress,
            Generation(Engine.transformers, job, requests, log, module) as answers,
        ):
            for rows in answers:
                for name, index, sample in rows:
                    samples.keep((name, index, 0), sample)
                for name in {row[0] for row in rows}:
                    (samples.folder / f"{name}.cache").unlink(missing_ok=True)
                progress.update(bool(rows))
    for b in tasks:
        for p in b.problems:
            subject.prompts[b.name, p.index] = samples.known[b.name, p.index, 0]["prompt"]


def _job(subject: Subject, sampling: Sampling) -> Job:
    machine = subject.config.machine
    return Job(
        subject.model,
        sampling,
        threads=machine.threads,
        device=machine.device,
        tensor_parallel=machine.tensor_parallel,
        endpoint=_endpoint(subject.config, subject.model) if subject.tokenizer is None else None,
        **protocols.source(subject.config, subject.model),
    )


def _to_model(subject: Subject, missing: Sequence[Key], seeds: Sequence[int | None]) -> list[Request]:
    """What an engine is asked for the missing samples, but for those whose prompt fills the context."""
    room = context_length(subject.model, **protocols.source(subject.config, subject.model))
    ids = dict(zip(subject.prompts, encode(list(subject.prompts.values()), subject.tokenizer), strict=True))
    stops = {name: protocols.split_stops(prompt.stop, subject.tokenizer) for name, prompt in subject.framed.items()}
    return [
        Request(i, ids[key[:2]], seeds[i], *stops[key[0]]) for i, key in enumerate(missing) if len(ids[key[:2]]) < room
    ]


def _to_endpoint(subject: Subject, missing: Sequence[Key], seeds: Sequence[int | None]) -> list[Request]:
    """What an endpoint is asked: an answer in a conversation where the prompt is the chat template's, else a text."""
    asked = []
    for i, key in enumerate(missing):
        prompt, text = subject.framed[key[0]], subject.prompts[key[:2]]
        asked.append(Request(i, [], seeds[i], prompt.stop, text=text, chat=prompt.chat, earlier=prompt.earlier))
    return asked


def _endpoint(config: Config, model: str) -> Endpoint:
    """The endpoint of engine=api, with the key of the environment; vLLM's own server needs none."""
    machine = config.machine
    assert machine.api_url is not None  # composition.checks
    return Endpoint(
        machine.api_url,
        machine.api_model or model,
        machine.api_concurrency,
        machine.api_retries,
        os.environ.get("OPENAI_API_KEY") or "none",
        config.model.template_arguments,
    )
