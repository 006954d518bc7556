"""The record of a cell says on what it ran, and what of that changed while it was trained."""

from dataclasses import replace

from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, EvalConfig, Names
from losslab.files.json_files import read_json, write_json
from losslab.records import record
from losslab.records.environment import difference, environment, succeed
from losslab.records.reading import read_cell
from losslab.records.record import Cell
from losslab.results.notes import changed_while_training

BEFORE = {"commit": "a", "cpu": "Xeon", "gpus": ["H100"] * 8, "workers": 8, "versions": {"torch": "2.11", "trl": "1"}}


def test_what_decides_numbers_is_compared_and_nothing_else():
    assert difference(BEFORE, BEFORE | {"command": ["x"], "platform": "y", "cpus": 3, "gpus": ["H100"]}) == {}
    now = BEFORE | {"gpus": ["A100"] * 8, "workers": 4, "versions": {"torch": "2.13"}}
    assert difference(BEFORE, now) == {
        "gpus": [["H100"], ["A100"]], "torch": ["2.11", "2.13"], "trl": ["1", None], "workers": [8, 4]
    }  # fmt: skip
    older = {key: value for key, value in BEFORE.items() if key not in ("cpu", "workers")}
    assert difference(older, BEFORE) == {}  # a record from before they were recorded


def test_the_history_has_every_change_after_the_first_step():
    now = BEFORE | {"workers": 2}
    assert succeed(BEFORE, now, steps=0) == now and succeed({}, now, steps=4) == now
    once = succeed(BEFORE, now, steps=4)
    assert once["workers"] == 2 and [(c["steps"], c["changed"]) for c in once["changes"]] == [(4, {"workers": [8, 2]})]
    assert succeed(once, now, steps=6) == once
    twice = succeed(once, BEFORE, steps=8)
    assert [change["changed"] for change in twice["changes"]] == [{"workers": [8, 2]}, {"workers": [2, 8]}]
    assert "changes" not in succeed(twice, now, steps=0)  # which starts afresh


def test_a_cell_that_goes_on_elsewhere_says_so(tmp_path, monkeypatch):
    config = Config(
        names=Names(model="tiny", dataset="rows", loss="dft", eval="paper"),
        machine=MachineConfig(results=str(tmp_path), workers=2),
        loss={"_target_": "losslab.objectives.dft.DFT"},
    )
    config.model.path = config.dataset.path = "embedded"
    cell = Cell.of(config)
    cell.declare(config)
    cell.begin(config)
    assert read_json(cell.folder / "environment.json")["workers"] == 2
    assert changed_while_training(cell.folder) == set()
    (cell.folder / "checkpoints/step-00000004").mkdir(parents=True)
    here = environment(1)
    monkeypatch.setattr(record, "environment", lambda workers: here | {"workers": workers, "gpus": ["A100"]})
    cell.begin(replace(config, machine=replace(config.machine, workers=1)))
    (change,) = read_json(cell.folder / "environment.json")["changes"]
    assert change["steps"] == 4 and change["changed"] == {"gpus": [[], ["A100"]], "workers": [2, 1]}
    assert changed_while_training(cell.folder) == {"gpus", "workers"}


def test_a_failure_is_that_of_its_protocol(tmp_path):
    """Two commands score one cell under two protocols: the one that succeeded has not failed."""
    first = Config(
        names=Names(model="tiny", dataset="", loss="base", eval="paper"),
        machine=MachineConfig(results=str(tmp_path)),
        loss={"_target_": "losslab.objectives.base.Base"},
    )
    first.model.path = "embedded"
    second = replace(first, eval=EvalConfig(temperature=0.0))
    cell = Cell.of(first)
    assert cell == Cell.of(second)
    cell.declare(first)
    cell.fail(second, ValueError("no such file"))
    assert cell.state()["state"] == "failed" and cell.state()["error"] == "ValueError: no such file"
    assert cell.failure(first) is None and cell.failure(second) == "ValueError: no such file"
    cell.begin(second)
    assert cell.failure(second) is None
    write_json(cell.folder / "cell.json", {key: value for key, value in cell.state().items() if key != "failures"})
    assert cell.failure(second) is None  # an older record


def test_a_reader_takes_what_a_cell_writes_outside_of_slurm(tmp_path):
    config = Config(
        names=Names(model="tiny", dataset="", loss="base", eval="paper"),
        machine=MachineConfig(results=str(tmp_path)),
        loss={"_target_": "losslab.objectives.base.Base"},
    )
    config.model.path = "embedded"
    cell = Cell.of(config)
    cell.declare(config)
    cell.begin(config, job=None, attempt=1, tries=None)
    cell.fail(config, ValueError("no such file"))
    assert read_cell(cell.folder / "cell.json")["error"] == "ValueError: no such file"
