"""The ablation table from records written by hand."""

import csv
import importlib
import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from losslab.composition.experiment_files import declared
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, Names, NonFinite, OptimizerConfig
from losslab.config.sweep import SweepConfig
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.files.locks import lock
from losslab.records.record import Cell
from losslab.results import compare_to_baselines, labels, plots, table_formats, tables
from losslab.results.plots import BarRow
from losslab.results.write_tables import renew_table, write_tables
from losslab.statistics.intervals import Estimate


def cell(
    results: Path,
    loss: str,
    seed: int,
    scores: dict[str, float] | None,
    lr: float = 1e-3,
    half: float = 3.0,
    samples: int = 16,
    verdict: str = "official",
    target: str | None = None,
    sweep: str = "study",
    method: str | None = None,
    path: str = "embedded",
    revision: str | None = None,
    non_finite: NonFinite = NonFinite.stop,
) -> Cell:
    model = "tiny" if path == "embedded" else Path(path).name
    config = Config(
        names=Names(model=model, dataset="embedded", loss=loss, eval="paper", method=method),
        machine=MachineConfig(results=str(results)),
        optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=lr),
        loss={"_target_": target or {"dft": "losslab.objectives.dft.DFT"}.get(loss, "losslab.objectives.sft.SFT")},
        sweep=SweepConfig(name=sweep, question="Which?"),
        seed=seed,
    )
    config.model.path, config.model.revision, config.dataset.path = path, revision, "embedded"
    config.train.non_finite = non_finite
    found = Cell.of(config)
    found.declare(config)
    if scores is not None:
        parts = {name: {"score": s, "interval": [s - half, s + half], "samples": samples} for name, s in scores.items()}
        write_json(found.scores(config) / "scores.json", {"benchmarks": parts, "verdict": verdict})
        write_json(
            found.scores(config) / "protocol.yaml", {"benchmarks": dict.fromkeys(scores, "hash")}
        )  # JSON is YAML
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
    assert table_formats.markdown(table_formats.scores_sheet(table)).splitlines()[2:6] == [
        "| model | objective | math500 | amc23 | average | seeds |",
        "|---|---|---:|---:|---:|---:|",
        "| tiny | base | 20.0 ± 3.0 | **10.0 ± 3.0** | 15.0 ± 2.1 | 1 |",
        "| tiny | sft | **52.0 ± 5.0** | **10.0** | **31.0 ± 2.5** | 3 |",
    ]


def test_a_base_that_cannot_vary_over_seeds_has_the_interval_over_problems(tmp_path):
    """Three entries of one base; what is trained, or answers otherwise in one seed, has the interval over seeds."""
    for seed in range(3):
        cell(tmp_path, "base", seed, {"math500": 20.0, "amc23": 10.0 + (seed == 2)})
        cell(tmp_path, "sft", seed, {"math500": 50.0, "amc23": 40.0})
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    base, sft = table.rows
    assert (base.value("math500").mean, base.value("math500").half) == (20.0, 3.0)
    assert base.value("amc23").half == pytest.approx(4.3027 / 3, rel=1e-4)  # t(0.975, 2) s / sqrt(n), s = 1 / sqrt(3)
    assert (sft.value("math500").mean, sft.value("math500").half) == (50.0, None)
    assert "; of a base with equal scores in all seeds it covers other problems;" in table_formats.caption(table)
    own = replace(base, config={"model.pretrain_seed": None})  # each seed has a base of its own
    assert own.value("math500").half is None


