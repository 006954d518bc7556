"""Our records of a declared table beside the paper's figures, worked out by hand."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from losslab.composition import experiment_files
from losslab.config.schema import Config
from losslab.config.sweep import SweepConfig
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.records.record import Cell
from losslab.results import paper, plots, setting_curves, tables
from losslab.results.notes import notes
from losslab.results.write_tables import curves_of, write_table, write_tables

MATHS = ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"]


def score(config: Config, **scores: float) -> Cell:
    """A record of a declared cell, its scores with an interval of ± 1 over problems."""
    found = Cell.of(config)
    found.declare(config)
    own = config.eval
    parts = {
        name: {"score": value, "interval": [value - 1, value + 1], "samples": own.samples}
        for name, value in scores.items()
    }
    write_json(found.scores(config) / "scores.json", {"benchmarks": parts, "verdict": own.verdict})
    sampling = {"temperature": own.temperature, "top_p": own.top_p, "max_new_tokens": own.max_new_tokens}
    write_json(found.scores(config) / "protocol.yaml", sampling | {"benchmarks": dict.fromkeys(scores, "hash")})
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table 9 with three seeds of one cell, one of another, and a row that nobody declared."""
    results = tmp_path_factory.mktemp("results")
    grid = {(c.names.model, c.names.loss): c for c in experiment_files.declared("table9", str(results))}
    dft = grid["qwen2.5-math-1.5b", "dft"]
    for seed in (1, 2, 3):
        own = {"math500": 60.0 + 2 * seed, "minerva_math": 20.0, "olympiadbench": 28.0, "aime24": 5.0}
        score(replace(dft, seed=seed), amc23=29.5 + seed / 2, **own)
    score(grid["qwen2.5-math-1.5b", "sft"], math500=41.0, minerva_math=12.5)
    hot = replace(dft, optimizer=replace(dft.optimizer, lr=1e-3))
    score(hot, math500=90.0, minerva_math=1.0, olympiadbench=1.0, aime24=1.0, amc23=1.0)
    return results


def test_all_that_is_declared_is_shown_in_the_papers_order(results):
    table = tables.build(experiment_files.layout("table9"), str(results))
    assert table.columns == [*MATHS, "average"]
    shown = [(row.names["model"], row.label, len(row.scored), len(row.entries)) for row in table.rows]
    lr = "optimizer.lr"
    assert shown == [
        ("llama-3.2-3b", "base", 0, 1),
        ("llama-3.2-3b", "sft", 0, 1),
        ("llama-3.2-3b", "dft", 0, 1),
        ("qwen2.5-math-1.5b", "base", 0, 1),
        ("qwen2.5-math-1.5b", "sft", 1, 1),
        ("qwen2.5-math-1.5b", f"dft {lr}=5e-05", 3, 3),
        ("qwen2.5-math-1.5b", f"dft {lr}=0.001", 1, 1),
    ]
    assert [str(row.value("math500")) for row in table.rows[4:]] == ["41.0 ± 1.0", "64.0 ± 5.0", "90.0 ± 1.0"]
    assert all(row.value(column) is None for row in table.rows[:4] for column in table.columns)
    assert table.rows[4].value("average") is None  # of two benchmarks of five


def test_differences_from_the_paper(results):
    comparison = paper.compare(tables.build(experiment_files.layout("table9"), str(results)))
    assert [row.name for row, _ in comparison.rows] == ["base", "sft", "dft"] * 2  # not what nobody declared
    ours = {(row.names["model"], row.name): found for row, found in comparison.rows}
    dft, sft = ours["qwen2.5-math-1.5b", "dft"], ours["qwen2.5-math-1.5b", "sft"]
    # 62, 64, 66: t(0.975, 2) s / sqrt(3) = 4.3027 * 2 / 1.7321 = 4.97; 30, 30.5, 31 a quarter of that
    assert (dft["math500"].paper, dft["math500"].value, dft["math500"].inside) == (64.85, pytest.approx(-0.85), True)
    assert dft["math500"].ours.half == pytest.approx(4.968, abs=1e-3)
    assert (dft["amc23"].value, dft["amc23"].inside) == (pytest.approx(30.5 - 40.78), False)
    mean = (64 + 20 + 28 + 5 + 30.5) / 5
    assert dft["average"].value == pytest.approx(mean - 32.90)
    assert (sft["math500"].value, sft["math500"].inside) == (pytest.approx(-0.47), True)
    assert (sft["minerva_math"].value, sft["minerva_math"].inside) == (pytest.approx(1.65), False)
    assert (sft["average"].value, sft["average"].inside) == (None, None)
    assert ours["llama-3.2-3b", "base"]["math500"].ours is None


