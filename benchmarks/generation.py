"""Speed of generation: the engine of an evaluation against a bare `LLM.generate`, what seeds cost, start-up, overlap.

    python benchmarks/generation.py [--benchmarks DATA] > results/benchmarks/generation.md

Everything runs on one CPU core with a tiny random Qwen2, so that Python's share of a step, which is what this project
adds to or saves, weighs as much as it ever can. Rates are in tokens per second of CPU time of the engine's process:
wall time on a busy machine says little. Pairs alternate, and each figure is the median over the repetitions.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.config.schema import BenchmarkConfig, Config, Engine, EvalConfig, ModelConfig
from losslab.evaluation import engines, vllm_engine  # noqa: E402
from losslab.evaluation.engine_interface import Job, Request, Sampling  # noqa: E402
from losslab.evaluation.engines import Generation  # noqa: E402

VOCABULARIES = {"tiny (102 tokens)": None, "tiny with the vocabulary of Qwen2.5 (151,936)": 151_936}


def make_model(folder: Path, vocabulary: int | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from losslab.data import toy_task

    torch.manual_seed(0)
    config = toy_task.model_config()
    config.vocab_size = vocabulary or config.vocab_size
    config.max_position_embeddings = 2048  # the real problems fit
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    toy_task.tokenizer().save_pretrained(folder)


def requests(count: int, seeded: bool) -> list[Request]:
    """Prompts of 10 to 59 tokens, each four times, as an evaluation asks."""
    return [
        Request(i, [7 + (i // 4 * 31 + j) % 80 for j in range(10 + i // 4 % 50)], i if seeded else None)
        for i in range(count)
    ]


def measure(model: str, count: int, length: int, repetitions: int, connection) -> None:  # type: ignore[no-untyped-def]
    """In a separate process: rates of (bare, ours, ours without seeds), alternating, on one engine."""
    from vllm import SamplingParams

    job = Job(model, Sampling(1.0, 1.0, length), threads=1, device=Device.cpu)
    llm = vllm_engine.start(job, requests(count, True), on_gpu=False)
    for _ in vllm_engine.sample(llm, job.sampling, requests(count // 2, True)):  # warm-up
        pass
    rates: dict[str, list[tuple[float, float]]] = {"bare, seeds": [], "ours, seeds": [], "ours": [], "bare": []}
    for _ in range(repetitions):
        for name, found in rates.items():
            asked = requests(count, "seeds" in name)
            wall, cpu = time.perf_counter(), time.process_time()
            if name.startswith("bare"):
                parameters = [SamplingParams(temperature=1.0, max_tokens=length, seed=r.seed) for r in asked]
                prompts = [{"prompt_token_ids": request.prompt} for request in asked]
                outputs = llm.generate(prompts, parameters, use_tqdm=False)
                tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
            else:
                tokens = 0
                for completions in vllm_engine.sample(llm, job.sampling, asked):
                    tokens += sum(completion.tokens for completion in completions)
                    connection.send(completions)
            found.append((tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)))
    connection.send(rates)


def compare(folder: Path, count: int, length: int, repetitions: int) -> None:
    print("\n## Against a bare `LLM.generate`, and what seeds cost\n")
    print(f"{count} requests of {length} new tokens at most, {vllm_engine.CPU_SEQUENCES} sequences at once, "
          f"{repetitions} repetitions.\n")  # fmt: skip
    print(
        "| model | bare tokens/s | ours | ours / bare | ours, seed of each sample | seeds cost | seeds: ours / bare |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for name, vocabulary in VOCABULARIES.items():
        model = folder / f"model-{vocabulary}"
        make_model(model, vocabulary)
        scale = 1 if vocabulary is None else 8
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(str(model), count // scale, length, repetitions, theirs))
        process.start()
        theirs.close()
        rates = ours.recv()
        while not isinstance(rates, dict):
            rates = ours.recv()
        process.join()
        cpu = {key: [rate for _, rate in found] for key, found in rates.items()}

        def ratios(a: str, b: str, cpu: dict[str, list[float]] = cpu) -> list[float]:
            return sorted(x / y for x, y in zip(cpu[a], cpu[b], strict=True))

        median = {key: statistics.median(found) for key, found in cpu.items()}
        costs = [100 * (1 - ratio) for ratio in ratios("ours, seeds", "ours")]
        low, _, high = statistics.quantiles(costs, n=4)
        print(
            f"| {name} | {median['bare']:,.0f} | {median['ours']:,.0f} "
            f"| {statistics.median(ratios('ours', 'bare')):.3f} | {median['ours, seeds']:,.0f} "
            f"| {statistics.median(costs):.1f}% ({low:.0f} to {high:.0f}) "
            f"| {statistics.median(ratios('ours, seeds', 'bare, seeds')):.3f} |",
            flush=True,
        )
    print("\nIn brackets: the middle half of the pairs.")


def start_up(folder: Path) -> None:
    print("\n## Start-up of an engine\n")
    print(
        "Wall seconds from the call until the engine is ready, one evaluation after the other in one Python process.\n"
    )
    print("| engine | first | second | third |\n|---|---:|---:|---:|")
    for engine in (Engine.vllm, Engine.transformers):
        seconds = []
        for _ in range(3):
            job = Job(str(folder / "model-None"), Sampling(1.0, 1.0, 8), threads=1, device=Device.cpu)
            with Generation(engine, job, requests(4, True), folder / "engine.log") as generation:
                list(generation)
            seconds.append(generation.start_seconds)
        print(f"| {engine} | " + " | ".join(f"{second:.1f}" for second in seconds) + " |", flush=True)
    print("\nThe first one imports vLLM; the server of processes keeps the import for the others.")


def overlap(folder: Path, data: str | None) -> None:
    """All benchmarks at once, as one evaluation."""
    from yaml import safe_load

    from losslab.evaluation.evaluate import evaluate

    names = (
        ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"]
        if data
        else ["tiny_add", "tiny_word", "tiny_long"]
    )
    conf = Path(__file__).resolve().parents[1] / "conf/benchmark"
    files = {name: safe_load((conf / f"{name}.yaml").read_text())[name] for name in names}
    config = Config(
        model=ModelConfig(path=str(folder / "model-None")),
        eval=EvalConfig(samples=1 if data else 16, max_new_tokens=64, data=data),
        benchmark={name: _benchmark(file) for name, file in files.items()},
        machine=MachineConfig(engine=Engine.vllm, device=Device.cpu, threads=1),
    )
    sys.stdout.flush()
    out, sys.stdout = sys.stdout, sys.stderr
    begin = time.perf_counter()
    result = evaluate(config, str(folder / "model-None"), folder / "scores")
    seconds = time.perf_counter() - begin
    sys.stdout = out
    generation = result["generation"]
    problems = sum(row["problems"] for row in result["benchmarks"].values())
    start, generating = generation["seconds_of_start"], generation["seconds"] - generation["seconds_of_start"]
    too_long = sum(row["too_long"] for row in result["benchmarks"].values())
    timed_out = sum(row["timed_out"] for row in result["benchmarks"].values())
    print("\n## A whole evaluation: grading while generating\n")
    print(f"{', '.join(names)}: {problems:,} problems, one engine start, both verdicts on each sample. Wall seconds.\n")
    print("| samples | tokens | in all | start of the engine | generating | grading after the last sample |")
    print("|---:|---:|---:|---:|---:|---:|")
    print(f"| {generation['samples']:,} | {generation['tokens']:,} | {seconds:.1f} | {start:.1f} | {generating:.1f} "
          f"| {generation['seconds_of_grading_alone']:.2f} |")  # fmt: skip
    print(f"\nProblems too long for the model: {too_long}. Grading time-outs: {timed_out}.")


def _benchmark(file: dict[str, Any]) -> BenchmarkConfig:
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BenchmarkConfig), file))
    assert isinstance(config, BenchmarkConfig)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", help="folder with the official benchmark files; without it the embedded ones")
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    print("# Speed of generation\n")
    print("`python benchmarks/generation.py" + (" --benchmarks DATA`" if options.benchmarks else "`"), end="; ")
    print(f"vLLM {engines.version(Engine.vllm)}, transformers {engines.version(Engine.transformers)}, "
          f"Python {platform.python_version()}, {os.cpu_count()} cores shared with other work, one used.")  # fmt: skip
    print("Rates are per second of CPU time of the engine's process, since the machine was not idle.")
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options.requests, options.length, options.repetitions)
        start_up(Path(folder))
        overlap(Path(folder), options.benchmarks)


if __name__ == "__main__":
    main()
