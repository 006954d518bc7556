"""The ablation table from records written by hand."""

import csv
import io
from pathlib import Path

import pytest

from losslab import render, tables
from losslab.files import write_json, write_lines
from losslab.publish import rebuild
from losslab.records import Cell
from losslab.schema import Config, EvalConfig, MachineConfig, Names, OptimizerConfig, SweepConfig


def cell(
    results: Path, loss: str, seed: int, scores: dict[str, float] | None, lr: float = 1e-3, half: float = 3.0
) -> Cell:
    config = Config(
        names=Names(model="tiny", dataset="embedded", loss=loss, eval="paper"),
        machine=MachineConfig(results=str(results)),
        optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=lr),
        loss={"_target_": {"dft": "losslab.objectives.dft.DFT"}.get(loss, "losslab.objectives.sft.SFT")},
        sweep=SweepConfig(name="study", question="Which?"),
        seed=seed,
        eval=EvalConfig(seed=seed),
    )
    config.model.path = config.dataset.path = "embedded"
    found = Cell.of(config)
    found.declare(config)
    if scores is not None:
        parts = {name: {"score": s, "interval": [s - half, s + half]} for name, s in scores.items()}
        write_json(found.scores(config) / "scores.json", {"benchmarks": parts})
    return found


def test_seeds_make_a_student_interval_and_one_seed_has_its_own(tmp_path):
    for seed, score in enumerate([50.0, 52.0, 54.0]):
        cell(tmp_path, "sft", seed, {"math500": score, "amc23": 10.0})
    cell(tmp_path, "base", 0, {"math500": 20.0, "amc23": 10.0})
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert table.columns == ["math500", "amc23", "average"]
    assert [row.label for row in table.rows] == ["base", "sft"]
    base, sft = table.rows
    assert sft.value("math500").mean == pytest.approx(52)
    assert sft.value("math500").half == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)  # t(0.975, 2) s / sqrt(n)
    assert sft.value("average").half == pytest.approx(4.3027 * 1 / 3**0.5, rel=1e-4)
    assert base.value("math500").half == 3.0
    assert base.value("average").half == pytest.approx(18**0.5 / 2)  # of two independent benchmarks
    assert render.markdown(render.scores(table)).splitlines()[2:6] == [
        "| model | objective | math500 | amc23 | average | seeds |",
        "|---|---|---:|---:|---:|---:|",
        "| tiny | base | 20.0 ± 3.0 | **10.0 ± 3.0** | 15.0 ± 2.1 | 1 |",
        "| tiny | sft | **52.0 ± 5.0** | **10.0 ± 0.0** | **31.0 ± 2.5** | 3 |",
    ]


def test_missing_cells_are_shown(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    cell(tmp_path, "sft", 1, None)
    cell(tmp_path, "dft", 0, None)
    text = render.markdown(render.scores(tables.build(SweepConfig(name="study"), str(tmp_path))))
    assert "| tiny | dft | – | – | 0/1 |" in text
    assert "| tiny | sft | 50.0 ± 3.0 | 50.0 ± 3.0 | 1/2 |" in text  # nothing is the best of one


def test_rows_of_one_objective_are_told_apart(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0}, lr=1e-3)
    cell(tmp_path, "sft", 0, {"math500": 40.0}, lr=1e-4)
    cell(tmp_path, "dft", 0, {"math500": 60.0}, lr=1e-3)
    rows = tables.build(SweepConfig(name="study"), str(tmp_path)).rows
    assert [row.label for row in rows] == ["sft optimizer.lr=0.0001", "sft optimizer.lr=0.001", "dft"]