def test_a_table_of_one_benchmark_without_an_average(tmp_path):
    """Section 4.5: three exact matches and no average; a single benchmark is its own average in our table alone."""
    rows = [row for row in paper.printed() if row.table == "knowledge"]
    assert {row.method: row.values for row in rows} == {
        "base": {"natural_questions": 31.24}, "sft": {"natural_questions": 36.62}, "dft": {"natural_questions": 30.14}
    }  # fmt: skip
    (sft,) = (c for c in experiment_files.declared("knowledge", str(tmp_path)) if c.names.loss == "sft")
    score(sft, natural_questions=37.0)
    comparison = paper.compare(tables.build(experiment_files.layout("knowledge"), str(tmp_path)))
    found = {row.name: one for row, one in comparison.rows}
    assert [list(one) for one in found.values()] == [["natural_questions"]] * 3 and comparison.slips == []
    assert found["sft"]["natural_questions"].value == pytest.approx(0.38)
    assert found["dft"]["natural_questions"].ours is None


def test_another_measure_is_not_compared(tmp_path):
    """Greedy scores, or those of four samples, are missing beside the paper's until there are comparable ones."""
    sft = {c.names.model: c for c in experiment_files.declared("table9", str(tmp_path)) if c.names.loss == "sft"}
    few, cold = (replace(sft["llama-3.2-3b"].eval, **own) for own in ({"samples": 4}, {"temperature": 0.0}))
    for own, value in ((few, 40.0), (cold, 50.0)):
        model = "llama-3.2-3b" if own is few else "qwen2.5-math-1.5b"
        score(replace(sft[model], eval=own), **dict.fromkeys(MATHS, value))

    def compared():
        table = tables.build(experiment_files.layout("table9"), str(tmp_path))
        assert [row.value("math500").mean for row in table.rows if row.scored][:2] == [40.0, 50.0]
        rows = paper.compare(table).rows
        return {row.names["model"]: part["math500"].value for row, part in rows if row.name == "sft"}

    assert compared() == {"llama-3.2-3b": None, "qwen2.5-math-1.5b": None}
    score(sft["qwen2.5-math-1.5b"], **dict.fromkeys(MATHS, 45.0))
    assert compared() == {"llama-3.2-3b": None, "qwen2.5-math-1.5b": pytest.approx(45.0 - 41.47)}
    # A task of lm_eval has one sample, and is no benchmark of the paper's table.
    path = Cell.of(sft["qwen2.5-math-1.5b"]).scores(sft["qwen2.5-math-1.5b"]) / "scores.json"
    content = read_json(path)
    content["benchmarks"]["mmlu"] = {"score": 60.0, "interval": [58.0, 62.0], "samples": 1}
    write_json(path, content)
    assert compared() == {"llama-3.2-3b": None, "qwen2.5-math-1.5b": pytest.approx(45.0 - 41.47)}


def test_slips_of_the_paper_are_footnotes():
    """Three averages of Table 9, a figure that no run can have, and a run with two sets of scores."""
    grid = experiment_files.declared("table9", "no/where")  # for the number of problems and samples
    found = {
        (row.table, row.model, row.method, slip.column): slip.text
        for row in paper.printed()
        for slip in paper.slips(row, grid)
    }
    average = "the paper prints an average of {}; the mean of its row is {}"
    assert found == {
        ("table1", "llama-3.1-8b", "base", "amc23"): (
            "the paper prints 1.01, which 16 samples of 40 problems cannot give: 0.94 or 1.09 can"
        ),
        ("table7", "qwen2.5-math-1.5b", "dft", "average"): (
            "table1 of the paper prints an average of 31.58 for the same run"
        ),
        ("table9", "llama-3.2-3b", "sft", "average"): average.format("2.56", "2.16"),
        ("table9", "qwen2.5-math-1.5b", "sft", "average"): average.format("16.87", "16.47"),
        ("table9", "qwen2.5-math-1.5b", "dft", "average"): average.format("32.90", "32.50"),
    }