def test_scores_by_level_are_tables_of_their_own(tmp_path, capsys):
    for loss, seed, easy, hard in (("sft", 0, 60.0, 10.0), ("sft", 1, 64.0, 20.0), ("dft", 0, 70.0, None)):
        file = cell(tmp_path, loss, seed, {"math500": 50.0}).folder / "scores"
        (path,) = file.glob("*/scores.json")
        values = {"1": easy, "5": hard} if hard is not None else {"1": easy}
        rows = {value: {"problems": 9, "score": s, "interval": [s - 2, s + 2]} for value, s in values.items()}
        content = read_json(path)
        content["benchmarks"]["math500"]["breakdown"] = {"level": rows}
        write_json(path, content)
    write_tables(["study"], str(tmp_path))
    folder = tmp_path / "tables/study"
    assert folder.joinpath("table.md").read_text().split("## math500 by level\n")[1].splitlines()[1:5] == [
        "| model | objective | 1 | 5 |",
        "|---|---|---:|---:|",
        "| tiny | sft | 62.0 ± 25.4 | 15.0 ± 63.5 |",  # t(0.975, 1) = 12.706, times 2 and 5
        "| tiny | dft | **70.0 ± 2.0** | – |",
    ]
    rows = list(csv.reader(io.StringIO(folder.joinpath("breakdown.csv").read_text())))
    assert rows[0] == ["model", "objective", "benchmark", "column", "value", "mean", "half"]
    assert [row[1:6] for row in rows[1:]] == [
        ["sft", "math500", "level", "1", "62.0"],
        ["sft", "math500", "level", "5", "15.0"],
        ["dft", "math500", "level", "1", "70.0"],
    ]
    assert "breakdown.csv, and in table.md by level" in capsys.readouterr().out


def test_a_note_counts_the_updates_that_were_skipped(tmp_path, capsys):
    for loss, skipped in (("sft", 1), ("dft", 0)):
        for seed in (0, 1):
            made = cell(tmp_path, loss, seed, {"math500": 50.0}, non_finite=NonFinite.skip)
            write_lines(made.metrics, [{"step": i, "skipped": i <= skipped} for i in (1, 2, 3)])
    write_tables(["study"], str(tmp_path))
    text = (tmp_path / "tables/study/table.md").read_text()
    assert "2 of 6 updates of sft were skipped, since their gradient was not finite." in text
    assert "updates of dft" not in text


def test_missing_cells_are_shown(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    cell(tmp_path, "sft", 1, None)
    cell(tmp_path, "dft", 0, None)
    text = table_formats.markdown(table_formats.scores_sheet(tables.build(SweepConfig(name="study"), str(tmp_path))))
    assert "| tiny | dft | – | – | 0/1 |" in text
    assert "| tiny | sft | 50.0 ± 3.0 | 50.0 ± 3.0 | 1/2 |" in text  # nothing is the best of one


def test_rows_of_one_objective_are_told_apart(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0}, lr=1e-3)
    cell(tmp_path, "sft", 0, {"math500": 40.0}, lr=1e-4)
    cell(tmp_path, "dft", 0, {"math500": 60.0}, lr=1e-3)
    rows = tables.build(SweepConfig(name="study"), str(tmp_path)).rows
    assert [row.label for row in rows] == ["sft optimizer.lr=0.0001", "sft optimizer.lr=0.001", "dft"]


def test_a_name_that_leaves_something_open_is_followed_by_it():
    """Data sets of two names, one of them in two sizes; the name says the rest of the other one."""
    config = {"dataset": "a", "dataset.path": "x", "dataset.rows": 1, "optimizer.lr": 1.0}
    configs = [config, config | {"dataset.rows": 2}, config | {"dataset": "b", "dataset.path": "y"}]
    names = {"model": "tiny", "loss": "sft", "method": None}
    rows = [tables.Row(names, own, None, []) for own in configs]
    names = ["sft dataset=a dataset.rows=1", "sft dataset=a dataset.rows=2", "sft dataset=b"]
    assert labels.labels(rows) == names


