"""Both engines on a tiny random Qwen2, each in its own process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from place import PATIENCE
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from losslab.config.choices import Device
from losslab.config.schema import Engine
from losslab.data import toy_task
from losslab.evaluation import engine_interface, engines, transformers_engine
from losslab.evaluation.engine_interface import Completion, Job, Request, Sampling
from losslab.evaluation.engines import Generation
from losslab.evaluation.transformers_engine import Noise

INSTALLED = [Engine.transformers]
if find_spec("vllm"):
    INSTALLED.insert(0, Engine.vllm)  # first, so that the processes are forked with vLLM imported
both = pytest.mark.parametrize("engine", INSTALLED)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Random weights, made large enough for texts that differ from prompt to prompt."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config: Qwen2Config = toy_task.model_config()
    config.initializer_range = 0.3
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    toy_task.tokenizer().save_pretrained(folder)
    return folder


def job(model: Path, **changes) -> Job:
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 24, "stop_ids": (1,)} | changes
    return Job(str(model), Sampling(**sampling), threads=1, device=Device.cpu)


def requests(model: Path, count: int, seeded: bool = True) -> list[Request]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = [tokenizer(f"{i}+{i * i}=?")["input_ids"] for i in range(count)]
    return [Request(i, prompts[i], 1000 + i if seeded else None) for i in range(count)]


def run(engine: Engine, job: Job, requests: list[Request], folder: Path) -> dict[int, Completion]:
    with Generation(engine, job, requests, folder / "engine.log") as generation:
        found = [completion for completions in generation for completion in completions]
    assert len(found) == len({completion.key for completion in found}) == len(requests)
    return {completion.key: completion for completion in found}


@pytest.fixture(scope="module")
def sampled(model, tmp_path_factory):
    """24 seeded samples of each engine."""
    folder = tmp_path_factory.mktemp("sampled")
    return {engine: run(engine, job(model), requests(model, 24), folder) for engine in INSTALLED}


@both
def test_a_seeded_sample_does_not_depend_on_its_batch(engine, model, sampled, tmp_path):
    few = run(engine, job(model), requests(model, 24)[17:3:-3], tmp_path)
    assert few == {key: sampled[engine][key] for key in few}
    assert len({completion.text for completion in sampled[engine].values()}) == 24


def test_an_answer_is_as_long_as_the_context_allows_whatever_its_batch(model, tmp_path):
    """A short prompt keeps its limit beside one that leaves room for five tokens alone."""
    room = engine_interface.context_length(str(model))
    prompts = [[5] * 7, [5] * (room - 5), [5] * 9, [5] * (room - 5), [5] * (room - 24), [5] * (room - 50)]
    asked = [Request(i, prompt, i) for i, prompt in enumerate(prompts)]
    endless = job(model, stop_ids=())
    answers = run(Engine.transformers, endless, asked, tmp_path)
    assert [answers[i].tokens for i in range(6)] == [24, 5, 24, 5, 24, 24]
    assert {answer.finish_reason for answer in answers.values()} == {"length"}
    # In a context of 4,096: enough, the last that is, 4,096 - 64, the same for all up to 64, and the last ones.
    lengths = [(10, 4000), (96, 4000), (33, 4096), (64, 4096), (65, 4096), (4064, 4096), (4065, 4096), (4095, 4096)]
    limits = [transformers_engine.answer_limit(prompt, 4096, limit) for prompt, limit in lengths]
    assert limits == [4000, 4000, 4032, 4032, 4000, 32, 31, 1]
    mixed = [Request(i, [5] * (20 + i)) for i in range(100)]
    sizes = [len(batch) for batch in transformers_engine.batches(mixed, 4096, 4096)]
    assert sorted(sizes) == [13, 23, 32, 32]  # up to 32, 64, 96 and 128 tokens


@both
def test_samples_end_at_the_end_token_or_at_the_limit(engine, model, sampled):
    reasons = {completion.finish_reason for completion in sampled[engine].values()}
    assert reasons <= {"stop", "length"} and "length" in reasons
    for completion in sampled[engine].values():
        assert (completion.tokens == 24) or completion.finish_reason == "stop"
        assert completion.end_token == (1 if completion.finish_reason == "stop" else None)
        assert "<|" not in completion.text


@both
def test_stop_texts_end_a_sample_and_are_not_part_of_it(engine, model, sampled, tmp_path):
    """The samples are those without the stop text, cut before it."""
    free, stops = sampled[engine], ("7", "4")
    cut = run(engine, job(model, stop=stops), requests(model, 24), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model)
    stopped = 0
    for key, completion in free.items():
        text = re.split("[74]", completion.text)[0]
        if text != completion.text:
            stopped += 1
            assert (cut[key].text, cut[key].finish_reason, cut[key].end_token) == (text, "stop", None)
            # A special token may be among them: it counts and does not show.
            assert len(tokenizer(text)["input_ids"]) < cut[key].tokens <= completion.tokens
    assert stopped > 3


@both
def test_a_stop_text_that_begins_in_the_prompt_ends_no_sample(engine, model, sampled, tmp_path):
    """Each prompt ends in "=?", and the stop text of each request goes on as its answer does, alone and in a batch."""
    asked, free = requests(model, 24), sampled[engine]
    begun = [key for key in free if free[key].text]
    stops = tuple(dict.fromkeys(f"?{free[key].text[:size]}" for key in begun for size in (1, 2)))
    inside = {key for key in free if any(stop in free[key].text for stop in stops)}
    assert len(begun) - len(inside) > 12  # whose stop texts are nowhere in the answer
    stopped = run(engine, job(model, stop=stops), asked, tmp_path)
    assert {key: stopped[key] for key in free if key not in inside} == {
        key: free[key] for key in free if key not in inside
    }
    key = next(key for key in begun if key not in inside)
    assert run(engine, job(model, stop=stops), [asked[key]], tmp_path) == {key: free[key]}


def test_settings_in_a_models_own_files_change_no_sample(model, sampled, tmp_path):
    """As of the engine that most cells are scored with: vLLM takes those of the protocol alone."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    own = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "suppress_tokens": [20, 21], "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(own))
    few = run(Engine.transformers, job(folder), requests(folder, 24)[:6], tmp_path)
    assert few == {key: sampled[Engine.transformers][key] for key in few}


