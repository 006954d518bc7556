"""The toy suite's command in short: two of its twins, one seed, with the row of one more objective."""

import csv
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from place import LOSSLAB
from test_tables import cell

from losslab.commands import toy_suite
from losslab.composition.experiment_files import declared, layout
from losslab.config.sweep import SweepConfig
from losslab.files.json_files import write_json, write_lines
from losslab.records.record import Cell
from losslab.results import compare_to_baselines, tables
from losslab.results.table_formats import markdown
from losslab.results.write_tables import write_table


def test_an_objective_beside_its_rivals(tmp_path):
    for seed, (sft, dft, mine) in enumerate([(50, 60, 58), (40, 52, 52), (30, 44, 40)]):
        for loss, score in (("sft", sft), ("dft", dft), ("eaft", mine)):
            cell(tmp_path, loss, seed, {"math500": score})
    cell(tmp_path, "eaft", 0, {"math500": 20.0}, lr=0.1)  # at a rate that nobody else was run at
    cell(tmp_path, "eaft", 1, None, lr=0.2)
    lines = markdown(
        compare_to_baselines.sheet("eaft", [tables.build(SweepConfig(name="study"), str(tmp_path))])
    ).splitlines()
    # eaft - sft: 8, 12, 10, half of the interval t(0.975, 2) 2 / sqrt(3); eaft - dft: -2, 0, -4, the same
    assert lines[2:6] == [
        "| sweep | setting | eaft | sft | dft |",
        "|---|---|---:|---:|---:|",
        "| study | optimizer.lr=0.1 | 20.0 ± 3.0 | – | – |",
        "| study | optimizer.lr=0.001 | 50.0 ± 22.8 | 40.0 ± 24.8 (+10.0 ± 5.0, better) "
        "| 52.0 ± 19.9 (-2.0 ± 5.0, open) |",
    ]


def test_a_mistyped_objective_ends_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="^loss=pwoer does not exist"):
        toy_suite.main(["twins=facts", "loss=pwoer", f"machine.results={tmp_path / 'new'}"])
    assert not (tmp_path / "new").exists()


@pytest.mark.timeout(2400)
@pytest.mark.skipif(os.environ.get("LOSSLAB_TOY_SUITE") != "required", reason="minutes: LOSSLAB_TOY_SUITE=required")
def test_two_twins_in_short(tmp_path, root):
    """Noisy demonstrations and new facts, one seed: the signs of both, and the row of one more objective."""
    command = [
        *LOSSLAB,
        "toy-suite",
        "twins=table1,facts",
        "seed=0",
        f"machine.results={tmp_path}",
    ]
    short = ["eval.samples=4", "machine.export_steps=null", "tracker=none"]
    own = ["loss=power", "loss.alpha=0.5"]
    done = subprocess.run([*command, *short, *own], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = {}
    for name in ("table1", "facts"):
        with (tmp_path / f"tables/toy_suite/{name}/table.csv").open() as file:
            scores[name] = {row["objective"]: float(row["average"] or "nan") for row in csv.DictReader(file)}
    noisy, facts = scores["table1"], scores["facts"]
    assert noisy["base"] + 3 < noisy["sft"] < noisy["dft"] - 10
    assert facts["base"] == 0 and facts["sft"] > facts["dft"] + 20
    assert noisy["sft"] < noisy["power"] and facts["dft"] < facts["power"]  # p^0.5: between the two
    page = (tmp_path / "power.md").read_text()
    assert f"| toy_suite/table1 | – | {noisy['power']:.1f} ±" in page
    assert not [*tmp_path.glob("table1*"), *tmp_path.glob("facts*")]  # the published ones are those of complete twins


def test_a_complete_twin_is_collected_with_its_records(tmp_path):
    for config in declared("toy_suite/figure3_rate", str(tmp_path)):
        own = Cell.of(config)
        own.declare(config)
        parts = {name: {"score": 50.0, "interval": [49.0, 51.0], "samples": 16} for name in config.benchmark}
        write_json(own.scores(config) / "scores.json", {"benchmarks": parts, "verdict": "official"})
    sweep = layout("toy_suite/figure3_rate")
    study = tables.build(sweep, str(tmp_path))
    assert toy_suite.complete(study)
    write_table(sweep, str(tmp_path))
    (tmp_path / "figure3_rate_steps.csv").write_text("of a time when it had some")
    (tmp_path / "figure3_batch.md").write_text("another twin")
    toy_suite.collect("figure3_rate", study, tmp_path)
    names = {"", "_claims", "_settings", "_records"}
    assert {path.name for path in tmp_path.glob("*.csv")} == {f"figure3_rate{name}.csv" for name in names}
    assert (tmp_path / "figure3_batch.md").exists()
    assert len((tmp_path / "figure3_rate_records.csv").read_text().splitlines()) == 1 + 2 * 4 * 5
    before = toy_suite.digest(study)
    own = Cell.of(config)
    shown = own.scores(config) / f"{next(iter(config.benchmark))}.jsonl"
    for elsewhere in (own.scores(config) / "other.jsonl", own.folder / "scores/quick-1" / shown.name):
        write_lines(elsewhere, [{"index": 0}])
    assert toy_suite.digest(study) == before  # of what other studies see in the same cell
    write_lines(shown, [{"index": 0}])
    (changed,) = set(toy_suite.digest(study).splitlines()) - set(before.splitlines())
    assert changed.startswith(f"{own.folder.name},{own.identity},")
    mine = replace(config, loss={"_target_": "losslab.objectives.eaft.EAFT"}, names=replace(config.names, loss="mine"))
    Cell.of(mine).declare(mine)
    assert not toy_suite.complete(tables.build(sweep, str(tmp_path)))  # with a row of the user's
    shutil.rmtree(Cell.of(mine).folder)
    (Cell.of(config).scores(config) / "scores.json").unlink()
    assert not toy_suite.complete(tables.build(sweep, str(tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["twins=table2", "loss=power"],
            "the rows of table2 name their objectives: leave loss= out",
        ),
        (["twins=tabel1"], "there is no twin tabel1; did you mean table1?"),
        (["tables"], "tables is not an option: options are written key=value, as in twins=table1"),
        (["run=no"], "run=no is neither true nor false"),
    ],
)
def test_what_is_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        toy_suite.main(arguments)


def test_tables_again_from_records_alone(tmp_path, monkeypatch, capsys):
    for config in declared("toy_suite/figure3_rate", str(tmp_path)):
        own = Cell.of(config)
        own.declare(config)
        if config.seed < 4:
            part = {"score": 50.0 + config.seed, "interval": [49.0, 51.0], "samples": 16}
            scores = {"benchmarks": dict.fromkeys(config.benchmark, part), "verdict": "official"}
            write_json(own.scores(config) / "scores.json", scores)
    monkeypatch.setattr(toy_suite, "call", None)  # nothing runs
    assert toy_suite.main(["run=false", "twins=figure3_rate", f"machine.results={tmp_path}"]) == 0
    assert "**51.5 ± 2.1** | 4/5 |" in (tmp_path / "tables/toy_suite/figure3_rate/table.md").read_text()
    assert f"not copied to {tmp_path}, since cells are missing, or are of other" in capsys.readouterr().out
