"""The whole evaluation of a tiny random model: records, scores, continuation."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tiny_models import random_toy_model

from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.config.schema import BenchmarkConfig, Config, Engine, EvalConfig, ModelConfig
from losslab.evaluation import engine_interface, engines, scores
from losslab.evaluation.evaluate import evaluate, show
from losslab.files import write_json
from losslab.results.compare import right_shares

ENGINES = [Engine.vllm, Engine.transformers] if find_spec("vllm") else [Engine.transformers]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return random_toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(tmp_path, model) -> Config:
    rows = [{"question": f"{i}+{i}=?", "answer": str(2 * i), "size": i // 3} for i in range(5)]
    rows.append({"question": "1+" * 300 + "1=?", "answer": "301"})  # more tokens than the context has
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Config(
        model=ModelConfig(path=str(model)),
        eval=EvalConfig(samples=3, max_new_tokens=16, full_samples=16),
        benchmark={"one": BenchmarkConfig(path=str(tmp_path / "one.jsonl"), breakdown=["size", "level"])},
        machine=MachineConfig(engine=Engine.transformers, device=Device.cpu, threads=1),
    )


def records(folder: Path, name: str = "one") -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_evaluation_writes_its_records(engine, config, model, tmp_path, capsys):
    config.machine.engine = engine
    folder = tmp_path / "scores"
    result = evaluate(config, str(model), folder)
    assert result == json.loads((folder / "scores.json").read_text())
    assert {path.name for path in folder.iterdir()} == {
        "one.jsonl",
        "protocol.yaml",
        "scores.json",
        "samples.html",
        "engine.log",
    }
    rows = records(folder)
    assert [row["index"] for row in rows] == list(range(6))
    assert rows[3]["question"] == "3+3=?" and rows[3]["gold"] == rows[3]["gold_official"] == "6"
    assert rows[3]["prompt"] == "<|user|>3+3=?<|end|><|assistant|>"
    for row in rows:
        assert [set(sample) for sample in row["samples"]] == [
            {"text", "finish_reason", "tokens", "end_token", "seed", "extracted", "official", "corrected", "timed_out"}
        ] * 3
        assert [s["seed"] for s in row["samples"]] == [
            engine_interface.request_seed(0, "one", row["index"], j) for j in range(3)
        ]
    assert {s["finish_reason"] for s in rows[5]["samples"]} == {"too_long"}
    row = result["benchmarks"]["one"]
    assert row["problems"] == 6 and row["samples"] == 3 and row["too_long"] == 1
    assert row == scores.summarise(rows, 3, "official")
    assert result["engine"] == engine and result["seeds"] == "sample" and result["engine_version"]
    assert result["generation"]["samples"] == 15 and result["generation"]["tokens"] > 0
    assert result["generation"]["dtype"] == "float32"
    assert {name: shares.shape for name, shares in right_shares(folder, result, "corrected").items()} == {"one": (6,)}
    warnings = " / ".join(result["warnings"])
    assert "3 samples of each problem in place of the protocol's 16" in warnings
    assert "cut by length (max_new_tokens=16)" in warnings
    assert "1 problems are longer than the model's context" in warnings
    assert "chat template" not in warnings
    assert "one: no row has the column level, so there is no breakdown by it" in warnings
    assert [row.get("groups") for row in rows[2:]] == [{"size": "0"}, {"size": "1"}, {"size": "1"}, None]
    assert {value: part["problems"] for value, part in row["breakdown"]["size"].items()} == {"0": 3, "1": 2}
    show(result, folder)
    printed = capsys.readouterr()
    assert "| one avg@3 |" in printed.out and f"samples to read: {folder / 'samples.html'}" in printed.out
    assert printed.err.count("warning: ") == len(result["warnings"])


def test_only_what_is_missing_is_generated(config, model, tmp_path):
    folder = tmp_path / "scores"
    first = evaluate(config, str(model), folder)
    before = (folder / "one.jsonl").read_bytes()
    log = (folder / "engine.log").stat().st_size
    assert evaluate(config, str(model), folder) == first  # what the samples took included
    assert (folder / "engine.log").stat().st_size == log  # no engine was started
    write_json(folder / "scores.json", first | {"engine_version": "0.1"})
    assert evaluate(config, str(model), folder)["engine_version"] == "0.1"  # which made the samples

    more = replace(config, benchmark=config.benchmark | {"two": BenchmarkConfig(path=str(tmp_path / "two.jsonl"))})
    added = evaluate(more, str(model), folder)
    assert added["generation"]["samples"] == 15 and added["engine_version"] == f"0.1, {first['engine_version']}"
    assert (folder / "one.jsonl").read_bytes() == before

    # An interrupted run: half of the samples of `two`, the last line torn.
    lines = [
        json.dumps(
            {
                "index": row["index"],
                "sample": j,
                **{k: sample[k] for k in ("text", "finish_reason", "tokens", "end_token", "seed")},
            }
        )
        for row in records(folder, "two")
        for j, sample in enumerate(row["samples"])
    ]
    complete = records(folder, "two")
    (folder / "two.jsonl").unlink()
    (folder / "two.samples.jsonl").write_text("\n".join(lines[:7]) + "\n" + lines[7][:20])
    assert evaluate(more, str(model), folder)["generation"]["samples"] == 8
    assert records(folder, "two") == complete

    more.eval.samples = 4  # a sample more of each problem
    assert evaluate(more, str(model), folder)["generation"]["samples"] == 10
    assert [row["samples"][:3] for row in records(folder, "two")] == [row["samples"] for row in complete]


def test_other_protocols_do_not_mix(config, model, tmp_path):
    folder = tmp_path / "scores"
    evaluate(config, str(model), folder)
    hotter = replace(config, eval=replace(config.eval, temperature=1.5))
    with pytest.raises(ValueError, match=r"samples of another protocol \(temperature: 1.0, now 1.5\); use another"):
        evaluate(hotter, str(model), folder)
    (tmp_path / "one.jsonl").write_text(json.dumps({"question": "9+9=?", "answer": "18"}))
    with pytest.raises(ValueError, match=r"samples of another protocol \(benchmarks"):
        evaluate(config, str(model), folder)
    assert len(records(folder)) == 6


def test_prompts_stops_and_warnings_follow_the_model(config, model, tmp_path):
    config.model.eval_prompt = "User: {problem}\n\nAssistant:"
    config.model.stop = ["\n\n", "<|user|>", "</s>"]
    result = evaluate(config, str(model), tmp_path / "scores")
    protocol = yaml.safe_load((tmp_path / "scores/protocol.yaml").read_text())
    assert protocol["stop"] == ["\n\n", "</s>"]
    assert protocol["stop_ids"] == [1, 3]  # <|end|>, and <|user|>, which no text shows
    assert records(tmp_path / "scores")[2]["prompt"] == "User: 2+2=?\n\nAssistant:"
    assert "the prompt does not end as the model's own chat template does" in result["warnings"]


def test_greedy_decoding(config, model, tmp_path):
    config.eval = EvalConfig(samples=2, temperature=0.0, max_new_tokens=8)
    evaluate(config, str(model), tmp_path / "scores")
    for record in records(tmp_path / "scores"):
        assert record["samples"][0]["text"] == record["samples"][1]["text"]


def test_mistakes_are_one_clear_sentence(config, model, tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="no tokenizer can be loaded from .*bare"):
        evaluate(config, str(tmp_path / "bare"), tmp_path / "scores")
    shutil.copytree(model, tmp_path / "silent", ignore=shutil.ignore_patterns("*token*", "chat*"))
    with pytest.raises(ValueError, match="silent has no tokenizer: copy that of the model"):
        evaluate(config, str(tmp_path / "silent"), tmp_path / "scores")
    with pytest.raises(ValueError, match="no benchmark is chosen"):
        evaluate(replace(config, benchmark={}), str(model), tmp_path / "scores")
    with pytest.raises(ValueError, match="no benchmark one in"):
        evaluate(replace(config, eval=replace(config.eval, data=str(model))), str(model), tmp_path / "scores")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="no engine is installed"):
        evaluate(config, str(model), tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


KILLED = """
import sys
from pathlib import Path
from losslab.config.choices import Device, Engine
from losslab.config.machine import MachineConfig
from losslab.config.schema import BenchmarkConfig, Config, EvalConfig, ModelConfig
from losslab.evaluation.evaluate import evaluate