def test_a_table_in_every_format(results):
    write_table(experiment_files.layout("table9"), str(results))
    folder = results / "tables" / "table9"
    text = (folder / "table.md").read_text()
    assert "| llama-3.2-3b | base | – | – | – | – | – | – | 0/1 |" in text
    assert "| qwen2.5-math-1.5b | sft | 41.0 ± 1.0 | 12.5 ± 1.0 | – | – | – | – | 1 |" in text
    assert "64.85 (−0.8) | 22.58 (−2.6)" in text  # 20.0 of two equal seeds, which have no interval
    assert "32.90 (−3.4*) [3] |" in text and "[3] qwen2.5-math-1.5b, dft, average: the paper prints" in text
    ours, theirs = (folder / "table.tex").read_text().split("\n\n")
    for part, columns in ((ours, 9), (theirs, 8)):
        assert re.findall(r"\\(begin|end)\{(\w+)\}", part) == [
            ("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")
        ]  # fmt: skip
        assert [part.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\addlinespace")] == [1] * 4
        lines = [line for line in part.splitlines() if line.endswith(r"\\")]
        assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {columns}
        assert part.isascii() and not re.search(r"(?<!\\)[_%#]", re.sub(r"\\label.*", "", part))
    assert r" & sft & 41.0 $\pm$ 1.0 & 12.5 $\pm$ 1.0 & -- & -- & -- & -- & 1 \\" in ours
    assert r"\textbf{20.0} & \textbf{28.0}" in ours and r"minerva\_math" in ours
    assert r"2.56 (--)\textsuperscript{1}" in theirs and r"\textsuperscript{1} llama-3.2-3b, sft, average" in theirs
    lines = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    dft = lines[5]
    assert (dft["seeds"], dft["seeds_asked"], dft["math500_paper"], dft["math500_inside"]) == (
        "3",
        "3",
        "64.85",
        "True",
    )
    assert float(dft["math500_difference"]) == pytest.approx(-0.85)
    assert lines[0]["math500"] == lines[0]["math500_difference"] == "" and lines[0]["math500_paper"] == "1.63"
    assert (folder / "figure.svg").read_text().startswith("<?xml") and (folder / "figure.png").exists()
    before = (folder / "figure.svg").read_bytes()
    write_tables(["table9"], str(results))
    assert (folder / "figure.svg").read_bytes() == before


def test_declared_seeds_are_missed_one_by_one(tmp_path):
    sft = [c for c in experiment_files.declared("demo", str(tmp_path)) if c.names.loss == "sft"]
    score(sft[1], tiny_add=50.0, tiny_word=50.0, tiny_long=50.0)
    rows = {row.label: row for row in tables.build(experiment_files.layout("demo"), str(tmp_path)).rows}
    assert [entry.seed for entry in rows["sft"].entries] == [0, 1, 2]
    assert {label: (len(row.scored), len(row.entries)) for label, row in rows.items()} == {
        "base": (0, 3), "sft": (1, 3), "dft": (0, 3), "iw_sft": (0, 3)
    }  # fmt: skip


def test_scores_over_settings(tmp_path):
    """Learning rate and batch size, one at a time; the score of a cell is 1e5 lr + batch / 64, and one is missing."""
    (start,) = (c for c in experiment_files.declared("figure1", str(tmp_path)) if c.names.loss == "dft")
    points = [(1e-5, 256), (5e-5, 256), (2e-4, 256), (5e-5, 32), (5e-5, 64)]
    sweep = replace(start.sweep, name="study", paper=None, against=["optimizer.lr", "train.batch_size"])
    for lr, batch in points:
        train, optimizer = replace(start.train, batch_size=batch), replace(start.optimizer, lr=lr)
        config = replace(start, train=train, optimizer=optimizer, sweep=sweep)
        value = lr * 1e5 + batch / 64
        score(config, **({"math500": value} if batch == 32 else dict.fromkeys(MATHS, value)))
    table = tables.build(sweep, str(tmp_path))
    rates, batches = (setting_curves.curves(table, key) for key in sweep.against)
    (rate,), (batch,) = rates.values(), batches.values()
    assert (list(rates), list(batches)) == (["dft at train.batch_size=256"], ["dft at optimizer.lr=5e-05"])
    assert [(x, y.mean) for x, y in rate] == [(1e-5, 5.0), (5e-5, 9.0), (2e-4, 24.0)]
    assert [(x, y and y.mean) for x, y in batch] == [(32, None), (64, 6.0), (256, 9.0)]
    assert rate[0][1].half == pytest.approx(5**0.5 / 5)  # of five independent benchmarks, each ± 1
    rows = list(csv.DictReader(io.StringIO(setting_curves.to_csv(table))))
    assert len(rows) == 6 and rows[0]["value"] == "1e-05" and [row["average"] for row in rows].count("") == 1
    assert {(row["setting"], row["objective"], row["held"]) for row in rows} == {
        ("optimizer.lr", "dft", "train.batch_size=256"), ("train.batch_size", "dft", "optimizer.lr=5e-05"),
    }  # fmt: skip
    assert [panel.get_xlabel() for panel in plots.over_settings({"lr": rates, "batch": batches}).axes] == [
        "lr",
        "batch",
    ]
    with pytest.raises(ValueError, match="sweep.against=loss names no number of the sweep's cells"):
        setting_curves.curves(table, "loss")


def test_a_full_grid_has_a_line_for_each_value_of_the_other_setting(tmp_path):
    (start,) = (c for c in experiment_files.declared("figure1", str(tmp_path)) if c.names.loss == "dft")
    sweep = replace(start.sweep, name="study", paper=None, against=["optimizer.lr", "train.batch_size"])
    for i, lr in enumerate((1e-5, 1e-4)):
        for j, batch in enumerate((32, 64)):
            train, optimizer = replace(start.train, batch_size=batch), replace(start.optimizer, lr=lr)
            config = replace(start, train=train, optimizer=optimizer, sweep=sweep)
            score(config, **dict.fromkeys(MATHS, 10.0 * i + j))
    table = tables.build(sweep, str(tmp_path))
    assert {
        name: [(x, y.mean) for x, y in curve]
        for key in sweep.against
        for name, curve in setting_curves.curves(table, key).items()
    } == {
        "dft at train.batch_size=32": [(1e-5, 0.0), (1e-4, 10.0)],
        "dft at train.batch_size=64": [(1e-5, 1.0), (1e-4, 11.0)],
        "dft at optimizer.lr=1e-05": [(32, 0.0), (64, 1.0)],
        "dft at optimizer.lr=0.0001": [(32, 10.0), (64, 11.0)],
    }
    rows = csv.DictReader(io.StringIO(setting_curves.to_csv(table)))
    assert {(row["value"], row["held"], row["average"]) for row in rows if row["setting"] == "optimizer.lr"} == {
        ("1e-05", "train.batch_size=32", "0.0"), ("1e-05", "train.batch_size=64", "1.0"),
        ("0.0001", "train.batch_size=32", "10.0"), ("0.0001", "train.batch_size=64", "11.0"),
    }  # fmt: skip


def test_configurations_are_lines_of_their_own(tmp_path):
    """Of one objective, two parameters, numbers of epochs or of samples, and nothing of code that has changed since."""
    start = {c.names.loss: c for c in experiment_files.declared("figure1", str(tmp_path))}
    sft, power = start["sft"], replace(start["dft"], names=replace(start["dft"].names, loss="power"))
    powers = [replace(power, loss={"_target_": "losslab.objectives.power.Power", "alpha": a}) for a in (0.5, 2)]
    sweep = replace(sft.sweep, name="study", paper=None, against=["optimizer.lr", "train.batch_size"])

    def setting(config: Config, lr: float) -> Config:
        names = replace(config.names, method=f"lr_{lr:g}")  # which is but the setting's name
        return replace(config, names=names, optimizer=replace(config.optimizer, lr=lr), sweep=sweep)

    def add(config: Config, value: float, lr: float = 5e-5) -> Cell:
        return score(setting(config, lr), **dict.fromkeys(MATHS, value))

    def found() -> dict[str, list[tuple[float, float | None]]]:
        table = tables.build(sweep, str(tmp_path))
        rates, batches = (setting_curves.lines(table, key) for key in sweep.against)
        assert [line.configuration for line in batches] == [line.configuration for line in rates]
        assert {line.held_text for line in rates} == {"train.batch_size=256"}
        return {line.configuration: [(x, y and y.mean) for x, y in line.curve] for line in rates}

    rates = [1e-5, 5e-5, 2e-4]
    for i, config in enumerate((sft, *powers)):
        for j, lr in enumerate(rates):
            add(config, 10.0 * (i + 1) + j, lr)
    add(replace(sft, train=replace(sft.train, epochs=3)), 90.0)
    assert found() == {
        "sft train.epochs=1": [(1e-5, 10.0), (5e-5, 11.0), (2e-4, 12.0)],
        "sft train.epochs=3": [(5e-5, 90.0)],
        "power loss.alpha=0.5": [(1e-5, 20.0), (5e-5, 21.0), (2e-4, 22.0)],
        "power loss.alpha=2": [(1e-5, 30.0), (5e-5, 31.0), (2e-4, 32.0)],
    }
    earlier = add(replace(sft, seed=1), 95.0).folder / "cell.json"
    write_json(earlier, read_json(earlier) | {"recipe": "of other code", "updated": "2000-01-01"})
    add(replace(powers[0], seed=1, eval=replace(sft.eval, samples=4)), 99.0)
    missing = setting(powers[0], 1e-4)
    Cell.of(missing).declare(missing)
    assert found() == {
        "sft train.epochs=1": [(1e-5, 10.0), (5e-5, 11.0), (2e-4, 12.0)],
        "sft train.epochs=3": [(5e-5, 90.0)],
        "power loss.alpha=0.5 eval.samples=16": [(1e-5, 20.0), (5e-5, 21.0), (1e-4, None), (2e-4, 22.0)],
        "power loss.alpha=0.5 eval.samples=4": [(5e-5, 99.0), (1e-4, None)],
        "power loss.alpha=2 eval.samples=16": [(1e-5, 30.0), (5e-5, 31.0), (2e-4, 32.0)],
    }


def test_accuracy_over_steps_names_what_is_missing(tmp_path):
    steps = next(c for c in experiment_files.declared("figure1", str(tmp_path)) if c.names.loss == "dft")
    cell = score(steps, **dict.fromkeys(MATHS, 30.0))
    write_lines(cell.metrics, [{"step": step} for step in range(1, 4)])  # an online cell has no histogram
    write_json(cell.scores(steps, 2) / "scores.json", {"benchmarks": dict.fromkeys(MATHS, {"score": 20.0})})
    score(replace(steps, seed=7), **dict.fromkeys(MATHS, 40.0))
    write_tables([], str(tmp_path))
    folder = tmp_path / "tables" / "figure1"
    text = (folder / "table.md").read_text()
    assert "No accuracy over steps is on record for sft." in text
    assert "The accuracy of dft over steps is that of 1 of its 2 seeds." in text
    points = csv.DictReader(io.StringIO((folder / "steps.csv").read_text()))
    assert [(p["step"], p["accuracy"]) for p in points if p["benchmark"] == "average"] == [("2", "20.0"), ("3", "30.0")]
    assert {"steps.svg", "steps.png"} < {path.name for path in folder.iterdir()}
    of_no_file = replace(tables.build(SweepConfig(name="figure1"), str(tmp_path)), grid=[])
    assert list(notes(of_no_file, curves_of(of_no_file), [], [])) == [
        "The accuracy of dft over steps is that of 1 of its 2 seeds."
    ]


def test_probabilities_that_nobody_measured_are_named(tmp_path):
    score(experiment_files.declared("figure2", str(tmp_path))[0], **dict.fromkeys(MATHS, 30.0))
    write_tables(["figure2"], str(tmp_path))
    text = (tmp_path / "tables" / "figure2" / "table.md").read_text()
    assert "No probabilities of training targets are on record for sft, dft, dpo, ppo, grpo." in text
