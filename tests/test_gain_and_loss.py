"""Gain on mathematics against what is forgotten, from records written by hand."""

import csv
import re
import shutil

import pytest
from test_tables import cell

from losslab.config.sweep import SweepConfig
from losslab.files.atomic import write
from losslab.files.json_files import read_json, write_json
from losslab.records.cell_records import cell_records
from losslab.report import page, training
from losslab.report.rows import report_rows
from losslab.results import gain_and_loss, tables
from losslab.results.problem_shares import ProblemShares
from losslab.results.write_tables import write_tables
from losslab.statistics.intervals import Estimate, student

# Right samples of four, of each problem.
RIGHT = {
    "base": {"math500": [2, 2], "amc23": [0, 0], "ifeval": [4, 4, 0, 0], "mmlu": [4, 4]},
    "sft": {"math500": [4, 2], "amc23": [0, 2], "ifeval": [4, 0, 0, 0], "mmlu": [4, 2]},
    "dft": {"math500": [4, 2], "amc23": [0, 0], "ifeval": [4, 4, 0, 0], "mmlu": [4, 4]},
    "nft": {"math500": [2, 2], "amc23": [0, 0], "ifeval": [4, 0, 0, 0], "mmlu": [4, 4]},
}


def records(results, seeds=(0,)):
    for loss, right in RIGHT.items():
        for seed in seeds:
            scores = {name: 25.0 * sum(counts) / len(counts) for name, counts in right.items()}
            found = cell(results, loss, seed, scores, samples=4)
            (path,) = found.folder.glob("scores/*/scores.json")
            content = read_json(path)
            for name, counts in right.items():
                content["benchmarks"][name]["right"] = {"official": counts, "corrected": counts}
            write_json(path, content)
            write(path.with_name("protocol.yaml"), "benchmarks:\n" + "".join(f"  {name}: hash\n" for name in right))


def test_gain_and_loss_are_paired_with_the_base(tmp_path):
    records(tmp_path)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert gain_and_loss.sides(table) == (["math500", "amc23"], ["ifeval", "mmlu"])
    points = {p.row.label: p for p in gain_and_loss.tradeoffs(table, ProblemShares(table))}
    means = {label: (point.gain.mean, point.loss.mean, point.front) for label, point in points.items()}
    assert means == {"sft": (25.0, 25.0, True), "dft": (12.5, 0.0, True), "nft": (0.0, 12.5, False)}
    # math500 of dft: 50 and 0 points, whose mean has the variance 25 ** 2; amc23 does not differ; the mean of both has
    # half of 25 as its standard error, with one degree of freedom. Of three rows, six intervals are simultaneous.
    assert points["dft"].gain.half == pytest.approx(12.5 * student(1, 0.95 ** (1 / 6)), rel=1e-6)
    assert points["dft"].loss.half is None  # of four problems, none of which differs


def test_a_row_equal_to_the_base_is_not_on_the_front_and_of_equal_rows_both_are(tmp_path, monkeypatch):
    """nft answers as the base does; iw_sft gains and loses as much as sft, on other problems."""
    monkeypatch.setitem(RIGHT, "nft", RIGHT["base"])
    monkeypatch.setitem(RIGHT, "iw_sft", {name: right[::-1] for name, right in RIGHT["sft"].items()})
    records(tmp_path)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    fronts = {p.row.label: p.front for p in gain_and_loss.tradeoffs(table, ProblemShares(table))}
    assert fronts == {"sft": True, "iw_sft": True, "dft": True, "nft": False}


def test_rows_of_other_seeds_are_not_on_one_front(tmp_path):
    """The base has two seeds, and sft, which is on the front with them, the first alone."""
    records(tmp_path, seeds=(0, 1))
    (folder,) = [path for path in (tmp_path / "cells").iterdir() if "-sft-s1" in path.name]
    shutil.rmtree(folder)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    points = {p.row.label: p for p in gain_and_loss.tradeoffs(table, ProblemShares(table))}
    assert {label: point.seeds for label, point in points.items()} == {"sft": (0,), "dft": (0, 1), "nft": (0, 1)}
    assert {label: point.front for label, point in points.items()} == {"sft": False, "dft": True, "nft": False}


def test_only_scores_of_one_measure_compete(tmp_path):
    """Of the first 20 and 10 points under one protocol, of the second 30 and 5 under another: each is on its front."""
    right = {  # of ten samples; `cell` writes those under the protocol paper
        "greedy": {"base": ([4] * 10, [6] * 10), "sft": ([7] * 10, [5] * 5 + [6] * 5)},
        "paper": {"base": ([4] * 10, [6] * 10), "sft": ([6] * 10, [5] * 10)},
    }
    for protocol, of_loss in right.items():
        for loss, (math, ifeval) in of_loss.items():
            counts = {"math500": math, "ifeval": ifeval}
            found = cell(tmp_path, loss, 0, {name: 10.0 * sum(c) / len(c) for name, c in counts.items()}, samples=10)
            (path,) = found.folder.glob("scores/paper-*/scores.json")
            content = read_json(path)
            for name, of_name in counts.items():
                content["benchmarks"][name]["right"] = {"official": of_name, "corrected": of_name}
            folder = path.parent if protocol == "paper" else path.parent.with_name("greedy-1")
            write_json(folder / "scores.json", content)
            write(folder / "protocol.yaml", "benchmarks:\n  math500: hash\n  ifeval: hash\n")
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    points = gain_and_loss.tradeoffs(table, ProblemShares(table))
    found = sorted((round(p.gain.mean, 9), round(p.loss.mean, 9), p.front) for p in points)
    assert found == [(20.0, 10.0, True), (30.0, 5.0, True)]