if __name__ == "__main__":
    engine, model, data, folder = sys.argv[1:]
    evaluate(Config(
        model=ModelConfig(path=model), eval=EvalConfig(samples=4, max_new_tokens=300),
        benchmark={"tiny_add": BenchmarkConfig(path="embedded", question="question")},
        machine=MachineConfig(engine=Engine(engine), device=Device.cpu, threads=1)), model, Path(folder))
"""


def test_a_killed_evaluation_goes_on_where_it_was(model, tmp_path):
    """A real SIGKILL of the caller: its engine leaves too, and the second call generates only what is missing."""
    engine, folder = ENGINES[0], tmp_path / "scores"
    (tmp_path / "script.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "script.py"), engine, str(model), str(tmp_path), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    samples = folder / "tiny_add.samples.jsonl"
    deadline = time.monotonic() + 900
    while not (samples.exists() and samples.read_text().count("\n") >= 20):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    process.kill()
    process.wait()
    for _ in range(200):  # the engine and its server notice it
        if not alive(process.pid):
            break
        time.sleep(0.1)
    assert not alive(process.pid)

    kept = [json.loads(line) for line in samples.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert 20 <= len(kept) < 4 * 40
    config = Config(
        model=ModelConfig(path=str(model)),
        eval=EvalConfig(samples=4, max_new_tokens=300),
        benchmark={"tiny_add": BenchmarkConfig(path="embedded", question="question")},
        machine=MachineConfig(engine=engine, device=Device.cpu, threads=1),
    )
    result = evaluate(config, str(model), folder)
    total = sum(len(record["samples"]) for record in records(folder, "tiny_add"))
    assert result["generation"]["samples"] == total - len(kept)
    for line in kept:
        assert records(folder, "tiny_add")[line["index"]]["samples"][line["sample"]]["text"] == line["text"]


def alive(session: int) -> bool:
    """Whether a process of the session is left."""
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True).stdout
    return bool(found.strip())


def test_an_engine_that_dies_keeps_what_is_finished(config, model, tmp_path, monkeypatch):
    """The engine is killed when its first batch is on disk."""
    folder = tmp_path / "scores"
    config.eval.samples = 30
    original = engines.Generation.__iter__

    def killed_after_one(self):
        for completions in original(self):
            yield completions
            if completions:
                for process in self._engines.values():
                    process.kill()

    monkeypatch.setattr(engines.Generation, "__iter__", killed_after_one)
    with pytest.raises(RuntimeError, match="the engine was killed.*repeat the command"):
        evaluate(config, str(model), folder)
    kept = (folder / "one.samples.jsonl").read_text().count("\n")
    assert 30 + 64 <= kept < 180 and not (folder / "scores.json").exists()
    monkeypatch.setattr(engines.Generation, "__iter__", original)
    assert evaluate(config, str(model), folder)["generation"]["samples"] == 180 - kept
