"""The race: how often it calls a row worse that is not, what it drops, and that its rungs are ordinary sweeps."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_conclusion import OBJECTIVES

from losslab.cells import race, race_text
from losslab.cells.race import RUNGS, Race
from losslab.commands import race as command
from losslab.config.schema import Config
from losslab.files import write, write_json
from losslab.records.record import Cell
from losslab.statistics import racing
from losslab.statistics.intervals import half_of, student, variances

sys.path.append(str(ROOT / "benchmarks"))
from racing import curves, share_of_cost, simulated  # noqa: E402

ROWS = [f"row {i}" for i in range(6)]
TINY = [
    "experiment=demo", "loss=sft,dft", "optimizer.lr=1e-4,4e-4", "seed=0,1,2", "dataset.rows=800", "sweep.name=study",
    "benchmark=[tiny_add]", "tracker=none",
]  # fmt: skip


@pytest.mark.parametrize("deviations", [[0.02] * 6, [0.02] * 5 + [0.10]])
def test_where_nothing_differs_no_row_is_dropped(deviations):
    """In 95 of 100 races of four rungs at least; also where one row varies five times as much between seeds."""
    rng, none = np.random.default_rng(1), [dict.fromkeys(ROWS, 0.0)] * len(RUNGS)
    wrong = sum(simulated(rng, none, dict(zip(ROWS, deviations, strict=True)), 3)[1] for _ in range(60))
    assert wrong <= 3


def test_where_rows_differ_the_best_stays_and_the_worst_go():
    """Gains of 20, 17, 10, 5, 0 and -10 points: the first is never dropped, and of six rows three or fewer are left."""
    rng, gains = np.random.default_rng(0), dict(zip(ROWS, (0.2, 0.17, 0.1, 0.05, 0.0, -0.1), strict=True))
    ends = [simulated(rng, [gains] * 4, dict.fromkeys(ROWS, 0.02), 5) for _ in range(20)]
    assert all("row 0" in left[-1] for left, _ in ends) and not any(wrong for _, wrong in ends)
    assert np.mean([len(left[0]) for left, _ in ends]) < 3.5 and np.mean([len(left[-1]) for left, _ in ends]) < 2.5


def test_what_a_race_costs():
    """Of four rows, two after an eighth and one after a quarter of the data: 4 / 8 + 2 / 4 of 4."""
    assert share_of_cost([["a", "b"], ["a"]], 4) == 0.25
    assert share_of_cost([["a", "b"]] * 4, 2) == 1.875
    still = curves(np.random.default_rng(0), 6, 0.1, 0.0)
    assert still[0] == still[-1] and len(still) == len(RUNGS)


def test_by_hand():
    """Two rows, three seeds, three problems: the pooled variance is that of the pair."""
    a = np.array([[0.5, 0.5, 0.75], [0.5, 0.25, 0.75], [0.5, 0.5, 0.5]])
    b = a - np.array([[0.1, 0.2, 0.3], [0.2, 0.3, 0.1], [0.3, 0.1, 0.2]]) - np.array([[0.0], [0.1], [0.2]])
    leader, other = racing.look({"b": {"x": b}, "a": {"x": a}}, 0.99)
    assert (leader.name, leader.difference.mean, leader.worse) == ("a", 0.0, False)
    parts = variances([100 * (b - a)])
    assert parts.between_seeds == pytest.approx(100.0) and other.difference.mean == pytest.approx(-30.0)
    assert other.difference.half == pytest.approx(half_of(parts, 3, 0.995))  # which is the longer one
    assert other.difference.half == pytest.approx(student(2, 0.995) * (100 / 3) ** 0.5, rel=1e-3)
    assert not other.worse
    assert racing.level(6, 4) == pytest.approx(1 - 0.05 / 60)
    steady = {name: {"x": a - i * 0.01} for i, name in enumerate("cdefgh")}  # which pool to next to nothing
    assert racing.look({"a": {"x": a + 0.1}, "b": {"x": b}, **steady}, 0.99)[-1].difference.half == pytest.approx(
        half_of(parts, 3, 0.995)
    )
    with pytest.raises(ValueError, match="needs 3 seeds or more"):
        racing.look({"a": {"x": a[:2]}, "b": {"x": b[:2]}}, 0.99)
    with pytest.raises(ValueError, match="two problems or more"):
        racing.look({"a": {"x": a[:, :1]}, "b": {"x": b[:, :1]}}, 0.99)


def ran(words: list[str]) -> list[Config]:
    """The cells that a command line of the race trains."""
    return race.configurations(*words)


def record(config: Config, rng: np.random.Generator) -> None:
    """What the cell of a rung leaves: dft is better, and at 4e-4 from the second rung on."""
    better = {"dft": 0.9, "sft": 0.1}[config.names.loss]
    if config.dataset.rows != 100 and (config.names.loss, config.optimizer.lr) == ("dft", 1e-4):
        better = 0.2
    cell = Cell.of(config)
    cell.declare(config)
    cell.model.mkdir(parents=True)
    write_json(cell.probabilities, {"examples": 512})
    right = [int(n) for n in rng.binomial(16, better, 40)]
    part = {"score": 100 * sum(right) / 640, "interval": None, "samples": 16, "right": {"official": right}}
    write_json(cell.scores(config) / "scores.json", {"benchmarks": {"tiny_add": part}, "verdict": "official"})
    write(cell.scores(config) / "protocol.yaml", "benchmarks: {tiny_add: hash}\n")


def test_cells_scored_on_other_problems_end_a_race(tmp_path):
    """Those of its own benchmarks; what else its cells were scored on may differ."""
    the_race, rng = Race.of([*TINY, f"machine.results={tmp_path}"]), np.random.default_rng(0)
    sft, *_, dft = the_race.entrants
    for entrant, extra in ((sft, "b"), (dft, "c")):
        for config in ran(the_race.commands("eighth", [entrant])[0][1:]):
            record(config, rng)
            path = Cell.of(config).scores(config) / "protocol.yaml"
            write(path, f"benchmarks: {{tiny_add: hash, mine: {extra}}}\n")
    assert the_race.shares("eighth", sft) and the_race.shares("eighth", dft)
    write(path, "benchmarks: {tiny_add: another}\n")
    folder = re.escape(str(path.parents[2]))
    with pytest.raises(ValueError, match=f"^the problems of tiny_add have changed .*: score {folder} and the others"):
        the_race.shares("eighth", dft)


def test_a_race_from_its_command_line_to_its_verdict(tmp_path, capsys):
    """Every rung is a sweep of its own with its share of the rows; the last one is the sweep of all rows."""
    words, rng, lines = [*TINY, f"machine.results={tmp_path}"], np.random.default_rng(0), []

    def train(line: list[str]) -> None:
        lines.append(line)
        for config in ran(line[1:]):
            record(config, rng)

    the_race = Race.of(words)
    assert [entrant.label for entrant in the_race.entrants] == [
        f"{loss} optimizer.lr={lr}" for loss in ("sft", "dft") for lr in ("0.0001", "0.0004")
    ]
    assert (the_race.rows, the_race.name) == (800, "study")
    rungs = race.run(the_race, train)
    assert [(rung.name, rung.rows, len(rung.standings)) for rung in rungs] == [("eighth", 100, 4), ("quarter", 200, 2)]
    assert set(rungs[0].left) == {"dft optimizer.lr=0.0001", "dft optimizer.lr=0.0004"}
    assert rungs[1].left == ["dft optimizer.lr=0.0004"]
    first = ran(lines[0][1:])
    assert {config.dataset.rows for config in first} == {100} and {c.sweep.name for c in first} == {"study/eighth"}
    assert len(lines) == 3 and len(first) == 6  # sft and dft, each at two rates with three seeds; then dft alone
    assert {c.names.loss for c in ran(lines[2][1:])} == {"dft"}
    whole = ran(the_race.commands("all", the_race.entrants[:1])[0][1:])
    assert [Cell.of(c).folder for c in whole] == [Cell.of(c).folder for c in the_race.entrants[0].configs]

    again: list[list[str]] = []
    assert race.run(Race.of(words), again.append) == rungs and again == []  # it reads what is done
    said = race_text.verdict(the_race, rungs)
    assert said == (
        "dft optimizer.lr=0.0004 is left: after a quarter of the rows it was better than dft optimizer.lr=0.0001 (70.4 "
        "points). sft optimizer.lr=0.0001 and sft optimizer.lr=0.0004 were dropped after an eighth of the rows, behind "
        "dft optimizer.lr=0.0004, and not trained on more. On more rows than that nothing was compared. All of these "
        "comparisons hold together with 95%, each for the rows that it was made on."
    )
    # 4 rows of 100 and 2 of 200, in place of 4 of 800, three seeds each.
    assert race_text.cost(the_race, rungs) == (
        "Trained on 2,400 rows in place of 9,600 (25%), and scored 18 models in place of 12."
    )
    assert command.main(words) == 0
    assert "dft optimizer.lr=0.0004 is left: after" in capsys.readouterr().out
    page = (tmp_path / "tables/study/race.md").read_text()
    assert "## study/quarter: 200 training rows" in page and "| dropped |" in page
    assert (tmp_path / "tables/study/race.csv").read_text().count("eighth") == 4


def test_a_rung_without_all_scores_ends_the_call_and_not_the_race(tmp_path, capsys):
    words = [*TINY, f"machine.results={tmp_path}"]
    the_race = Race.of(words)
    assert race.run(the_race, lambda line: None) == []  # as under SLURM, whose cells wait in a queue
    assert race_text.verdict(the_race, []) == "No verdict yet: cells of study/eighth have no scores."
    rng = np.random.default_rng(0)
    for line in the_race.commands("eighth", the_race.entrants):
        for config in ran(line[1:]):
            record(config, rng)
    (rung,) = race.run(the_race, lambda line: None)
    assert re.match("No verdict yet: .* and cells of study/quarter have no scores", race_text.verdict(the_race, [rung]))


def test_a_race_that_ends_with_several_rows_is_undecided():
    shares = {name: {"x": np.full((3, 4), 0.5) + np.arange(4) / 10} for name in OBJECTIVES[1:]}
    rungs = [race.Rung(name, 8 // part, racing.look(shares, 0.99)) for name, part in RUNGS.items()]
    said = race_text.verdict(Race([], ["seed=0"], [], 8), rungs)
    assert said == (
        "Undecided: sft, dft and iw_sft are left after all rows. sft has the highest average, 65.0%, which does not "
        "set it apart from the others that are left."
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["loss=base,sft"], "a race is between two rows or more"),
        (["loss=sft,dft", "seed=0,1"], "a race needs 3 seeds or more"),
        (["loss=sft,dft", "train.max_steps=10"], "leave it out"),
        (["loss=sft,dft", "dataset.rows=80"], "an eighth of the 80 rows does not fill one batch of 64"),
        (["loss=sft,dft", "force=true"], "force is not for a race"),
        (["loss=sft,nonsense"], "loss=nonsense does not exist"),
    ],
)
def test_what_is_no_race_is_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        command.main(["experiment=demo", *words])


def test_a_plan_has_the_rungs_and_loads_nothing(tmp_path, capsys):
    command.main([*TINY, f"machine.results={tmp_path}", "plan=true"])
    said = capsys.readouterr().out
    rungs = "eighth (100), quarter (200), half (400), all (800)"
    assert f"a race of 4 rows with 3 seeds each over the rungs {rungs}" in said
    assert "training rows: 1,200 where one row is left after the first rung, 18,000 where none is dropped" in said
    assert not Path(tmp_path / "cells").exists()