def test_an_average_needs_all_columns_and_protocols_are_not_mixed(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    found = cell(tmp_path, "sft", 1, {"math500": 40.0, "amc23": 20.0})
    (row,) = tables.build(SweepConfig(name="study"), str(tmp_path)).rows
    assert (row.value("math500").mean, row.value("amc23").mean, row.value("average").mean) == (45.0, 20.0, 30.0)
    part = {"score": 90.0, "interval": [89.0, 91.0], "samples": 16}
    other = {"benchmarks": {"math500": part}, "verdict": "official"}
    write_json(found.folder / "scores" / "paper-12345678" / "scores.json", other)
    rows = tables.build(SweepConfig(name="study"), str(tmp_path)).rows
    assert sorted(row.value("math500").mean for row in rows) == [45.0, 90.0]
    assert all("eval=paper-" in row.label for row in rows)


def test_verdicts_and_numbers_of_samples_are_not_mixed(tmp_path):
    """Of one protocol, whose samples they share: each of them has one verdict and one number of samples on record."""
    for seed, (samples, verdict) in enumerate([(16, "official"), (16, "official"), (4, "official"), (16, "corrected")]):
        cell(tmp_path, "sft", seed, {"math500": 50.0 + seed}, samples=samples, verdict=verdict)
    cell(tmp_path, "dft", 0, {"math500": 60.0})
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert [(row.label, row.value("math500").mean, len(row.scored)) for row in table.rows] == [
        ("sft eval.verdict=official eval.samples=16", 50.5, 2),
        ("sft eval.verdict=official eval.samples=4", 52.0, 1),
        ("sft eval.verdict=corrected eval.samples=16", 53.0, 1),
        ("dft", 60.0, 1),
    ]
    assert table_formats.caption(table).startswith("Accuracy in percent ± half")
    (tmp_path / "alone").mkdir()
    cell(tmp_path / "alone", "dft", 0, {"math500": 60.0})
    alone = tables.build(SweepConfig(name="study"), str(tmp_path / "alone"))
    assert table_formats.caption(alone).startswith("Accuracy in percent by the official verdict ± half")


OWN = "from dataclasses import dataclass\nfrom losslab.objectives import Objective\n\n@dataclass(frozen=True)\n" + (
    "class Own(Objective):\n    def loss(self, t):\n        return -{} * t.logp\n"
)


def test_cells_of_an_edited_objective_are_rows_of_their_own(tmp_path, monkeypatch):
    """A version that is asked for again is the newest one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for version, factor in enumerate((1, 2)):
        (tmp_path / f"own{version}.py").write_text(OWN.format(factor))
    (tmp_path / "own.py").write_text("")
    import own

    def edit(version: int, seeds: tuple[int, ...], score: float) -> None:
        monkeypatch.setattr(own, "Own", importlib.import_module(f"own{version}").Own, raising=False)
        for seed in seeds:
            cell(tmp_path, "mine", seed, {"math500": score + seed}, target="own.Own")

    cell(tmp_path, "dft", 0, {"math500": 70.0})
    edit(0, (0, 1, 2), 50.0)
    edit(1, (0, 1), 80.0)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    found = {(row.label.split("=")[0], row.value("math500").mean, len(row.entries)) for row in table.rows}
    assert found == {("dft", 70.0, 1), ("mine", 80.5, 2), ("mine earlier", 51.0, 3)}
    assert "Rows with `earlier` have code or data that has changed since." in table_formats.caption(table)
    beside = [[one.text for one in row] for row in compare_to_baselines.sheet("mine", [table]).rows]
    assert [(row[2], row[-1]) for row in beside] == [
        ("51.0 ± 2.5", "70.0 ± 3.0 (-20.0, open)"), ("80.5 ± 6.4", "70.0 ± 3.0 (+10.0, open)"),
    ]  # fmt: skip
    edit(0, (0,), 50.0)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    found = {(row.label.split("=")[0], row.value("math500").mean, len(row.entries)) for row in table.rows}
    assert found == {("dft", 70.0, 1), ("mine", 51.0, 3), ("mine earlier", 80.5, 2)}


def test_an_objective_beside_its_baselines_is_better_or_worse_seed_by_seed(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 99.0}, lr=0.5)  # another rate, which has no row of the objective
    for seed, (sft, dft, mine) in enumerate([(40.0, 60.0, 50.0), (42.0, 61.0, 52.0), (41.0, 62.0, 51.0)]):
        for loss, score in {"sft": sft, "dft": dft, "mine": mine}.items():
            cell(tmp_path, loss, seed, {"math500": score})
    (line,) = compare_to_baselines.sheet("mine", [tables.build(SweepConfig(name="study"), str(tmp_path))]).rows
    half = 4.3027 / 3**0.5  # t(0.975, 2) / sqrt(n): over the seeds, the scores and the second difference vary by 1
    assert f"{half:.1f}" == "2.5"
    assert [text.text for text in line] == [
        "study", "–", "51.0 ± 2.5", "41.0 ± 2.5 (+10.0, open)", "61.0 ± 2.5 (-10.0 ± 2.5, worse)",
    ]  # fmt: skip


def test_what_was_scored_besides_splits_no_row(tmp_path):
    """On one seed, with another number of samples: of what the table is about all seeds have the same."""
    for config in declared("toy_suite/table9", str(tmp_path)):
        if config.names.loss == "sft":
            own = Cell.of(config)
            own.declare(config)
            parts = {n: {"score": 50.0, "interval": [49.0, 51.0], "samples": 16} for n in config.benchmark}
            if config.seed < 2:
                parts["own"] = {"score": 10.0, "interval": [9.0, 11.0], "samples": 1 + config.seed}
            write_json(own.scores(config) / "scores.json", {"benchmarks": parts, "verdict": "official"})
            write_json(own.scores(config) / "protocol.yaml", {"benchmarks": dict.fromkeys(parts, "hash")})
    (row,) = [one for one in tables.build(config.sweep, str(tmp_path)).rows if one.name == "sft"]
    assert len(row.scored) == 5 and row.value("average").mean == 50.0 and row.label == "sft"
    assert row.value("own") is None  # of one sample and of two


def test_a_record_without_a_version_is_not_set_apart(tmp_path):
    for seed in range(3):
        found = cell(tmp_path, "sft", seed, {"math500": 50.0 + seed})
        if seed != 1:  # written before and after one with a version
            state = read_json(found.folder / "cell.json")
            del state["recipe"]
            write_json(found.folder / "cell.json", state)
    (row,) = tables.build(SweepConfig(name="study"), str(tmp_path)).rows
    assert (row.label, row.value("math500").mean) == ("sft", 51.0)


def test_a_cell_of_two_sweeps_is_in_both_tables(tmp_path):
    for sweep in ("study", "two"):
        cell(tmp_path, "sft", 0, {"math500": 50.0}, sweep=sweep)
    for name in ("study", "two"):
        assert len(tables.build(SweepConfig(name=name), str(tmp_path)).rows) == 1
    with pytest.raises(ValueError, match="no record of the sweep three"):
        tables.build(SweepConfig(name="three"), str(tmp_path))


def test_a_method_labels_a_row_in_its_own_sweep_alone(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    cell(tmp_path, "sft", 0, None, sweep="two", method="rft")
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
    write_tables(["study"], str(tmp_path))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "tables/study/steps.csv").read_text())))
    rows = {(r["benchmark"], int(r["step"])): (float(r["accuracy"]), r["half"], r["seeds"]) for r in lines}
    assert {r["objective"] for r in lines} == {"sft"} and len(rows) == 3 * 5
    assert rows["math500", 0] == (20.0, "", "1")  # of one seed nothing is known
    assert rows["math500", 2][::2] == (32.0, "2") and float(rows["math500", 2][1]) == pytest.approx(12.7062 * 2)
    assert rows["average", 4][::2] == (28.0, "2") and float(rows["average", 4][1]) == pytest.approx(12.7062)
    assert rows["math500", 5] == (45.0, "", "1")
    assert rows["amc23", 6] == (30.0, "", "2")
    assert (tmp_path / "tables/study/steps.png").stat().st_size > 10_000


def test_spreadsheet_and_figure(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.25})
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    (row,) = csv.DictReader(io.StringIO(table_formats.to_csv(table, None)))
    assert (float(row["math500"]), float(row["math500_half"]), row["seeds"]) == (50.25, 3.0, "1")
    write_tables([], str(tmp_path))
    folder = tmp_path / "tables" / "study"
    assert sorted(path.name for path in folder.iterdir()) == [
        "conclusion.md",
        "figure.png",
        "figure.svg",
        "table.csv",
        "table.md",
        "table.tex",
    ]


def test_a_cell_that_ends_while_a_command_waits_for_the_table_has_its_row(tmp_path):
    """The command has found its sweeps already, and the cell leaves its row to the command's writing."""
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    with lock(tmp_path / "cache/tables/study", quiet=True):  # as the writing of another cell
        threads = [threading.Thread(target=write_tables, args=(["study"], str(tmp_path)))]
        threads[0].start()
        time.sleep(1)
        cell(tmp_path, "dft", 0, {"math500": 60.0})
        threads.append(threading.Thread(target=renew_table, args=(SweepConfig(name="study"), str(tmp_path))))
        threads[1].start()
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    rows = csv.DictReader(io.StringIO((tmp_path / "tables/study/table.csv").read_text()))
    assert [row["objective"] for row in rows] == ["sft", "dft"]


def test_what_a_newer_writing_does_not_make_is_removed(tmp_path):
    """All optional files of earlier records, and of one figure a half; what others put into the folder stays."""
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    write_tables(["study"], str(tmp_path))
    folder = tmp_path / "tables/study"
    own = {path.name for path in folder.iterdir()}
    stale = {"claims.csv", "breakdown.csv", "tuning.json", "kl_to_base.csv", "steps.csv", "settings.csv"}
    stale |= {"gain_and_loss.csv", "probabilities.md", "probabilities.csv"}
    stale |= {
        f"{name}.{kind}" for name in ("steps", "settings", "probabilities", "gain_and_loss") for kind in ("png", "svg")
    }
    others = {"race.md", "race.csv", "tracker.json", "mine.csv"}
    for name in stale | others:
        (folder / name).touch()
    write_tables(["study"], str(tmp_path))
    assert {path.name for path in folder.iterdir()} == own | others
    (path,) = (tmp_path / "cells").glob("*/scores/*/scores.json")
    path.unlink()
    write_tables(["study"], str(tmp_path))
    assert own - {path.name for path in folder.iterdir()} == {"conclusion.md", "figure.png", "figure.svg"}


@pytest.mark.parametrize(("models", "labels"), [(1, 4), (5, 3), (1, 14), (2, 24)])
def test_a_figure_has_two_panels_for_each_model_and_a_colour_for_each_label(models, labels):
    rows = [
        BarRow(f"model {model}", f"sft lr={label}", [Estimate(10.0 * model + label, 3.0)], [1.0 + label] * 13)
        for model in range(models)
        for label in range(labels)
    ]
    rows[-labels:] = rows[-labels:][::-1]  # another order in the last model
    figure = plots.bars(rows, ["math500"])
    assert len(figure.axes) == 2 * models
    colours: dict[str, set[tuple[float, ...]]] = {}
    for i, panel in enumerate(figure.axes):
        handles, names = panel.get_legend_handles_labels()
        assert sorted(names) == sorted(row.label for row in rows[:labels])
        for handle, label in zip(handles, names, strict=True):
            colour = handle.get_edgecolor() if i % 2 else handle.patches[0].get_facecolor()
            colours.setdefault(label, set()).add(colour)
            if i % 2 == 0:
                height = 10.0 * (i // 2) + int(label.removeprefix("sft lr="))
                assert handle.patches[0].get_height() == height
                (low, high) = handle.errorbar.lines[2][0].get_segments()[0][:, 1]
                assert (low, high) == (height - 3.0, height + 3.0)
    assert {len(of_label) for of_label in colours.values()} == {1} and len(set.union(*colours.values())) == labels
    (legend,) = figure.legends
    assert len(legend.get_texts()) == labels


def test_histograms_of_the_figure_are_shares():
    counts = [1.0, 3.0] + [0.0] * 10 + [4.0]
    figure = plots.bars([BarRow("tiny", "sft", [None], counts), BarRow("tiny", "base", [Estimate(1.0)], [])], ["x"])
    bars, histogram = figure.axes
    (stairs,) = histogram.patches
    assert stairs.get_data().values.tolist() == [12.5, 37.5] + [0.0] * 10 + [50.0]
    heights = [patch.get_height() for patch in bars.patches]
    assert np.isnan(heights[0]) and heights[1] == 1.0


def test_a_learning_curve_is_drawn_where_the_records_put_it():
    curve = {0: [{"x": 20.0}], 10: [{"x": 30.0}, {"x": 34.0}], 20: [{"x": 40.0}, {"x": 40.0}]}
    figure = plots.over_steps({"sft": curve, "dft": {10: [{"x": 70.0}]}}, ["x"])
    panel = figure.axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
    assert lines == {"sft": [[0.0, 20.0], [10.0, 32.0], [20.0, 40.0]], "dft": [[10.0, 70.0]]}
    band = panel.collections[0].get_paths()[0].vertices
    half = 12.7062 * 2  # t(1) s / sqrt(2)
    edges = sorted(y for x, y in band.tolist() if x == 10.0)
    assert (edges[0], edges[-1]) == (pytest.approx(32 - half, rel=1e-4), pytest.approx(32 + half, rel=1e-4))
    assert panel.get_title() == "x"


def test_scores_are_drawn_against_their_setting():
    curve = [(1e-5, Estimate(10.0, 2.0)), (1e-4, None), (1e-3, Estimate(30.0))]
    panel = plots.over_settings({"optimizer.lr": {"sft": curve}}).axes[0]
    (container,) = panel.containers
    assert container[0].get_xydata().tolist() == [[1e-5, 10.0], [1e-3, 30.0]]
    assert [s[:, 1].tolist() for s in container[2][0].get_segments() if len(s)] == [[8.0, 12.0]]  # one has none
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1e-05", "0.0001", "0.001"]
    assert panel.get_xscale() == "log" and panel.get_xlabel() == "optimizer.lr"
    shares = [(0.0, Estimate(10.0)), (0.5, Estimate(20.0)), (1.0, Estimate(30.0))]
    mixed = plots.over_settings({"optimizer.lr": {"sft": curve}, "loss.share": {"sft": shares}})
    assert [panel.get_xscale() for panel in mixed.axes] == ["log", "linear"]  # which has a place for 0


def test_a_figure_is_drawn_again_when_its_data_have_changed(tmp_path):
    def draw(height: float) -> int:
        rows = [BarRow("tiny", "sft", [Estimate(height)], [])]
        plots.draw(tmp_path / "figure", tmp_path / "figures.json", plots.bars, rows, ["x"])
        return (tmp_path / "figure.png").stat().st_mtime_ns

    first = draw(1.0)
    assert draw(1.0) == first and draw(2.0) > first
    (tmp_path / "figure.svg").unlink()
    assert draw(2.0) and (tmp_path / "figure.svg").exists()


def test_a_figure_is_drawn_again_when_the_code_has_changed(tmp_path, monkeypatch):
    drawn = []

    def save(_: object, path: Path) -> None:
        drawn.append([path.with_suffix(suffix).write_text("") for suffix in (".png", ".svg")])

    def draw() -> int:
        plots.draw(tmp_path / "figure", tmp_path / "figures.json", plots.bars, [], [])
        return len(drawn)

    monkeypatch.setattr(plots, "save", save)
    monkeypatch.setattr(plots, "bars", lambda *_: None)  # which is code of this file
    assert (draw(), draw()) == (1, 1)
    (tmp_path / "changed.py").write_text(Path(__file__).read_text() + "# another colour\n")
    monkeypatch.setattr(plots.inspect, "getfile", lambda _: str(tmp_path / "changed.py"))
    assert draw() == 2
