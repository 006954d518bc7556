"""pass@k of rows from records written by hand, in the files of a table and on its page."""

import csv
import re

import pytest
from test_tables import cell

from losslab.config.sweep import SweepConfig
from losslab.files.json_files import read_json, write_json
from losslab.report import page
from losslab.results import passes, tables
from losslab.results.passes import Column
from losslab.results.problem_shares import ProblemShares
from losslab.results.write_tables import write_tables
from losslab.statistics.intervals import Estimate, student

# Right samples of four, of each problem; of a base with one seed and an objective with two.
RIGHT = {"base": [[0, 0, 2, 4]], "sft": [[1, 1, 4, 0], [1, 1, 1, 1]]}


def records(results, benchmark="math500", **more):
    for loss, of_seeds in RIGHT.items():
        for seed, right in enumerate(of_seeds):
            found = cell(results, loss, seed, {benchmark: 25.0 * sum(right) / 4}, samples=4)
            (path,) = found.folder.glob("scores/*/scores.json")
            content = read_json(path)
            content["benchmarks"][benchmark] |= {"right": dict.fromkeys(("official", "corrected"), right), **more}
            write_json(path, content)


def measured(results) -> dict[Column, dict[str, Estimate]]:
    table = tables.build(SweepConfig(name="study"), str(results))
    found = passes.measure(table, ProblemShares(table))
    return {
        column: {row.label: value for row, value in zip(table.rows, of_rows, strict=True) if value}
        for column, of_rows in found.items()
    }


def test_rows_have_pass_at_k_with_the_interval_of_their_scores(tmp_path):
    """Of two samples one is right with a probability of 1/2 where one of four is, 5/6 where two are."""
    records(tmp_path)
    found = measured(tmp_path)
    assert list(found) == [("math500", 4, 2), ("math500", 4, 4)]
    two, four = found.values()
    assert two["base"].mean == pytest.approx(100 * (5 / 6 + 1) / 4) and four["base"].mean == 50.0
    # problems at 0, 0, 100, 100, whose standard deviation is 100 / sqrt(3)
    assert four["base"].half == pytest.approx(student(3, 0.95) * 100 / 3**0.5 / 2)
    assert two["sft"].mean == pytest.approx((100 * (1 / 2 + 1 / 2 + 1) / 4 + 50) / 2) == 50.0
    assert (four["sft"].mean, four["sft"].half) == (87.5, pytest.approx(student(1, 0.95) * 12.5))  # of 75 and 100


def test_the_files_and_the_page_of_a_sweep_have_it_beside_the_table(tmp_path, capsys):
    records(tmp_path)
    write_tables(["study"], str(tmp_path))
    folder = tmp_path / "tables/study"
    assert (folder / "table.md").read_text().split("## pass@k\n")[1].splitlines()[1:5] == [
        "| model | objective | math500 pass@4 |",
        "|---|---|---:|",
        "| tiny | base | 50.0 ± 91.9 |",
        "| tiny | sft | **87.5 ± 158.8** |",
    ]
    rows = list(csv.DictReader((folder / "passes.csv").open()))
    assert [(r["objective"], r["benchmark"], r["samples"], r["k"], round(float(r["mean"]), 3)) for r in rows] == [
        ("base", "math500", "4", "2", 45.833),
        ("base", "math500", "4", "4", 50.0),
        ("sft", "math500", "4", "2", 50.0),
        ("sft", "math500", "4", "4", 87.5),
    ]
    assert "passes.csv, and in table.md" in capsys.readouterr().out
    html = page.write_report(SweepConfig(name="study"), str(tmp_path)).read_text()
    assert re.search(r"<h3>pass@k</h3>.*math500 pass@4.*87\.5 ± 158\.8", html, re.DOTALL)


def test_there_is_none_of_one_sample_of_points_or_of_unequal_numbers(tmp_path):
    cell(tmp_path / "one", "sft", 0, {"math500": 50.0}, samples=1)
    assert measured(tmp_path / "one") == {}
    records(tmp_path / "points", "wemath", questions=12)  # of multi-step problems
    assert measured(tmp_path / "points") == {}
    records(tmp_path / "unequal")
    (path,) = (tmp_path / "unequal").glob("cells/*-sft-s1-*/scores/*/scores.json")
    content = read_json(path)
    del content["benchmarks"]["math500"]["right"]  # an older record, without its samples
    write_json(path, content)
    assert {column: list(of_rows) for column, of_rows in measured(tmp_path / "unequal").items()} == {
        ("math500", 4, 2): ["base"],
        ("math500", 4, 4): ["base"],
    }
