"""Scores a model on benchmarks: prompts, samples, verdicts, records.

What `folder` holds afterwards:
    protocol.yaml               what every sample in the folder was made with
    <benchmark>.jsonl           one record for each problem, with its samples and their verdicts
    scores.json                 the scores; written last
    samples.html                the records for reading
    engine.log                  what the engine printed
While samples are generated they are in <benchmark>.samples.jsonl, one line each, from the moment they finish. The same
call continues from what is stored.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from losslab.config.log import log
from losslab.config.messages import first_line
from losslab.config.prompt import CHAT
from losslab.config.schema import EMBEDDED_MODELS, EMBEDDED_VISION, Config, Engine
from losslab.data import processors
from losslab.data.chat_templates import ChatTemplate
from losslab.data.hub_datasets import refuse_pickled_weights
from losslab.data.prompts import check_tokenizer
from losslab.distributed.environment import available_cores
from losslab.evaluation import benchmarks, contamination, engines, harness, prompting, requests, scores
from losslab.evaluation import protocol as protocols
from losslab.evaluation.benchmarks import Benchmark
from losslab.evaluation.contamination import Corpus, Seen
from losslab.evaluation.engine_interface import (
    TOO_LONG,
    Completion,
    Sampling,
    request_seed,
    takes_images,
)
from losslab.evaluation.engines import Generation
from losslab.evaluation.harness import TaskRequest
from losslab.evaluation.prompting import Prompt
from losslab.evaluation.runnable import runnable
from losslab.evaluation.samples import Samples
from losslab.evaluation.write_scores import Facts, Generated, Subject, made_with, publish
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
    warm_up(config)
    return publish(*answer(config, model, folder, check(config), corpus))


def warm_up(config: Config, *modules: str) -> None:
    """Begin to import what the engine needs, and `modules`, in the server that processes are forked from."""
    images = any(benchmark.images for benchmark in config.benchmark.values())
    engines.warm_up(engines.choose(config.machine.engine, images), config.machine.device, *modules)


def answer(
    config: Config, model: str, folder: Path, chosen: list[Benchmark], corpus: Corpus | None = None
) -> tuple[Subject, Samples, Generated]:
    """The samples of all problems with their verdicts, and what made those that `folder` lacked.

    Raises what `evaluate` does.
    """
    subject = _subject(config, model, folder, chosen, corpus)
    workers = min(16, max(1, available_cores() // 2))
    machine = config.machine
    with (
        Grader(workers, machine.grading_seconds, unsafe_code=machine.unsafe_code) as grader,
        Samples(folder, chosen, grader) as samples,
    ):
        generated = _generate(subject, samples)
        by_tasks = _run_tasks(subject, samples)
        start = time.perf_counter()
        samples.finish()
        took = generated.took | {"seconds_of_grading_alone": round(time.perf_counter() - start, 2)}
    return subject, samples, Generated(took, [*generated.ran, *by_tasks])


def _subject(config: Config, model: str, folder: Path, chosen: list[Benchmark], corpus: Corpus | None) -> Subject:
    """What is asked and how, when the folder's protocol agrees to it."""
    engine = engines.choose(config.machine.engine, any(benchmark.images for benchmark in chosen))
    tokenizer = None if config.served else _tokenizer(config, model)
    reads_images = check_images(config, model, chosen)
    seen, notes = _seen(config, corpus, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    protocol = protocols.agree(folder / "protocol.yaml", protocols.describe(config, model, tokenizer, engine, chosen))
    framed = {b.name: Prompt.of(config, b) for b in chosen if b.task is None}
    if line := prompting.announced(framed, config.prompt_name):
        log.info(line)
    arguments = config.model.template_arguments
    prompts = {
        (b.name, p.index): framed[b.name].of_problem(p.asked, len(p.images), tokenizer, arguments, reads_images)
        for b in chosen
        for p in b.problems
        if b.task is None
    }
    notes += prompting.notes(config, chosen, framed)
    if tokenizer and (unread := ChatTemplate(tokenizer, arguments).unread):
        notes.append(unread)
    if config.served and reads_images and config.model.image_arguments:
        notes.append("model.image_arguments reach no endpoint, which sizes images itself")
    return Subject(
        config, model, tokenizer, protocol, chosen, framed=framed, prompts=prompts, seen=seen, notes=notes,
        reads_images=reads_images,
    )  # fmt: skip


def check(config: Config) -> list[Benchmark]:
    """The benchmarks of a configuration. Raises ValueError for all that can be wrong before there is a model."""
    if not config.benchmark:
        raise ValueError("no benchmark is chosen: set benchmark=[math500,...]")
    engines.choose(config.machine.engine, any(benchmark.images for benchmark in config.benchmark.values()))
    chosen = [
        harness.load(name, cfg) if cfg.task is not None else benchmarks.load(name, cfg, config.eval.data)
        for name, cfg in config.benchmark.items()
    ]
    pictured = [benchmark for benchmark in chosen if benchmark.images]
    if pictured and config.model.path in EMBEDDED_MODELS and config.model.path != EMBEDDED_VISION:
        raise ValueError(f"{config.names.model} reads no images, which {pictured[0].name} shows: set model=tiny_vision")
    if pictured and config.model.path not in EMBEDDED_MODELS:  # which `answer` looks at, once it is made
        check_images(config, config.model.path, pictured)
    return runnable(chosen, config.machine.unsafe_code)


def check_images(config: Config, model: str, chosen: Sequence[Benchmark]) -> bool:
    """Whether the model reads images; of a served one, whether it is asked to.

    Raises ValueError for benchmarks with images where it does not, or where nothing says where in a prompt they stand.
    """
    shown = [benchmark for benchmark in chosen if benchmark.images]
    reads = bool(shown) if config.served else takes_images(model, **protocols.source(config, model))
    for benchmark in shown:
        if not reads:
            raise ValueError(
                f"{model} reads no images, which {benchmark.name} shows: leave it out, or take another model"
            )
        if not Prompt.of(config, benchmark).chat:
            raise ValueError(
                f"benchmark {benchmark.name} shows images, whose place only a chat template knows: set "
                f"benchmark.{benchmark.name}.prompt=chat"
            )
    return reads


def show(result: dict[str, Any], folder: Path) -> None:
    """Print what `evaluate` returns for a folder: the table, where to read on, and the warnings on standard error."""
    print(f"{scores.markdown(result)}\nsamples to read: {folder / 'samples.html'}", flush=True)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def _seen(config: Config, corpus: Corpus | None, chosen: list[Benchmark]) -> tuple[dict[str, Seen] | None, list[str]]:
    """What the corpus holds of the benchmarks, and why that is not known where it cannot be read any more."""
    if corpus is None:
        return None, []
    unknown = [f"{b.name}: {contamination.NO_QUESTION}" for b in chosen if b.task is not None and b.questions is None]
    try:
        return contamination.seen(corpus, chosen, Path(config.machine.results) / "cache" / "overlap"), unknown
    except (ValueError, OSError) as error:  # the scores are worth having all the same
        return None, [f"{contamination.UNSEARCHED}: {error}"]


def _tokenizer(config: Config, model: str) -> Any:
    """The tokenizer; that of a processor has its chat template, which some keep beside it alone."""
    from transformers import AutoTokenizer

    if Path(model).is_dir():
        refuse_pickled_weights(model, (file.name for file in Path(model).iterdir()))
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, **protocols.source(config, model))
        if not tokenizer.chat_template and takes_images(model, **protocols.source(config, model)):
            tokenizer.chat_template = processors.load(model, **protocols.source(config, model)).chat_template
    except Exception as error:  # of many kinds, all of which mean this
        raise ValueError(f"no tokenizer can be loaded from {model}: {first_line(error)}") from None
    check_tokenizer(tokenizer, model)
    return tokenizer


