"""Keys of scoring reach the arguments of what they are for: the engine's own objects, and the graders."""

from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from tiny_models import random_toy_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from losslab.config.choices import Recompute
from losslab.config.machine import MachineConfig
from losslab.config.schema import BenchmarkConfig, Config, Engine, EvalConfig, ModelConfig
from losslab.evaluation import evaluate as evaluation
from losslab.evaluation import transformers_engine
from losslab.evaluation.engine_interface import Completion, Job, Request, request_seed
from losslab.models import layout

EVAL = {"samples": 2, "temperature": 0.7, "top_p": 0.6, "max_new_tokens": 9, "seed": 5}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return random_toy_model(tmp_path_factory.mktemp("model"))


class Answers:
    """In place of an engine's process: keeps what it is asked, and answers "4" to all of it, or to the first alone."""

    def __init__(self, monkeypatch, first_alone: bool = False) -> None:
        self.jobs: list[Job] = []
        self.requests: list[list[Request]] = []
        self.first_alone = first_alone
        self.start_seconds = 0.0
        monkeypatch.setattr(evaluation, "Generation", self._start)

    def _start(self, engine: Engine, job: Job, requests: list[Request], log: Path) -> "Answers":
        self.jobs.append(job)
        self.requests.append(requests)
        return self

    def __enter__(self) -> "Answers":
        return self

    def __exit__(self, *_) -> None: ...

    def __iter__(self):
        yield [
            Completion(request.key, "4", 1, "stop") for request in self.requests[-1][: 1 if self.first_alone else None]
        ]
        if self.first_alone:
            raise RuntimeError("killed")


def scored(model: Path, folder: Path, machine: dict | None = None, stop: tuple[str, ...] = (), **changes) -> None:
    (folder / "sums.jsonl").write_text('{"question": "2+2=?", "answer": "4"}\n{"question": "3+3=?", "answer": "6"}\n')
    config = Config(
        model=ModelConfig(path=str(model), revision="abc", trust_remote_code=True, stop=list(stop)),
        eval=EvalConfig(**EVAL | changes),
        benchmark={"sums": BenchmarkConfig(path=str(folder / "sums.jsonl"), stop=["!"])},
        machine=MachineConfig(engine=Engine.transformers, **{"threads": 3, "tensor_parallel": 2, **(machine or {})}),
    )
    evaluation.evaluate(config, str(model), folder / "scores")


def test_the_protocol_reaches_the_job(model, tmp_path, monkeypatch):
    asked = Answers(monkeypatch)
    scored(model, tmp_path, stop=("\n\n", "<|end|>"))
    (job,), (requests,) = asked.jobs, asked.requests
    assert (job.model, job.threads, job.tensor_parallel) == (str(model), 3, 2)
    assert (job.revision, job.trust_remote_code) == ("abc", True)
    sampling = job.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.7, 0.6, 9)
    assert sampling.stop == ("\n\n",) and len(sampling.stop_ids) >= 1  # a special token never shows in a text
    assert [request.stop for request in requests] == [("!",)] * 4
    assert [r.seed for r in requests] == [request_seed(5, "sums", i, j) for i in range(2) for j in range(2)]


def test_without_seeds_of_requests_the_engine_has_one_and_another_when_it_goes_on(model, tmp_path, monkeypatch):
    """The same seed again would draw for the samples that are missing those that are there."""
    begun = Answers(monkeypatch, first_alone=True)
    with pytest.raises(RuntimeError, match="killed"):
        scored(model, tmp_path, request_seeds=False)
    ended = Answers(monkeypatch)
    scored(model, tmp_path, request_seeds=False)
    assert [len(asked) for asked in begun.requests + ended.requests] == [4, 3]
    assert all(request.seed is None for asked in begun.requests + ended.requests for request in asked)
    seeds = [job.sampling.seed for job in begun.jobs + ended.jobs]
    assert seeds[0] == request_seed(5, "engine", 4) != seeds[1]


def test_as_many_samples_again_are_drawn_with_another_seed(model, tmp_path, monkeypatch):
    """2 of each problem, then 2 more: as many are missing, which have to be others. The first seed of all stays."""
    asked = Answers(monkeypatch)
    for samples in (2, 4, 6):
        scored(model, tmp_path, request_seeds=False, samples=samples)
    assert [len(requests) for requests in asked.requests] == [4, 4, 4]
    seeds = [job.sampling.seed for job in asked.jobs]
    assert seeds[0] == request_seed(5, "engine", 4) and len(set(seeds)) == 3


def test_the_limit_of_a_verdict_reaches_the_graders(model, tmp_path, monkeypatch):
    Answers(monkeypatch)
    made = []
    grader = evaluation.Grader
    monkeypatch.setattr(
        evaluation, "Grader", lambda *args, **options: made.append((args, options)) or grader(*args, **options)
    )
    scored(model, tmp_path, machine={"grading_seconds": 7.5, "unsafe_code": True})
    (((_, seconds), options),) = made
    assert seconds == 7.5 and options == {"unsafe_code": True}


