"""Scores of a cell over its steps, scoring it again from its record, adapters, and two runs compared."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import warm
import yaml
from huggingface_hub import HfApi
from place import LOSSLAB
from safetensors.torch import load_file
from tiny_models import random_toy_model
from transformers import AutoModelForCausalLM

from losslab.cells.scoring import corpus, find, score, score_again
from losslab.composition.compose import recorded_config
from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.config.schema import (
    BenchmarkConfig,
    Config,
    DatasetConfig,
    Engine,
    EvalConfig,
    ModelConfig,
    Names,
    OptimizerConfig,
    VerdictName,
)
from losslab.data import hub_datasets
from losslab.evaluation import evaluate as run_module
from losslab.evaluation import transformers_engine
from losslab.evaluation.engine_interface import Job, Sampling
from losslab.evaluation.evaluate import evaluate
from losslab.files.json_files import read_json, read_lines, write_json, write_lines
from losslab.models import merged_adapters
from losslab.models.loading import load_config, load_model, load_tokenizer
from losslab.planning.architecture import describe
from losslab.records.record import Cell
from losslab.results import learning_curves
from losslab.results.compare import compare
from losslab.results.right_shares import right_shares
from losslab.statistics.intervals import paired

HERE = ["machine.engine=transformers", "machine.device=cpu", "machine.threads=1"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    return [random_toy_model(tmp_path_factory.mktemp("models") / str(seed), seed) for seed in range(3)]


def make(folder: Path, models: list[Path], questions: list[str], **scoring) -> tuple[Config, Cell]:
    """A trained cell with two exported steps; the golds are what the finished model answers, so that it scores 100."""
    write_lines(folder / "rows.jsonl", [{"problem": q, "solution": "?"} for q in questions[:3]])
    config = Config(
        model=ModelConfig(path=str(models[0])),
        dataset=DatasetConfig(path=str(folder / "rows.jsonl")),
        loss={"_target_": "losslab.objectives.sft.SFT"},
        optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=1e-3),
        eval=EvalConfig(samples=1, temperature=0.0, max_new_tokens=16, verdict=VerdictName.official, **scoring),
        benchmark={"mine": BenchmarkConfig(path=str(folder / "mine.jsonl"))},
        names=Names(model="tiny", dataset="rows", loss="sft", eval="greedy"),
        machine=MachineConfig(
            results=str(folder / "results"), engine=Engine.transformers, device=Device.cpu, threads=1
        ),
    )
    write_lines(folder / "mine.jsonl", [{"question": q, "answer": "7"} for q in questions])
    evaluate(config, str(models[2]), folder / "answers")
    answers = [json.loads(line)["samples"][0] for line in (folder / "answers/mine.jsonl").read_text().splitlines()]
    golds = [answer["extracted"] or "7" for answer in answers]
    write_lines(folder / "mine.jsonl", [{"question": q, "answer": g} for q, g in zip(questions, golds, strict=True)])
    cell = Cell.of(config)
    cell.declare(config)
    cell.begin(config)
    shutil.copytree(models[2], cell.model)
    for step, model in {2: models[0], 4: models[1], 6: models[2]}.items():
        shutil.copytree(model, cell.folder / "steps" / f"{step:08d}")
    shutil.copytree(models[0], cell.folder / "steps" / ".00000005.writing")
    write_lines(cell.metrics, [{"step": step} for step in range(1, 7)])
    return config, cell


@pytest.fixture(scope="module")
def made(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cell")
    config, cell = make(folder, models, [f"{i}+{i * i}=?" for i in range(3, 11)])
    everything = {None: str(cell.model)} | {step: str(path) for step, path in cell.steps().items()}
    assert not cell.done(config)
    score(config, cell, everything)
    return config, cell


def run(root: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return warm.run([*LOSSLAB, *arguments], folder)


def test_every_step_is_scored_once_and_under_the_same_protocol(made):
    config, cell = made
    assert sorted(cell.steps()) == [2, 4]  # 6 is the finished model, and what has no eight digits is being written
    assert cell.done(config)
    folder = cell.scores(config)
    found = learning_curves.scores_by_step(folder, cell.metrics)
    assert list(found) == [2, 4, 6]
    assert found[6]["benchmarks"]["mine"]["score"] == found[6]["average"]["score"]
    assert found[2]["average"]["score"] < found[6]["average"]["score"] > 50
    protocols = [yaml.safe_load((path / "protocol.yaml").read_text()) for path in (folder, folder / "steps/00000004")]
    assert [p.pop("weights") for p in protocols][0] != protocols[1].pop("weights", None)
    assert protocols[0] | {"model": ""} == protocols[1] | {"model": ""}


def test_only_steps_that_are_missing_are_scored(made, capsys):
    config, cell = made
    steps = cell.scores(config) / "steps"
    kept = (steps / "00000002/scores.json").stat().st_mtime_ns
    (steps / "00000004/scores.json").unlink()
    assert not cell.done(config)
    score(config, cell, {step: str(path) for step, path in cell.steps().items()})
    assert cell.done(config) and (steps / "00000002/scores.json").stat().st_mtime_ns == kept
    assert read_json(steps / "00000004/scores.json")["generation"].get("samples") is None  # they were there
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "| step | mine | average |" and [line.split("|")[1].strip() for line in out[2:]] == ["2", "4", "6"]


def test_steps_are_graded_by_the_version_that_grades_the_finished_model(made):
    config, cell = made
    place = cell.scores(config) / "steps/00000004"
    kept, rows = read_json(place / "scores.json"), read_lines(place / "mine.jsonl")
    for row in rows:
        row["grader"] = "another"
        row["samples"] = [sample | {"official": not sample["official"]} for sample in row["samples"]]
    write_lines(place / "mine.jsonl", rows)
    write_json(place / "scores.json", kept | {"graders": {"mine": "another"}})
    score(config, cell, {step: str(path) for step, path in cell.steps().items()})
    assert read_json(place / "scores.json") == kept


def test_problems_in_the_rows_of_training_are_counted(made, models, tmp_path):
    config, cell = made
    result = read_json(cell.scores(config) / "scores.json")
    row = result["benchmarks"]["mine"]
    assert (row["seen_exact"], row["seen_words"]) == (3, 0)
    right = [record["samples"][0]["official"] for record in map(json.loads, open(cell.scores(config) / "mine.jsonl"))]
    assert row["unseen"] == pytest.approx(100 * sum(right[3:]) / 5)
    (warning,) = [text for text in result["warnings"] if "training data" in text]
    assert warning == (
        "mine: the training data holds the question of 3 of 8 problems, and 13 consecutive words of the question of 0; "
        f"{row['unseen']:.1f} on the others"
    )
    page = (cell.scores(config) / "samples.html").read_text()
    (payload,) = re.findall(r'id="payload">(.*?)</script>', page)
    problems = json.loads(payload)["benchmarks"]["mine"]["problems"]
    assert [problem.get("seen", False) for problem in problems] == [True] * 3 + [False] * 5
    assert corpus(replace(config, loss={"_target_": "losslab.objectives.base.Base"})) is None
    other = replace(config.dataset, rows=1)
    assert corpus(config).key == corpus(config).key != corpus(replace(config, dataset=other)).key

    lost = replace(config, dataset=replace(config.dataset, path=str(tmp_path / "gone.jsonl")))
    result = evaluate(lost, str(models[2]), tmp_path / "scores", corpus(lost))
    assert result["benchmarks"]["mine"]["seen_exact"] is None
    assert any(
        "the training data could not be searched for benchmark problems: " in text for text in result["warnings"]
    )
    result = evaluate(config, str(models[2]), tmp_path / "foreign")
    assert result["benchmarks"]["mine"]["seen_exact"] is None and not any("training" in w for w in result["warnings"])


def test_a_cell_is_scored_again_by_its_folder(root, made, tmp_path):
    config, cell = made
    done = run(root, tmp_path, "evaluate", f"model={cell.folder}", "eval.max_new_tokens=8", *HERE)
    assert done.returncode == 0, done.stderr
    (folder,) = [path for path in cell.folder.glob("scores/greedy-*") if path != cell.scores(config)]
    protocol = yaml.safe_load((folder / "protocol.yaml").read_text())
    assert (protocol["max_new_tokens"], protocol["temperature"]) == (8, 0.0)  # the rest is as in the record
    assert sorted(path.parent.name for path in folder.glob("steps/*/scores.json")) == ["00000002", "00000004"]
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[-3:]] == ["2", "4", "6"]
    assert not (tmp_path / "results/cells").exists()  # it is no cell of its own
    score_again(f"{cell.folder}/steps/00000004", ["eval=quick", "eval.samples=1", *HERE])
    (folder,) = cell.folder.glob("scores/quick-*")
    assert [path.parent.name for path in folder.rglob("scores.json")] == ["00000004"]


def test_a_cell_whose_scoring_failed_is_done_once_it_is_scored_again(made):
    config, cell = made
    cell.give_up(config, "no memory")
    score_again(f"{cell.folder}/model", HERE)
    assert cell.failure(config) is None
    assert (cell.state()["state"], cell.state()["error"]) == ("done", None)


@pytest.mark.parametrize(
    ("path", "override", "message"),
    [
        (
            "",
            "train.epochs=2",
            "a trained cell is scored as it was trained: leave train.epochs out; what can be set is",
        ),
        (
            "",
            "tracker=none",
            "a trained cell is scored as it was trained: leave tracker out; what can be set is eval, ",
        ),
        ("", "tracker.name=none", "leave tracker.name out"),
        ("", "machine.probabilities=4", "machine.probabilities is measured where a cell is trained: leave it out"),
        (
            "",
            "machine.export_steps=4",
            "machine.export_steps has no effect on scores: leave it out; what can be set is",
        ),
        ("", "++machine.export_steps=4", "^machine.export_steps has no effect on scores: leave it out"),
        ("", "eval.samples=0", "eval.samples is 0: set it to 1 or more"),
        ("", "eval.sample=2", "unknown key eval.sample; did you mean samples?"),
        ("", "eval=gredy", "eval=gredy does not exist; did you mean greedy?"),
        ("", "benchmark=[mine]", "benchmark=mine does not exist"),
        ("scores", "eval=greedy", "holds no model: give a cell's folder, its model, or its steps"),
    ],
)
def test_mistakes_about_a_cell_are_one_sentence(made, path, override, message):
    _, cell = made
    with pytest.raises(ValueError, match=message) as caught:
        score_again(f"{cell.folder}/{path}", [override])
    assert "\n" not in str(caught.value)


def test_the_record_of_a_cell_gives_its_configuration(made, models, tmp_path):
    config, cell = made
    assert find(str(cell.model)).folder == find(str(cell.folder / "steps/00000002")).folder == cell.folder
    assert find(str(models[0])) is None and find("Qwen/Qwen2.5-Math-1.5B") is None
    again = recorded_config(cell.folder / "config.yaml", ["machine.threads=2"])
    assert again.model == config.model and again.eval == config.eval and again.benchmark == config.benchmark
    assert again.machine.threads == 2 and again.machine.engine == Engine.auto
    chosen = recorded_config(cell.folder / "config.yaml", ["eval=paper", "benchmark=[tiny_add]"])
    assert (chosen.names.eval, chosen.eval.samples, list(chosen.benchmark)) == ("paper", 16, ["tiny_add"])


def test_curves_by_hand(tmp_path):
    curve = {2: [{"x": 10.0}, {"x": 20.0}], 4: [{"x": 30.0}], 6: [{"x": 50.0}, {"x": 54.0}], 0: [{"x": 5.0}]}
    assert [(step, mean.mean, mean.half) for step, mean in learning_curves.means(curve, "x").items()] == [
        (0, 5.0, None),  # the base has seeds of its own
        (2, 15.0, pytest.approx(12.7062 * 5)),  # t(1) s / sqrt(2)
        (4, 30.0, None),  # of one seed
        (6, 52.0, pytest.approx(12.7062 * 2)),
    ]
    assert learning_curves.to_csv({"sft": {2: [{"x": 10.0}], 4: [{"x": 30.0}]}}, ["x"]).splitlines() == [
        "objective,benchmark,step,accuracy,half,seeds",
        "sft,x,2,10.0,,1",
        "sft,x,4,30.0,,1",
    ]
    for step in (5, 10):
        write_json(tmp_path / f"steps/{step:08d}/scores.json", {"benchmarks": {"x": {"score": step}}})
    write_json(tmp_path / "scores.json", {"benchmarks": {"x": {"score": 90.0}, "y": {"score": 10.0}}})
    write_lines(tmp_path / "metrics.jsonl", [{"step": 11}, {"step": 12}])
    found = learning_curves.scores_by_step(tmp_path, tmp_path / "metrics.jsonl")
    assert list(found) == [5, 10, 12]
    assert learning_curves.values(found[12], ["x", "y"]) == {"x": 90.0, "y": 10.0, "average": 50.0}
    assert learning_curves.values(found[5], ["x", "y"]) is None
    assert learning_curves.markdown(found).splitlines()[2:] == [
        "| 5 | 5.0 | – | – |",
        "| 10 | 10.0 | – | – |",
        "| 12 | 90.0 | 10.0 | 50.0 |",
    ]


@pytest.fixture(scope="module")
def adapter(models, tmp_path_factory) -> Path:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(models[0]), lora).save_pretrained(folder)
    return folder


def test_an_adapter_is_merged_once_into_its_base(adapter, models, tmp_path):
    from peft import PeftModel

    folder = merged_adapters.merged(str(adapter), tmp_path)
    ids = torch.arange(3, 40)[None]
    base = AutoModelForCausalLM.from_pretrained(models[0])
    plain = base(ids).logits
    expected = PeftModel.from_pretrained(base, adapter)(ids).logits
    found = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert torch.allclose(found, expected, atol=1e-3) and (expected - plain).abs().max() > 1
    made = (Path(folder) / "model.safetensors").stat().st_mtime_ns
    assert merged_adapters.merged(str(adapter), tmp_path) == folder
    assert (Path(folder) / "model.safetensors").stat().st_mtime_ns == made
    assert merged_adapters.merged(str(models[0]), tmp_path) == str(models[0])
    assert merged_adapters.merged("Qwen/Qwen2.5-Math-1.5B", tmp_path) == "Qwen/Qwen2.5-Math-1.5B"


def test_an_adapter_is_scored_from_the_command_line(root, adapter, tmp_path):
    arguments = [f"model={adapter}", "benchmark=[tiny_add]", "eval=greedy", "eval.max_new_tokens=8", "tracker=none"]
    done = run(root, tmp_path, "evaluate", *arguments, *HERE)
    assert done.returncode == 0, done.stderr
    (scores,) = tmp_path.glob("results/cells/*/scores/*/scores.json")
    assert "/cache/merged/" in read_json(scores)["model"]
    assert describe(Config(model=ModelConfig(path=str(adapter)))).model_type == "qwen2"  # what a plan needs


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({}, "names no base model: add base_model_name_or_path"),
        ({"base_model_name_or_path": "/no/where"}, "the base model /no/where does not exist"),
        ({"base_model_name_or_path": "BASE", "peft_type": "LORA"}, "cannot be merged into"),
    ],
)
def test_a_broken_adapter_is_one_sentence(models, tmp_path, about, message):
    about = json.loads(json.dumps(about).replace("BASE", str(models[0])))
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message) as caught:
        merged_adapters.merged(str(tmp_path), tmp_path / "cache")
    assert "\n" not in str(caught.value) and not list((tmp_path / "cache").glob("merged/*/*.safetensors"))


def test_pickled_weights_are_refused_wherever_they_would_be_read(models, adapter, tmp_path, monkeypatch):
    pickled, own = tmp_path / "pickled", tmp_path / "adapter"
    for whole, copy, name in ((models[0], pickled, "pytorch_model.bin"), (adapter, own, "adapter_model.bin")):
        shutil.copytree(whole, copy)
        (weights,) = copy.glob("*.safetensors")
        torch.save(load_file(weights), copy / name)
        weights.rename(weights.with_name("other.safetensors")) if copy == own else weights.unlink()
    message = "has no safetensors weights: convert them, since pickled files can run code$"
    model = ModelConfig(path=str(pickled))
    for read in (
        lambda: load_config(model),
        lambda: load_tokenizer(model),
        lambda: run_module._tokenizer(Config(model=model), str(pickled)),
        lambda: merged_adapters.base(str(own)),
        lambda: merged_adapters.merged(str(own), tmp_path / "cache"),
        lambda: load_model(model),
    ):
        with pytest.raises(ValueError, match=message):
            read()
    # Where the names of the files are not known before, the loaders themselves take nothing else.
    job = Job(str(pickled), Sampling(temperature=0.0, top_p=1.0, max_new_tokens=1))
    with pytest.raises(OSError, match="no file named model.safetensors"):
        next(transformers_engine.run(job, [], on_gpu=False))
    listed = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file.name) for file in pickled.iterdir()])
    monkeypatch.setattr(hub_datasets, "silence", lambda: None)
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: listed)
    with pytest.raises(ValueError, match=f"^model.path=some/body {message}"):
        load_config(ModelConfig(path="some/body"))


def test_two_runs_are_compared_problem_by_problem(root, made, models, tmp_path):
    config, cell = made
    evaluate(config, str(models[0]), tmp_path / "other")
    done = run(root, tmp_path, "compare", "other", str(cell.scores(config)))
    assert done.returncode == 0, done.stderr
    places = (tmp_path / "other", cell.scores(config))
    a, b = (right_shares(folder, read_json(folder / "scores.json"), "official") for folder in places)
    found = paired(*({"mine": run["mine"][None]} for run in (a, b)))["mine"]
    better = int((b["mine"] > a["mine"]).sum())
    lines = done.stdout.splitlines()
    assert lines[:2] == ["A: other", f"B: {cell.scores(config)}"]
    assert lines[4] == (
        f"| mine | {100 * a['mine'].mean():.1f} | {100 * b['mine'].mean():.1f} | {found.mean:+.1f} "
        f"| {found.low:+.1f} to {found.high:+.1f} | {better} | 0 |"
    )
    assert better >= 4 and lines[5].startswith("| average |") and len(lines) == 6


def test_a_comparison_names_what_else_differs(made, models, tmp_path):
    config, cell = made
    a, b = cell.scores(config), tmp_path / "other"
    evaluate(replace(config, eval=replace(config.eval, samples=2)), str(models[1]), b)
    told = [line for line in compare((str(a), str(b))).splitlines() if line.startswith("note: ")]
    assert told == ["note: samples of each problem of mine differ: 1 and 2"]
    protocol = yaml.safe_load((b / "protocol.yaml").read_text())
    changed = {"template_arguments": {"enable_thinking": False}, "image_arguments": {"max_pixels": 9}, "stop_ids": [7]}
    (b / "protocol.yaml").write_text(yaml.safe_dump(protocol | changed))
    write_json(b / "scores.json", read_json(b / "scores.json") | {"graders": {"mine": "another"}})
    told = [line for line in compare((str(a), str(b))).splitlines() if line.startswith("note: ")]
    assert told == [
        "note: template_arguments differs: None and {'enable_thinking': False}",
        "note: image_arguments differs: None and {'max_pixels': 9}",
        f"note: stop_ids differs: {protocol['stop_ids']!r} and [7]",
        "note: samples of each problem of mine differ: 1 and 2",
        "note: mine is graded by different versions of the grader, or by unknown ones",
    ]
    write_json(b / "scores.json", read_json(b / "scores.json") | {"graders": {"mine": 7}})
    with pytest.raises(ValueError, match="graders.mine is 7, not text or null"):
        compare((str(a), str(b)))


def test_runs_that_do_not_compare_are_refused(root, made, models, tmp_path):
    config, cell = made
    folder = str(cell.scores(config))

    def other(name: str, **changes) -> str:
        evaluate(replace(config, **changes), str(models[1]), tmp_path / name)
        return str(tmp_path / name)

    longer = other("longer", eval=replace(config.eval, max_new_tokens=12))
    with pytest.raises(
        ValueError, match=r"different protocols \(max_new_tokens: 16 and 12\); score both under the same"
    ):
        compare((folder, longer))
    (tmp_path / "mine.jsonl").write_text(json.dumps({"question": "1+1=?", "answer": "2"}) + "\n")
    another = BenchmarkConfig(path=str(tmp_path / "mine.jsonl"))
    with pytest.raises(ValueError, match="mine has other problems in"):
        compare((folder, other("set", benchmark={"mine": another})))
    with pytest.raises(ValueError, match=r"only one of .* is scored on extra, mine; score both on the same benchmarks"):
        compare((folder, other("extra", benchmark={"extra": another})))
    corrected = other("corrected", eval=replace(config.eval, verdict=VerdictName.corrected))
    with pytest.raises(ValueError, match="add verdict=official or verdict=corrected"):
        compare((folder, corrected))
    assert compare((folder, corrected), "corrected").splitlines()[2].startswith("| corrected verdict |")
    assert "note: prompt differs" in compare(
        (folder, other("prompt", model=replace(config.model, eval_prompt="{problem}")))
    )
    for arguments, message in {
        ("compare", folder): "a comparison takes two cells",
        ("compare", folder, str(tmp_path)): "holds no scores: give a scored cell of results/cells",
        ("compare", folder, folder, "verdict=mine"): "verdict=mine does not exist; there are official, corrected",
    }.items():
        refused = run(root, tmp_path, *arguments)
        assert refused.returncode == 2 and message in refused.stderr and refused.stderr.count("\n") == 1