def test_greedy_texts_agree_between_the_engines(model, tmp_path):
    texts = [run(engine, job(model, temperature=0.0), requests(model, 16), tmp_path) for engine in INSTALLED]
    assert all(text == texts[0] for text in texts)
    assert len({completion.text for completion in texts[0].values()}) > 8


@both
def test_engine_seeds(engine, model, tmp_path):
    first, again, other = (
        run(engine, job(model, seed=seed, max_new_tokens=12), requests(model, 8, seeded=False), tmp_path)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert sum(first[key].text != other[key].text for key in first) >= 7


@both
def test_a_dead_engine_is_one_clear_error(engine, model, tmp_path):
    # The first message is already on its way when the process is killed, and must still come out.
    with pytest.raises(RuntimeError, match=r"the engine was killed.*engine\.log; repeat the command"):
        with Generation(engine, job(model, max_new_tokens=400), requests(model, 200), tmp_path / "engine.log") as g:
            for process in g._engines.values():
                os.kill(process.pid, signal.SIGKILL)
            list(g)


@both
def test_a_model_that_cannot_be_loaded_is_one_clear_error(engine, model, tmp_path):
    (tmp_path / "broken").mkdir()
    for file in model.iterdir():
        content = file.read_bytes()
        (tmp_path / "broken" / file.name).write_bytes(content[: 100 if file.suffix == ".safetensors" else None])
    with pytest.raises(RuntimeError, match="the engine failed: .*engine.log") as caught:
        run(engine, job(tmp_path / "broken"), requests(model, 2), tmp_path)
    assert "\n" not in str(caught.value)
    assert "Traceback" in (tmp_path / "engine.log").read_text()


@pytest.mark.parametrize("end", ["the caller fails", "the engine is killed", "the engine ends"])
def test_no_process_of_an_engine_outlives_it(model, tmp_path, end):
    requests = ["leave" if end == "the engine ends" else "stay"]
    with suppress(RuntimeError, ZeroDivisionError):
        with Generation(
            Engine.transformers, job(model), requests, tmp_path / "engine.log", "engine_with_child"
        ) as generation:
            for samples in generation:
                for child in samples:
                    assert is_running(child)
                    if end == "the caller fails":
                        raise ZeroDivisionError
                    if end == "the engine is killed":
                        (process,) = generation._engines.values()
                        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_engine_that_loads_ends_with_its_caller(model, tmp_path):
    """The kill hits the caller alone, as that of a terminal's or of SLURM's group of processes does."""
    code = (
        "import sys, time; from pathlib import Path; from losslab.config.choices import Device\n"
        "from losslab.config.schema import Engine; from losslab.evaluation.engine_interface import Job, Sampling\n"
        "from losslab.evaluation.engines import Generation; sys.path.insert(0, sys.argv[1])\n"
        "job = Job('', Sampling(1.0, 1.0, 8), threads=1, device=Device.cpu)\n"
        "Generation(Engine.transformers, job, ['load'], Path(sys.argv[2]), 'engine_with_child')\n"
        "time.sleep(600)"
    )
    log = tmp_path / "engine.log"
    caller = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(log)])
    deadline = time.monotonic() + PATIENCE
    while not log.exists() or not log.read_text().strip():
        assert caller.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child = int(log.read_text().split()[0])
    assert is_running(child)
    caller.kill()
    caller.wait()
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Whether a process is there, and not only its exit status, which nobody may fetch."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_requests_start_no_engine(model, tmp_path):
    assert run(Engine.transformers, job(model), [], tmp_path) == {}