def of_vllm(job: Job, requests: list[Request]) -> tuple[dict, list[dict]]:
    """What vLLM's own objects hold of a job: the engine's arguments, and the sampling parameters of each request."""
    import vllm
    from vllm.engine.arg_utils import EngineArgs

    from losslab.evaluation import vllm_engine

    class Enqueued:
        """Takes the requests; none of them is left to run."""

        llm_engine = type("", (), {"has_unfinished_requests": lambda self: False})()

        def __init__(self) -> None:
            self.parameters: list = []

        def enqueue(self, prompts, parameters, use_tqdm):
            self.parameters = parameters
            return [f"{i}-x" for i in range(len(prompts))]

    vllm.LLM = lambda **options: EngineArgs(**options)  # type: ignore[assignment,misc]
    arguments = vllm_engine.start(job, requests, on_gpu=True)
    engine = Enqueued()
    assert list(vllm_engine.sample(engine, job.sampling, requests)) == []
    names = ("model", "revision", "trust_remote_code", "tensor_parallel_size", "seed", "load_format", "dtype")
    names = (*names, "max_model_len")
    own = ("seed", "temperature", "top_p", "max_tokens", "stop", "stop_token_ids")
    return (
        {name: getattr(arguments, name) for name in names},
        [{name: getattr(each, name) for name in own} for each in engine.parameters],
    )


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_job_reaches_vllms_own_arguments(model, tmp_path, monkeypatch):
    asked = Answers(monkeypatch)
    scored(model, tmp_path, stop=("\n\n",))
    (job,), (requests,) = asked.jobs, asked.requests
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:  # vLLM stays out of this process
        arguments, parameters = apart.submit(of_vllm, job, requests).result()
    assert arguments == {
        "model": str(model),
        "revision": "abc",
        "trust_remote_code": True,
        "tensor_parallel_size": 2,
        "seed": job.sampling.seed,
        "load_format": "safetensors",
        "dtype": "bfloat16",
        "max_model_len": max(len(request.prompt) for request in requests) + 9,
    }
    assert [each["seed"] for each in parameters] == [request.seed for request in requests]
    for each in parameters:
        assert (each["temperature"], each["top_p"], each["max_tokens"]) == (0.7, 0.6, 9)
        assert each["stop"] == ["\n\n", "!"] and set(job.sampling.stop_ids) <= set(each["stop_token_ids"])


def test_the_job_reaches_generate_of_transformers(model, tmp_path, monkeypatch):
    asked = Answers(monkeypatch)
    scored(model, tmp_path, machine={"threads": 1}, stop=("\n\n",))
    (job,), (requests,) = asked.jobs, asked.requests
    calls, asked_for = [], []
    for kind in (AutoTokenizer, AutoModelForCausalLM):
        load = kind.from_pretrained
        monkeypatch.setattr(
            kind, "from_pretrained", lambda *a, load=load, **options: asked_for.append(options) or load(*a, **options)
        )
    loaded, tokenizer = transformers_engine.load_model(job, on_gpu=False)
    assert [(each["revision"], each["trust_remote_code"]) for each in asked_for] == [("abc", True)] * 2
    generate = loaded.generate
    monkeypatch.setattr(loaded, "generate", lambda *a, **options: calls.append(options) or generate(*a, **options))
    monkeypatch.setattr(transformers_engine, "load_model", lambda *_: (loaded, tokenizer))
    list(transformers_engine.run(job, requests, on_gpu=False))
    (call,) = calls
    (noise,) = call["logits_processor"]
    assert (noise.temperature, noise.top_p) == (0.7, 0.6)
    assert [g.initial_seed() for g in noise.generators] == [request.seed for request in requests]
    settings = call["generation_config"]
    (stops,) = call["stopping_criteria"]
    assert settings.max_new_tokens == 9 and set(stops.stop) == {"\n\n", "!"}
    assert settings.eos_token_id == sorted(job.sampling.stop_ids)


class Products(TorchDispatchMode):
    """Counts matrix products, and all other operations, while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.others = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.products += function in layout.KEPT
        self.others += function in (torch.ops.aten.gelu.default, torch.ops.aten.tanh.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("recompute", "products", "others"), [(None, 0, 0), (Recompute.selective, 0, 2), (Recompute.full, 2, 2)]
)
def test_what_is_computed_again_in_backward(recompute, products, others):
    """Of two products and two activations: nothing, the activations alone, or all of it."""
    layer: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4), nn.Tanh())
    if recompute:
        layer = checkpoint_wrapper(layer, **layout._recompute(recompute))
    loss = layer(torch.randn(3, 4, requires_grad=True)).sum()
    alone = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4), nn.Tanh())
    plain = alone(torch.randn(3, 4, requires_grad=True)).sum()
    with Products() as counted:
        loss.backward()
    with Products() as of_backward:
        plain.backward()
    assert counted.products - of_backward.products == products
    assert counted.others - of_backward.others == others