def _generate(subject: Subject, samples: Samples) -> Generated:
    """Generate what is missing, except answers to tasks."""
    cfg, protocol, prompts = subject.config.eval, subject.protocol, subject.prompts
    wanted = [(*problem, j) for problem in prompts for j in range(cfg.samples)]
    missing = [key for key in wanted if key not in samples.known]
    if not missing:
        return Generated({}, [])
    seed = protocol["seed"]
    seeds = [request_seed(seed, *key) if cfg.request_seeds else None for key in missing]
    ask = requests.to_endpoint if subject.tokenizer is None else requests.to_model
    asked = ask(subject, missing, seeds)
    for i in set(range(len(missing))) - {request.key for request in asked}:
        samples.add(missing[i], Completion(i, "", 0, TOO_LONG), seeds[i])
    sampling = Sampling(
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        max_new_tokens=cfg.max_new_tokens,
        stop=tuple(protocol["stop"]),
        stop_ids=tuple(protocol["stop_ids"]),
        # Beside stored samples the seed depends on those that are missing: the same stream would repeat stored ones.
        seed=request_seed(seed, "engine", len(missing), *(missing if samples.known else [])),
    )
    engine, job = Engine(protocol["engine"]), requests.job(subject, sampling)
    tokens, begin = 0, time.perf_counter()
    with (
        bar(f"starting {engine}", len(wanted), "sample", initial=len(wanted) - len(asked)) as progress,
        Generation(engine, job, asked, samples.folder / "engine.log") as generation,
    ):
        for completions in generation:
            progress.set_description_str("samples", refresh=False)
            for completion in completions:
                samples.add(missing[completion.key], completion, seeds[completion.key])
                tokens += completion.tokens
            progress.update(len(completions))
    seconds = time.perf_counter() - begin
    took = {
        "samples": len(asked),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "seconds_of_start": round(generation.start_seconds, 2),
        "tokens_per_second": round(tokens / max(seconds - generation.start_seconds, 1e-9)),
    }
    dtype = None if subject.config.served else engines.dtype(job)
    return Generated(took, [made_with(subject.config, engine, dtype)])