def test_noise_samples_from_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(20_000, 4)
    for temperature, top_p in [(1.0, 1.0), (0.5, 1.0), (1.0, 0.8)]:
        chosen = Noise(temperature, top_p, list(range(20_000)), logits.device)(None, logits).argmax(-1)
        expected = (logits[0] / temperature).softmax(-1)
        if top_p == 0.8:  # 0.644 and 0.237 are enough
            expected = torch.tensor([0.7311, 0.2689, 0, 0])
        assert chosen.bincount(minlength=4) / 20_000 == pytest.approx(expected, abs=0.012)


def test_noise_of_a_row_depends_on_its_seed_alone():
    """Whatever is beside it and where it lies; on a CPU samples stay those of old records."""
    logits = torch.randn(3, 5001, generator=torch.Generator().manual_seed(0)).bfloat16()
    noise, alone = Noise(0.7, 1.0, [5, 9, 5], logits.device), Noise(0.7, 1.0, [9], logits.device)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 9, 5)]
    for _ in range(2):
        drawn = torch.stack([torch.empty(5001).exponential_(generator=generator) for generator in generators])
        found = noise(None, logits)
        assert torch.equal(found, logits.float() / 0.7 - drawn.log())
        assert torch.equal(alone(None, logits[1:2])[0], found[1])


def test_request_seeds_are_fixed_by_what_names_the_sample():
    assert engine_interface.request_seed(0, "math500", 0, 0) == 0xA317AE0C
    assert engine_interface.request_seed(0, "math500", 0, 1) != engine_interface.request_seed(0, "math500", 1, 0)
    seeds = {engine_interface.request_seed(0, "math500", i, j) for i in range(500) for j in range(16)}
    assert len(seeds) == 8000 and max(seeds) < 2**32


def test_engines_side_by_side_draw_samples_of_their_own(model, tmp_path, monkeypatch):
    """Two engines, as on two GPUs, with the engine's seed: equal prompts in equal places get different samples."""
    monkeypatch.setattr(engines, "gpu_groups", lambda device, size=1: ["", ""] if device == Device.cpu else [])
    prompt = requests(model, 1)[0].prompt
    found = run(INSTALLED[0], job(model), [Request(i, prompt) for i in range(16)], tmp_path)
    assert len({completion.text for completion in found.values()}) == 16


def test_one_engine_for_each_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert engines.gpu_groups(Device.auto) == ["0", "1", "2", "3"]
    assert engines.gpu_groups(Device.auto, size=2) == ["0,1", "2,3"]
    assert engines.gpu_groups(Device.auto, size=3) == ["0,1,2"]
    assert engines.gpu_groups(Device.cpu) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert engines.gpu_groups(Device.cuda) == ["2", "5"]
    with pytest.raises(ValueError, match="one engine needs 4 GPUs and 2 are visible"):
        engines.gpu_groups(Device.auto, size=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no GPU is visible"):
        engines.gpu_groups(Device.cuda)


def test_the_choice_of_an_engine(monkeypatch):
    installed = {"vllm", "transformers"}
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name in installed or None)
    assert engines.choose(Engine.auto) == Engine.vllm
    assert engines.choose(Engine.transformers) == Engine.transformers
    installed.remove("vllm")
    assert engines.choose(Engine.auto) == Engine.transformers
    with pytest.raises(ValueError, match="vLLM is not installed"):
        engines.choose(Engine.vllm)
    installed.remove("transformers")
    with pytest.raises(ValueError, match="no engine is installed"):
        engines.choose(Engine.auto)


def test_versions_are_known():
    assert all(engines.version(engine)[0].isdigit() for engine in INSTALLED)


def test_the_parent_imports_no_engine():
    assert "vllm" not in sys.modules
