"""Scores and samples of a cell in the formats of others, read back by their own libraries."""

import os

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from pyarrow import parquet

from losslab.commands.cli import main
from losslab.config.machine import MachineConfig
from losslab.config.schema import BenchmarkConfig, Config, Names
from losslab.files.atomic import write
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.hub import model_card
from losslab.records.record import Cell

SAMPLES = [
    {"text": "\\boxed{2}", "extracted": "2", "tokens": 4, "finish_reason": "stop", "official": True, "corrected": True},
    {"text": "two", "extracted": "", "tokens": 1, "finish_reason": "length", "official": False, "corrected": True},
]


@pytest.fixture
def cell(tmp_path) -> Cell:
    config = Config(
        names=Names(model="tiny", dataset="rows", loss="sft", eval="paper"),
        machine=MachineConfig(results=str(tmp_path / "results")),
        loss={"_target_": "losslab.objectives.sft.SFT"},
        benchmark={
            "math500": BenchmarkConfig("HuggingFaceH4/MATH-500", revision="abc", subset="main"),
            "own": BenchmarkConfig("/home/me/own.jsonl"),
        },
    )
    config.model.path = config.dataset.path = "embedded"
    made = Cell.of(config)
    made.declare(config)
    folder = made.scores(config)
    part = {"score": 50.004, "interval": [40.0, 60.0], "samples": 2}
    benchmarks = {"math500": part, "aime26": part | {"interval": None}, "own": part, "ifeval": part}
    examples = {"prompt": "minerva_4shot", "examples": {"math500": 4}}
    write_json(folder / "scores.json", {"model": "m", "verdict": "official", "benchmarks": benchmarks} | examples)
    write(folder / "protocol.yaml", "temperature: 0.7\n")
    for name in benchmarks:
        record = {"index": 0, "question": "1+1=?", "prompt": "Q: 1+1=?", "gold": "2", "samples": SAMPLES}
        write_lines(folder / f"{name}.jsonl", [record, record | {"index": 1}])
    return made


def test_results_of_the_hub_are_read_by_its_own_library(cell, tmp_path, capsys):
    main(["export", str(cell.folder), str(tmp_path / "out"), "repo=me/sums"])
    files = sorted((tmp_path / "out/.eval_results").iterdir())
    assert [file.name for file in files] == ["aime26.yaml", "math500.yaml"]  # no file, and no task of lm_eval
    (aime,), (math,) = (parse_eval_result_entries(yaml.safe_load(file.read_text())) for file in files)
    assert (math.dataset_id, math.task_id, math.dataset_revision) == ("HuggingFaceH4/MATH-500", "main", "abc")
    assert (aime.dataset_id, aime.task_id, aime.dataset_revision) == ("MathArena/aime_2026", "default", None)
    (scores,) = (cell.folder / "scores").iterdir()
    assert (math.value, math.source_url) == (
        50.0,
        f"https://huggingface.co/me/sums/blob/main/losslab/scores/{scores.name}.json",
    )
    assert math.notes == (
        "avg@2 in percent, temperature 0.7, official verdict, 95% interval 40.0 to 60.0, prompt minerva_4shot with 4 "
        f"worked examples, losslab protocol {scores.name}"
    )
    assert "95% interval unknown, prompt minerva_4shot, losslab protocol" in aime.notes
    assert str(files[0]) in capsys.readouterr().out


def test_results_of_the_hub_are_of_the_data_set_that_was_read(cell, tmp_path):
    """Which `losslab evaluate` may have taken from elsewhere than the cell's configuration says."""
    (file,) = cell.folder.glob("scores/*/scores.json")
    other = {"path": "me/maths", "revision": "def", "subset": None}
    write_json(file, read_json(file) | {"sources": {"math500": other, "aime26": {"local": True}}})
    os.utime(file, (1_000_000_000, 1_000_000_000))
    main(["export", str(cell.folder), str(tmp_path / "out")])
    (written,) = (tmp_path / "out/.eval_results").iterdir()  # none of what was read here
    (math,) = parse_eval_result_entries(yaml.safe_load(written.read_text()))
    assert (math.dataset_id, math.task_id, math.dataset_revision) == ("me/maths", "default", "def")
    assert math.date.startswith("2001-09-09")  # when it was scored
    types = {
        one.dataset_name: one.dataset_type for one in model_card.results(model_card.benchmarks(cell), read_json(file))
    }
    assert types == {"math500": "me/maths", "aime26": "aime26", "own": "own.jsonl", "ifeval": "lm_eval:ifeval"}


def test_details_have_a_row_for_each_problem(cell, tmp_path):
    main(["export", str(cell.folder), str(tmp_path / "out")])
    files = {path.name.split("_2")[0]: path for path in (tmp_path / "out/details").rglob("*.parquet")}
    assert set(files) == {"details_math500", "details_aime26", "details_own", "details_ifeval"}
    first, second = parquet.read_table(files["details_math500"]).to_pylist()
    assert set(first) == {"doc", "model_response", "metric"}
    assert first["doc"] == {
        "id": "0", "task_name": "math500", "query": "1+1=?", "choices": ["2"], "gold_index": 0,
    }  # fmt: skip
    assert first["model_response"]["input"] == "Q: 1+1=?" and first["model_response"]["text"] == ["\\boxed{2}", "two"]
    assert first["metric"] == {"official_avg@2": 0.5, "corrected_avg@2": 1.0} and second["doc"]["id"] == "1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CELL"], "give a cell and a folder to write to: losslab export CELL FOLDER"),
        (["nowhere", "out"], "nowhere is not the folder of a cell: give one of results/cells"),
        (["CELL", "out", "repos=me"], "unknown option repos"),
    ],
)
def test_mistakes_are_one_line(cell, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["export", *(str(cell.folder) if word == "CELL" else word for word in words)])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_samples_that_are_gone_are_named(cell, tmp_path, capsys):
    next(cell.folder.glob("scores/*/own.jsonl")).unlink()
    with pytest.raises(SystemExit):
        main(["export", str(cell.folder), str(tmp_path / "out")])
    assert "has no samples of own: copy own.jsonl there, or score the cell again" in capsys.readouterr().err
