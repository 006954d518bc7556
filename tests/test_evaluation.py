"""The whole evaluation of a tiny random model: records, scores, continuation."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest
import warm
import yaml
from endpoint import Endpoint
from tiny_models import random_toy_model

from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.config.prompt import ExampleConfig, PromptConfig
from losslab.config.schema import BenchmarkConfig, Config, Engine, EvalConfig, ModelConfig
from losslab.evaluation import engine_interface, engines, scores
from losslab.evaluation.benchmarks import changed, load, source
from losslab.evaluation.evaluate import evaluate, show
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.grading.version import grader_version
from losslab.results.right_shares import right_shares

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
    assert f"3 samples of each problem in place of the protocol's {config.eval.full_samples}" in warnings
    assert "cut by length (max_new_tokens=16)" in warnings
    assert "1 problem is longer than the model's context" in warnings
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


def test_scores_page_and_warnings_are_of_all_benchmarks_of_the_folder(config, model, tmp_path):
    config.prompt = PromptConfig(examples=[ExampleConfig("2+2=?", "4")])
    folder, two = tmp_path / "scores", {"two": BenchmarkConfig(path=str(tmp_path / "two.jsonl"))}
    first = evaluate(config, str(model), folder)
    write_lines(folder / "judge.jsonl", [{"benchmark": "one", "index": 0, "right": True}])  # what `losslab judge` keeps
    both = evaluate(replace(config, benchmark=two), str(model), folder)
    assert list(both["benchmarks"]) == ["one", "two"] and both["benchmarks"]["one"] == first["benchmarks"]["one"]
    assert both["examples"] == {"one": 1, "two": 1}
    assert set(first["warnings"]) < set(both["warnings"]) and len(set(both["warnings"])) == len(both["warnings"])
    of_one = [text.removeprefix("one: ") for text in first["warnings"] if text.startswith("one: ")]
    assert len(of_one) == 4  # no column level, a worked example, cut by length, too long
    assert [text.removeprefix("two: ") for text in both["warnings"] if text.startswith("two: ")] == [
        text for text in of_one if "level" not in text
    ]
    (payload,) = re.findall(r'id="payload">(.*?)</script>', (folder / "samples.html").read_text())
    assert list(json.loads(payload)["benchmarks"]) == ["one", "two"]


class Two(Endpoint):
    def answer(self, body: dict) -> str:
        return "So it is \\boxed{2}."


class Told(Endpoint):
    bodies: ClassVar[list[dict]] = []

    def answer(self, body: dict) -> str:
        self.bodies.append(body)
        return "2"


@pytest.mark.parametrize(
    ("temperature", "requested", "seeds"), [(1.0, True, "sample"), (1.0, False, "none"), (0.0, False, "engine")]
)
def test_an_endpoint_is_sent_no_seed_that_all_samples_would_share(config, tmp_path, temperature, requested, seeds):
    """A server answers one prompt and one seed with one text, so that the samples of a problem would be one.

    Greedy answers are one text in any case, and keep the seed that earlier versions sent.
    """
    seeded = seeds != "none"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Told.bodies.clear()
    config.model.path, config.eval.request_seeds, config.eval.temperature = "served", requested, temperature
    config.machine = MachineConfig(engine=Engine.api, api_url=f"http://127.0.0.1:{server.server_port}/v1")
    result = evaluate(config, "served", tmp_path / "scores")
    server.shutdown()
    server.server_close()
    assert result["seeds"] == seeds
    assert len(Told.bodies) == 18
    assert len({body.get("seed") for body in Told.bodies}) == (18 if seeds == "sample" else 1)
    assert all(("seed" in body) == seeded for body in Told.bodies)


def test_the_cost_of_a_served_model_is_that_of_all_samples_of_the_folder(config, tmp_path):
    config.model.path, urls = "served", []
    for i, benchmark in enumerate(("one", "two", "one")):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Two)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls.append(f"http://127.0.0.1:{server.server_port}/v1")
        config.machine = MachineConfig(engine=Engine.api, api_url=urls[i], api_prices=[1.0, 2.0])
        config.benchmark = {benchmark: BenchmarkConfig(path=str(tmp_path / f"{benchmark}.jsonl"))}
        result = evaluate(config, "served", tmp_path / "scores")
        server.shutdown()
        server.server_close()
        samples = 18 if i == 0 else 36
        dollars = pytest.approx(samples * (100 + 2 * 10) / 1e6)
        assert result["cost"] == {
            "prompt_tokens": 100 * samples, "tokens": 10 * samples, "prices": [1.0, 2.0], "dollars": dollars,
        }  # fmt: skip
    assert result["endpoint"] == ", ".join(sorted(urls[:2]))  # the third was asked nothing


class Halves(Endpoint):
    def answer(self, body: dict) -> str:
        return "\ud83d It \ude00 is \ud83d\ude00 \\boxed{2}."


def test_halves_of_surrogate_pairs_in_an_answer_are_replaced(config, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Halves)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config.model.path = "served"
    config.machine = MachineConfig(engine=Engine.api, api_url=f"http://127.0.0.1:{server.server_port}/v1")
    result = evaluate(config, "served", tmp_path / "scores")
    server.shutdown()
    server.server_close()
    texts = {sample["text"] for record in records(tmp_path / "scores") for sample in record["samples"]}
    assert texts == {"\ufffd It \ufffd is \U0001f600 \\boxed{2}."}
    assert result["benchmarks"]["one"]["score"] == pytest.approx(100 / 6)


def test_samples_are_stored_in_utf_8_whatever_the_locale_is(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom losslab.evaluation.benchmarks import Benchmark\n"
        "from losslab.evaluation.samples import Samples\n"
        "with Samples(Path(sys.argv[1]), [Benchmark('one', [], '')], None) as samples:\n"
        "    samples.keep(('one', 0, 0), {'text': chr(0xe9)})"
    )
    environment = os.environ | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    assert json.loads((tmp_path / "one.samples.jsonl").read_text(encoding="utf-8"))["text"] == "é"


def test_each_benchmark_keeps_its_number_of_samples(config, model, tmp_path, capsys):
    folder, two = tmp_path / "scores", {"two": BenchmarkConfig(path=str(tmp_path / "two.jsonl"))}
    first = evaluate(config, str(model), folder)

    def scored(samples: int, **changes) -> dict[str, int]:
        scored = evaluate(replace(config, eval=replace(config.eval, samples=samples), **changes), str(model), folder)
        warnings.extend(text for text in scored["warnings"] if "of each problem" in text)
        return {name: row["samples"] for name, row in scored["benchmarks"].items()}

    warnings: list[str] = []
    assert scored(2, benchmark=two) == {"one": 3, "two": 2}
    assert scored(4, benchmark=two) == {"one": 3, "two": 4}
    assert warnings[-2:] == [
        "one: 3 samples of each problem in place of the protocol's 16",
        "two: 4 samples of each problem in place of the protocol's 16",
    ]
    assert "stored samples" not in capsys.readouterr().out
    assert scored(1) == {"one": 1, "two": 4}
    assert "one: the scores are of the first 1 of 3 stored samples of each problem" in capsys.readouterr().out
    assert [len(record["samples"]) for record in records(folder)] == [3] * 6
    assert scored(2, benchmark=two) == {"one": 1, "two": 2}
    again = evaluate(config, str(model), folder)
    assert again["benchmarks"]["one"] == first["benchmarks"]["one"]


def test_what_made_the_samples_is_a_set_of_facts(config, model, tmp_path, monkeypatch):
    found = []
    for samples, version, dtype in (
        (1, "0.2", "float32"),
        (2, "0.1", "bfloat16"),
        (3, "0.2", "float32"),
        (3, "9", "9"),
    ):
        monkeypatch.setattr(engines, "version", lambda engine, version=version: version)
        monkeypatch.setattr(engines, "dtype", lambda job, dtype=dtype: dtype)
        config.eval.samples = samples
        result = evaluate(config, str(model), tmp_path / "scores")
        found.append((result["engine_version"], result["generation"]["dtype"]))
    assert found == [("0.2", "float32"), *[("0.1, 0.2", "bfloat16, float32")] * 3]  # the last call sampled nothing


def test_answers_that_the_context_cuts_are_counted(config, model, tmp_path):
    """The context has 256 tokens, so that none can be longer than 250."""
    config.eval.max_new_tokens = 400
    result = evaluate(config, str(model), tmp_path / "scores")
    told = [text for text in result["warnings"] if "where the context ended" in text]
    samples = [sample for record in records(tmp_path / "scores") for sample in record["samples"]]
    cut = [sample["tokens"] for sample in samples if sample["finish_reason"] == "length"]
    assert 0 < len(cut) < 18 and max(cut) < 256
    what = "1 sample was" if len(cut) == 1 else f"{len(cut)} samples were"
    assert told == [f"one: {what} cut where the context ended, before max_new_tokens=400"]


def test_samples_behind_a_gap_and_verdicts_that_ran_out_of_time_wait_for_the_next_call(config, model, tmp_path):
    folder = tmp_path / "scores"
    evaluate(config, str(model), folder)
    rows = records(folder)
    lines = [{"index": row["index"], "sample": 5, **row["samples"][0], "text": "kept"} for row in rows[:2]]
    for sample in rows[0]["samples"]:  # as if grading had run out of time
        sample |= {"extracted": "7", "official": True, "timed_out": True}
    write_lines(folder / "one.jsonl", rows)
    write_lines(folder / "one.samples.jsonl", lines)
    evaluate(config, str(model), folder)
    assert not any(sample["timed_out"] or sample["official"] for sample in records(folder)[0]["samples"])
    evaluate(replace(config, eval=replace(config.eval, samples=6)), str(model), folder)
    assert [[sample["text"] == "kept" for sample in row["samples"]] for row in records(folder)[:3]] == [
        [False] * 5 + [True], [False] * 5 + [True], [False] * 6,
    ]  # fmt: skip
    assert not (folder / "one.samples.jsonl").exists()


def test_a_changed_benchmark_is_noticed(config, tmp_path):
    before = {name: load(name, about).sha256 for name, about in config.benchmark.items()}
    assert changed(before, config.benchmark, None) == []
    stopped = {"one": replace(config.benchmark["one"], stop=["!"])}
    assert changed(before, stopped, None) == ["one"]
    gone = {"one": replace(config.benchmark["one"], path=str(tmp_path / "gone.jsonl"))}
    assert changed(before, gone, None) == [] and changed(before, {"other": config.benchmark["one"]}, None) == []
    file = tmp_path / "copy.jsonl"
    file.write_text((tmp_path / "one.jsonl").read_text().replace("3+3", "33+3"))
    assert changed(before, {"one": replace(config.benchmark["one"], path=str(file))}, None) == ["one"]


def test_scores_say_what_each_benchmark_was_read_from(config, model, tmp_path):
    """Also of those that an earlier call scored."""
    folder, two = tmp_path / "scores", {"two": BenchmarkConfig(path=str(tmp_path / "two.jsonl"))}
    assert evaluate(config, str(model), folder)["sources"] == {name: {"local": True} for name in config.benchmark}
    hub = {"path": "me/sums", "revision": "abc", "subset": "main"}
    write_json(folder / "scores.json", read_json(folder / "scores.json") | {"sources": {"one": hub}})
    assert evaluate(replace(config, benchmark=two), str(model), folder)["sources"] == {
        "one": hub,
        "two": {"local": True},
    }
    found = BenchmarkConfig(path="me/sums", revision="abc", subset="main")
    assert source(found, None) == hub and source(found, str(tmp_path)) == {"local": True}
    assert source(BenchmarkConfig(path="lm_eval:ifeval"), str(tmp_path)) == {"path": "lm_eval:ifeval"}


def test_a_score_never_mixes_two_versions_of_the_grader(config, model, tmp_path, capsys):
    folder, two = tmp_path / "scores", {"two": BenchmarkConfig(path=str(tmp_path / "two.jsonl"))}
    both = replace(config, benchmark=config.benchmark | two)
    first = evaluate(both, str(model), folder)
    assert first["graders"] == {"one": grader_version(), "two": grader_version()}
    right = {name: (folder / f"{name}.jsonl").read_bytes() for name in ("one", "two")}

    def graded_otherwise(name: str, grader: dict[str, str]) -> None:
        rows = [{key: value for key, value in row.items() if key != "grader"} | grader for row in records(folder, name)]
        for row in rows:
            row["samples"] = [sample | {"official": True, "extracted": "7"} for sample in row["samples"]]
        write_lines(folder / f"{name}.jsonl", rows)

    graded_otherwise("one", {"grader": grader_version()})  # its verdicts stay
    assert evaluate(config, str(model), folder)["benchmarks"]["one"]["official"] == 100
    assert "graded again" not in capsys.readouterr().out
    graded_otherwise("one", {"grader": "another"})
    graded_otherwise("two", {})
    more = replace(config, eval=replace(config.eval, samples=4))
    result = evaluate(more, str(model), folder)  # a sample more of each problem
    assert (
        "one: another version of the grader graded the stored samples; all are graded again" in capsys.readouterr().out
    )
    assert result["benchmarks"]["one"]["official"] == 0 and result["benchmarks"]["two"]["official"] == 100
    assert result["graders"] == {"one": grader_version(), "two": None}
    told = "two: graded by an unknown version of the grader: score it again for the same one"
    assert told in result["warnings"]
    assert evaluate(both, str(model), folder) == first | {"engine_version": first["engine_version"]} | {
        "generation": result["generation"]
    }
    assert "two: an unknown version of the grader graded the stored samples" in capsys.readouterr().out
    assert (folder / "two.jsonl").read_bytes() == right["two"]


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


@pytest.mark.drill
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
        if not warm.in_session(process.pid):
            break
        time.sleep(0.1)
    assert not warm.in_session(process.pid)

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