def test_an_average_needs_all_columns_and_protocols_are_not_mixed(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    found = cell(tmp_path, "sft", 1, {"math500": 40.0, "amc23": 20.0})
    (row,) = tables.build(SweepConfig(name="study"), str(tmp_path)).rows
    assert (row.value("math500").mean, row.value("amc23").mean, row.value("average").mean) == (45.0, 20.0, 30.0)
    other = {"benchmarks": {"math500": {"score": 90.0, "interval": [89.0, 91.0]}}}
    write_json(found.folder / "scores" / "paper-12345678" / "scores.json", other)
    rows = tables.build(SweepConfig(name="study"), str(tmp_path)).rows
    assert sorted(row.value("math500").mean for row in rows) == [45.0, 90.0]
    assert all("eval=paper-" in row.label for row in rows)


def test_a_cell_of_two_sweeps_is_in_both_tables(tmp_path):
    found = cell(tmp_path, "sft", 0, {"math500": 50.0})
    config = Config(
        names=Names(model="tiny", dataset="embedded", loss="sft", eval="paper"), sweep=SweepConfig(name="two")
    )
    found.declare(config)
    for name in ("study", "two"):
        assert len(tables.build(SweepConfig(name=name), str(tmp_path)).rows) == 1
    with pytest.raises(ValueError, match="no record of the sweep three"):
        tables.build(SweepConfig(name="three"), str(tmp_path))


def test_a_method_labels_a_row_in_its_own_sweep_alone(tmp_path):
    found = cell(tmp_path, "sft", 0, {"math500": 50.0})
    names = Names(model="tiny", dataset="embedded", loss="sft", eval="paper", method="rft")
    found.declare(Config(names=names, sweep=SweepConfig(name="two")))
    labels = {name: tables.build(SweepConfig(name=name), str(tmp_path)).rows[0].label for name in ("study", "two")}
    assert labels == {"study": "sft", "two": "rft"}


def test_accuracy_over_steps_begins_at_the_base(tmp_path):
    cell(tmp_path, "base", 0, {"math500": 20.0, "amc23": 10.0})
    cell(tmp_path, "dft", 0, {"math500": 60.0, "amc23": 50.0})  # no steps: no curve
    cell(tmp_path, "sft", 2, {"math500": 90.0, "amc23": 90.0})  # not exported on the way: not in the last step's mean
    for seed, gain in enumerate([0.0, 4.0]):
        found = cell(tmp_path, "sft", seed, {"math500": 50.0 + gain, "amc23": 30.0})
        write_lines(found.metrics, [{"step": step, "p_histogram": [1] * 13} for step in range(1, 7)])
        (scores,) = found.folder.glob("scores/*")
        for step in (2, 4) if seed else (2, 4, 5):
            parts = {"math500": {"score": 20.0 + 5 * step + gain}, "amc23": {"score": 10.0 + step}}
            write_json(scores / f"steps/{step:08d}/scores.json", {"benchmarks": parts})
    rebuild(["study"], str(tmp_path))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "tables/study/steps.csv").read_text())))
    rows = {(r["benchmark"], int(r["step"])): (float(r["accuracy"]), float(r["half"]), r["seeds"]) for r in lines}
    assert {r["objective"] for r in lines} == {"sft"} and len(rows) == 3 * 5
    assert rows["math500", 0] == (20.0, 0.0, "1")
    assert rows["math500", 2] == (32.0, pytest.approx(12.7062 * 2), "2")
    assert rows["average", 4] == ((42.0 + 14.0) / 2, pytest.approx(12.7062), "2")
    assert rows["math500", 5] == (45.0, 0.0, "1")
    assert rows["amc23", 6] == (30.0, 0.0, "2")
    assert (tmp_path / "tables/study/steps.png").stat().st_size > 10_000


def test_spreadsheet_and_figure(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.25})
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    (row,) = csv.DictReader(io.StringIO(render.spreadsheet(table, None)))
    assert (float(row["math500"]), float(row["math500_half"]), row["seeds"]) == (50.25, 3.0, "1")
    rebuild([], str(tmp_path))
    folder = tmp_path / "tables" / "study"
    assert sorted(path.name for path in folder.iterdir()) == [
        "figure.png",
        "figure.svg",
        "table.csv",
        "table.md",
        "table.tex",
    ]