def _run_tasks(subject: Subject, samples: Samples) -> list[Facts]:
    """Run the tasks of lm-evaluation-harness of which an answer is missing, on transformers whatever the engine is.

    Returns `made_with` of that engine, if any was missing.
    """
    tasks = [b for b in subject.chosen if b.task is not None]
    missing = [b for b in tasks if any((b.name, p.index, 0) not in samples.known for p in b.problems)]
    tasks_asked = [
        TaskRequest(
            b.name,
            str(b.task),
            subject.config.benchmark[b.name].metric,
            subject.config.model.eval_prompt == CHAT,
            samples.folder / f"{b.name}.cache",
            subject.config.model.template_arguments,
        )
        for b in missing
    ]
    ran = []
    if tasks_asked:
        job = replace(requests.job(subject, Sampling(0.0, 1.0, subject.config.eval.max_new_tokens)), tensor_parallel=1)
        log = samples.folder / "engine.log"
        module = "losslab.evaluation.harness_engine"
        with (
            bar("tasks of lm_eval", len(tasks_asked), "task") as progress,
            Generation(Engine.transformers, job, tasks_asked, log, module) as answers,
        ):
            for rows in answers:
                for name, index, sample in rows:
                    samples.keep((name, index, 0), sample)
                for name in {row[0] for row in rows}:
                    (samples.folder / f"{name}.cache").unlink(missing_ok=True)
                progress.update(bool(rows))
        ran.append(made_with(subject.config, Engine.transformers, engines.dtype(job)))
    for b in tasks:
        for p in b.problems:
            subject.prompts[b.name, p.index] = samples.known[b.name, p.index, 0]["prompt"]
    return ran
