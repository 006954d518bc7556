"""Runs vLLM in this process, with settings for the CPU too."""

import os
from collections.abc import Iterator
from typing import Any

import torch

from losslab.evaluation.engine_interface import (
    Completion,
    Job,
    Request,
    Sampling,
    architecture,
    context_length,
    dtype_of,
)

CPU_SEQUENCES = 512  # that vLLM runs at once on CPU, where its default is too low


def run(job: Job, requests: list[Request], on_gpu: bool) -> Iterator[list[Completion]]:
    """Yields an empty list when ready, then the samples that each engine step finishes."""
    llm = start(job, requests, on_gpu)
    yield []
    yield from sample(llm, job.sampling, requests)


def start(job: Job, requests: list[Request], on_gpu: bool) -> Any:
    """vLLM's engine for these requests, in this process."""
    options: dict[str, Any] = {}
    longest = max(len(request.prompt) for request in requests) + job.sampling.max_new_tokens
    length = min(longest, context_length(job.model, job.revision, job.trust_remote_code))
    if not on_gpu:
        # In this process: no second import and no copies between processes. On a GPU a separate process pays off, since
        # Python's share of a step overlaps the kernels.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if job.threads:
            torch.set_num_threads(job.threads)
        options = {
            "enforce_eager": True,  # compiling takes longer than it saves on a model that fits a CPU
            "max_num_seqs": CPU_SEQUENCES,
            "kv_cache_memory_bytes": _cache_bytes(job, min(len(requests), CPU_SEQUENCES) * length),
            # A prompt split over two steps would rewind its request's seeded generator, which fails on CPU.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(length, 8192),
        }
    from vllm import LLM

    return LLM(
        model=job.model,
        revision=job.revision,
        trust_remote_code=job.trust_remote_code,
        load_format="safetensors",  # pickled weights can run code
        max_model_len=length,
        dtype=str(dtype_of(job, on_gpu)).removeprefix("torch."),  # type: ignore[arg-type]
        tensor_parallel_size=job.tensor_parallel,
        seed=job.sampling.seed,
        **options,
    )


def sample(llm: Any, sampling: Sampling, requests: list[Request]) -> Iterator[list[Completion]]:
    """Enqueue all requests; yields the samples that each step finishes, which `LLM.generate` does not offer."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    parameters = [
        SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop=[*sampling.stop, *request.stop],
            stop_token_ids=[*sampling.stop_ids, *request.stop_ids],
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for request in requests
    ]
    prompts = [{"prompt_token_ids": request.prompt} for request in requests]
    names = llm.enqueue(prompts, parameters, use_tqdm=False)
    # vLLM appends "-" and letters to the name of a request, and leaves them out of its output.
    asked = {name.split("-")[0]: request for name, request in zip(names, requests, strict=True)}
    while llm.llm_engine.has_unfinished_requests():
        finished = [output for output in llm.llm_engine.step() if output.finished]
        if finished:
            yield [_completion(asked[output.request_id], output.outputs[0], sampling) for output in finished]


def _completion(request: Request, sample: Any, sampling: Sampling) -> Completion:
    last = sample.token_ids[-1] if sample.finish_reason == "stop" else None
    ended = last in (*sampling.stop_ids, *request.stop_ids)  # else by a text
    count = len(sample.token_ids)
    return Completion(request.key, sample.text, count, sample.finish_reason, end_token=last if ended else None)


def _cache_bytes(job: Job, tokens: int) -> int:
    """Bytes of vLLM's key-value cache on CPU: enough for `tokens`, up to a quarter of the machine's memory."""
    config = architecture(job.model, job.revision, job.trust_remote_code)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    size = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width * 4
    return min(max(tokens * size, 1 << 28), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