def test_the_table_names_the_front_and_the_page_draws_it(tmp_path, capsys):
    records(tmp_path, seeds=(0, 1))
    write_tables(["study"], str(tmp_path))
    folder = tmp_path / "tables/study"
    text = (folder / "table.md").read_text().split("## Gain against loss\n")[1]
    assert text.splitlines()[1:3] == [
        "| model | objective | gain | loss | seeds | Pareto front |",
        "|---|---|---:|---:|---:|---:|",
    ]
    assert "| tiny | nft | +0.0 | +12.5 ±" in text and "mean of math500, amc23. Loss: the decrease" in text
    rows = list(csv.DictReader((folder / "gain_and_loss.csv").open()))
    fronts = {row["objective"]: (float(row["gain"]), float(row["loss"]), row["pareto_front"]) for row in rows}
    assert fronts == {"sft": (25.0, 25.0, "True"), "dft": (12.5, 0.0, "True"), "nft": (0.0, 12.5, "False")}
    assert (folder / "gain_and_loss.png").exists() and (folder / "gain_and_loss.svg").exists()
    assert "gain_and_loss.png, gain_and_loss.svg, gain_and_loss.csv" in capsys.readouterr().out
    html = page.write_report(SweepConfig(name="study"), str(tmp_path)).read_text()
    assert "points gained on mathematics over points lost on forgetting" in html
    titles = re.findall("^## (.*)", (folder / "table.md").read_text(), re.MULTILINE)
    assert titles == ["Gain against loss", "pass@k"] and all(f"<h3>{title}</h3>" in html for title in titles)
    assert "sft: gain +25.0, loss +25.0" in html and "base: gain +0.0, loss +0.0" in html


def test_the_figure_has_its_points_intervals_and_fronts_where_the_values_are():
    points = [
        ("tiny", "sft", Estimate(25.0, 2.0), Estimate(10.0, 4.0), True, "greedy"),
        ("tiny", "dft", Estimate(12.0), Estimate(-1.0), True, "greedy"),
        ("tiny", "nft", Estimate(0.0, 1.0), Estimate(12.5, 3.0), False, "greedy"),
        ("tiny", "sft", Estimate(30.0, 2.0), Estimate(20.0, 4.0), True, "sampled"),
        ("big", "sft", Estimate(5.0, 1.0), Estimate(6.0, 1.0), True, "greedy"),
    ]
    tiny, big = gain_and_loss.figure(points).axes
    drawn = [
        (c.get_label(), c[0].get_xydata().tolist(), *(bar.get_segments()[0].tolist() for bar in c[2]))
        for c in tiny.containers
    ]
    assert drawn == [  # (loss, gain), then the interval of the loss and that of the gain
        ("sft", [[10, 25]], [[6, 25], [14, 25]], [[10, 23], [10, 27]]),
        ("dft", [[-1, 12]], [], []),  # without intervals
        ("nft", [[12.5, 0]], [[9.5, 0], [15.5, 0]], [[12.5, -1], [12.5, 1]]),
        ("sft", [[20, 30]], [[16, 30], [24, 30]], [[20, 28], [20, 32]]),
    ]
    assert [c[0].get_markersize() for c in tiny.containers] == [8, 8, 5, 8]  # those on a front are larger
    fronts = [line for line in tiny.lines if line.get_linestyle() == ":"]
    assert [line.get_xydata().tolist() for line in fronts] == [[[-1, 12], [10, 25]], [[20, 30]]]
    assert {line.get_drawstyle() for line in fronts} == {"steps-post"}
    (base,) = [line for line in tiny.lines if line.get_marker() == "+"]
    assert base.get_xydata().tolist() == [[0, 0]]
    assert [c[0].get_xydata().tolist() for c in big.containers] == [[[6, 5]]]
    assert big.containers[0][0].get_color() == tiny.containers[0][0].get_color() == tiny.containers[3][0].get_color()


def test_the_front_is_that_of_all_rows_also_of_those_that_are_not_drawn(tmp_path):
    records(tmp_path)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    points = gain_and_loss.tradeoffs(table, ProblemShares(table))
    rows = report_rows(table, cell_records(str(tmp_path)))
    of_all = "points gained on mathematics over points lost on forgetting; on the Pareto front: "
    (chart,) = training.gain_against_loss(rows, points)
    assert sorted(chart.note.removeprefix(of_all).split(", ")) == ["dft", "sft"]
    (chart,) = training.gain_against_loss([row for row in rows if row.label in ("sft", "nft")], points)
    front, left = chart.note.removeprefix(of_all).split("; ")
    assert (sorted(front.split(", ")), left) == (["dft", "sft"], "1 of 3 points are left out")
    assert chart.svg.count("nft: gain") and not chart.svg.count("dft: gain")


def test_there_is_none_without_both_sides_or_without_a_base_of_the_same_seed(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    cell(tmp_path, "base", 0, {"math500": 40.0})
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert gain_and_loss.tradeoffs(table, ProblemShares(table)) == []
