"""Models of one name are two models: rows of different bases are never ranked against each other."""

from dataclasses import replace

import pytest
from test_tables import cell

from losslab.config.sweep import SweepConfig
from losslab.files.json_files import read_json, write_json
from losslab.results import tables
from losslab.results.conclusion import conclude
from losslab.results.model_names import distinct
from losslab.results.problem_shares import comparable
from losslab.results.tables import Row


def row(path: str | None, revision: str | None = None, name: str = "x", declared: bool = False) -> Row:
    config = {} if path is None else {"model.path": path} | ({"model.revision": revision} if revision else {})
    return Row({"model": name, "loss": "sft", "method": None}, config, None, [], declared=declared)


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([row("org1/x"), row("org2/x"), row("org1/x")], ["org1/x", "org2/x", "org1/x"]),
        ([row("/a/run/x"), row("/b/run/x")], ["a/run/x", "b/run/x"]),
        ([row("org1/x"), row("org1/x/")], ["x", "x"]),
        ([row("org1/x"), row("org1/x", "abc")], ["x", "x@abc"]),
        ([row("/a/y/model", name="y"), row("/b/y/model", name="y")], ["a/y", "b/y"]),
        ([row("Org/X-1B"), row("/copy/of")], ["x (Org/X-1B)", "x (copy/of)"]),
        # What the sweep's file declares is called as it says, so that claims and the paper's figures find it.
        ([row("Org/X-1B", declared=True), row("/copy/of")], ["x", "x (copy/of)"]),
        ([row("/a/b/y", name="y"), row("/a/b/y/model", name="y")], ["b/y", "y (y/model)"]),
        ([row("gpt2"), row("gpt3")], ["x (gpt2)", "x (gpt3)"]),
        ([row("org1/x"), row("org2/x"), row(None)], ["org1/x", "org2/x", "x"]),
    ],
)
def test_names_are_as_long_as_they_must_be(rows, names):
    assert [found.names["model"] for found in distinct(rows)] == names


def test_a_folder_is_one_model_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    rows = [row("x"), row("./x/"), row(str(tmp_path / "x"))]
    assert [found.names["model"] for found in distinct(rows)] == ["x", "x", "x"]


def test_a_conclusion_is_of_one_model(tmp_path):
    for number, path in enumerate(("org1/x", "org2/x")):
        for loss in ("base", "sft", "dft"):
            for seed in (0, 1):
                scores = {"math500": 30.0 + 20 * number + seed + len(loss)}
                (file,) = cell(tmp_path, loss, seed, scores, path=path).folder.glob("scores/*/scores.json")
                content = read_json(file)
                content["benchmarks"]["math500"]["right"] = {"official": [4 + 4 * number + seed, 8, 9]}
                write_json(file, content)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert table.models == ["org1/x", "org2/x"] and len(table.rows) == 6
    assert {found.label for found in table.rows} == {"base", "sft", "dft"}
    assert [(c.model, len(c.averages)) for c in conclude(table)] == [("org1/x", 3), ("org2/x", 3)]
    first, *_, last = table.rows
    assert not comparable(first, replace(last, names=last.names | {"loss": "base"}))
    folders = {path.name for path in (tmp_path / "cells").iterdir()}
    assert len(folders) == 12 and all(name.startswith("x-") for name in folders)
