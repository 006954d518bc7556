"""The race: how often it calls a row worse that is not, what it drops, and that its rungs are ordinary sweeps."""

import re
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from test_conclusion import OBJECTIVES

from losslab.cells import race, race_plan, race_text
from losslab.cells.race import RUNGS, Entrant, Race
from losslab.commands import race as command
from losslab.composition import grid
from losslab.composition.words import check_twice
from losslab.config.schema import Config
from losslab.files.atomic import write
from losslab.files.json_files import write_json
from losslab.planning import cost, plan, plan_hours
from losslab.planning.memory import Devices
from losslab.planning.plan import rows_of
from losslab.records.record import Cell
from losslab.statistics import racing
from losslab.statistics.intervals import half_of, student, with_variances

sys.path.append(str(ROOT / "benchmarks"))
from racing import curves, share_of_cost, simulated  # noqa: E402

ROWS = [f"row {i}" for i in range(6)]
TINY = [
    "experiment=demo", "loss=sft,dft", "optimizer.lr=1e-4,4e-4", "seed=0,1,2", "dataset.rows=800", "sweep.name=study",
    "benchmark=[tiny_add]", "tracker=none",
]  # fmt: skip


RACE = Race([], Entrant("base", "base", (), []), ["seed=0"], [], 8)  # of which the sentences need nothing


@pytest.mark.parametrize("deviations", [[0.02] * 6, [0.02] * 5 + [0.10]])
def test_where_nothing_differs_no_row_is_dropped_or_better_than_the_base(deviations):
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
    leader, other = racing.look({"b": {"x": b}, "a": {"x": a}}, {"x": b - 0.1}, 0.99)
    assert (leader.name, leader.difference.mean, leader.worse) == ("a", 0.0, False)
    _, parts = with_variances([100 * (b - a)])
    assert parts.between_seeds == pytest.approx(100.0) and other.difference.mean == pytest.approx(-30.0)
    assert other.difference.half == pytest.approx(half_of(parts, 3, 0.995))  # which is the longer one
    assert other.difference.half == pytest.approx(student(2, 0.995) * (100 / 3) ** 0.5, rel=1e-3)
    assert not other.worse
    # b is the base's shares and a tenth more: it has no variance of its own, and the pooled one of the rows.
    assert other.over_base.mean == pytest.approx(10.0)
    pooled = half_of(replace(parts, problems=((0.0, 2),)), 3, 0.99, 2)
    assert other.over_base.half == pytest.approx(pooled) and leader.over_base.mean == pytest.approx(40.0)
    assert racing.level(6, 4) == pytest.approx(1 - 0.05 / 60)
    steady = {name: {"x": a - i * 0.01} for i, name in enumerate("cdefgh")}  # which pool to next to nothing
    last = racing.look({"a": {"x": a + 0.1}, "b": {"x": b}, **steady}, {"x": a}, 0.99)[-1]
    assert last.difference.half == pytest.approx(half_of(parts, 3, 0.995))
    with pytest.raises(ValueError, match="needs 3 seeds or more"):
        racing.look({"a": {"x": a[:2]}, "b": {"x": b[:2]}}, {"x": a[:2]}, 0.99)
    with pytest.raises(ValueError, match="two problems or more"):
        racing.look({"a": {"x": a[:, :1]}, "b": {"x": b[:, :1]}}, {"x": a[:, :1]}, 0.99)


def ran(words: list[str]) -> list[Config]:
    """The cells that a command line of the race trains."""
    return race.configurations(*words)


def record(config: Config, rng: np.random.Generator) -> None:
    """What the cell of a rung leaves: dft is better, from the second rung on at 4e-4 alone, and the more so on all."""
    better = {"dft": 0.9, "sft": 0.1, "base": 0.05}[config.names.loss]
    if config.dataset.rows != 100 and (config.names.loss, config.optimizer.lr) == ("dft", 1e-4):
        better = 0.2  # which drops no rate of an objective that stays, until the last rung
    cell = Cell.of(config)
    cell.declare(config)
    if cell.done(config):
        return
    cell.model.mkdir(parents=True)
    write_json(cell.probabilities, {"examples": 512})
    right = [int(n) for n in rng.binomial(16, better, 40)]
    part = {"score": 100 * sum(right) / 640, "interval": None, "samples": 16, "right": {"official": right}}
    write_json(cell.scores(config) / "scores.json", {"benchmarks": {"tiny_add": part}, "verdict": "official"})
    write(cell.scores(config) / "protocol.yaml", "benchmarks: {tiny_add: hash}\n")
    cell.update(scoring_seconds=2.0)
    if config.trains:  # 2 s on four devices, then 1 s on two
        cell.update(training_seconds=3.0, devices=2, training_device_seconds=10.0)


def test_cells_scored_on_other_problems_end_a_race(tmp_path):
    """Those of its own benchmarks; what else its cells were scored on may differ."""
    the_race, rng = Race.of([*TINY, f"machine.results={tmp_path}"]), np.random.default_rng(0)
    sft, *_, dft = the_race.entrants
    for entrant, extra in ((sft, "b"), (dft, "c")):
        for config in ran(the_race.command("eighth", [entrant])[1:]):
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
    sizes = [("eighth", 100, 4), ("quarter", 200, 2), ("half", 400, 2), ("all", 800, 2)]
    assert [(rung.name, rung.rows, len(rung.standings)) for rung in rungs] == sizes
    for rung in rungs[:3]:
        assert set(rung.left) == {"dft optimizer.lr=0.0001", "dft optimizer.lr=0.0004"}
    assert rungs[1].standings[1].worse and rungs[3].left == ["dft optimizer.lr=0.0004"]
    first = ran(lines[0][1:])
    assert {config.dataset.rows for config in first} == {100} and {c.sweep.name for c in first} == {"study/eighth"}
    assert len(lines) == 4 and len(first) == 15  # a sweep for each rung: the base and four rows, three seeds each
    assert [c.names.loss for c in ran(lines[1][1:])] == ["base"] * 3 + ["dft"] * 6
    assert {c.optimizer.lr for c in ran(lines[1][1:]) if c.trains} == {1e-4, 4e-4}
    whole = ran(the_race.command("all", the_race.entrants[:1])[1:])[3:]
    assert [Cell.of(c).folder for c in whole] == [Cell.of(c).folder for c in the_race.entrants[0].configs]
    of_base = [cell for cell, _ in the_race.cells("eighth", the_race.base)]
    assert [cell for cell, _ in the_race.cells("all", the_race.base)] == of_base  # scored once
    assert [cell.state()["sweeps"] for cell in of_base] == [[f"study/{name}" for name in RUNGS]] * 3

    again: list[list[str]] = []
    assert race.run(Race.of(words), again.append) == rungs and again == []  # it reads what is done
    said = race_text.sentences(the_race, rungs)
    by_row = {row.name: row for row in rungs[3].standings}
    behind, over = by_row["dft optimizer.lr=0.0001"].difference, by_row["dft optimizer.lr=0.0004"].over_base
    assert said[0] == (
        "dft optimizer.lr=0.0004 is left: after all of the rows it was better than dft optimizer.lr=0.0001 "
        f"({-behind.mean:.1f} points, {-behind.high:.1f} to {min(-behind.low, 100):.1f})."
    )
    assert said[1] == (
        f"Against the base, {rungs[3].base:.1f}%, after all of the rows: better: dft optimizer.lr=0.0004 "
        f"({over.mean:.1f} points, {over.low:.1f} to {min(over.high, 100):.1f})."  # no two scores differ by more
    )
    assert 80 < over.mean < 90 and 65 < -behind.mean < 75
    first_leader, _, *dropped = [row.name for row in rungs[0].standings]
    assert set(dropped) == {"sft optimizer.lr=0.0001", "sft optimizer.lr=0.0004"}
    assert re.fullmatch(
        rf"{dropped[0]} \(−[^)]*\) and {dropped[1]} \(−[^)]*\) were dropped after an eighth of the rows, behind "
        rf"{first_leader}, and not trained on more\.",
        said[2],
    )
    assert len(said) == 4 and "simultaneous 95%" in said[3]
    # 4 rows of 100, and 2 of 200, 400 and 800, in place of 4 of 800, three seeds each.
    assert race_text.cost(the_race, rungs) == (
        "Trained on 9,600 rows in place of 9,600 (100%), and scored 30 trained models in place of 12."
    )


def test_what_is_one_objective(tmp_path):
    """Rates, whichever keys set them, are; constants of the objective are not."""
    words = [word for word in TINY if not word.startswith(("loss=", "optimizer.lr="))] + [f"machine.results={tmp_path}"]
    rates = Race.of([*words, "loss=sft,dft", "method=lr_1e-4,lr_2e-4"])
    assert [e.objective for e in rates.entrants] == ["sft", "sft", "dft", "dft"]
    constants = Race.of([*words, "loss=power", "loss.alpha=0.5,2.0"])
    assert [e.objective for e in constants.entrants] == ["power alpha=0.5", "power alpha=2.0"]


def test_rates_of_one_objective_that_is_left_are_what_is_undecided():
    rng, names = np.random.default_rng(0), ["dft lr=1", "dft lr=2"]
    shares = {name: {"x": rng.normal(share, 0.05, (3, 40))} for name, share in zip(names, (0.6, 0.59), strict=True)}
    standings = racing.look(shares, {"x": shares[names[0]]["x"] - 0.3}, 0.99)
    rung = race.Rung("all", 8, standings, 30.0, {}, dict.fromkeys(names, "dft"))
    said = race_text.sentences(RACE, [rung])[0]
    assert said.startswith(
        "dft is left. Which of its rows is best is undecided: dft lr=1 and dft lr=2 are left after all"
    )


def test_what_a_plan_trains_of_objectives():
    a, b, c = ["a1", "a2"], ["b1"], ["c1", "c2", "c3"]
    every = [*a, *b, *c]
    assert race_plan._trained([a, b, c], 1.0) == dict.fromkeys(RUNGS, every)
    assert race_plan._trained([a, b, c], 0.5) == {"eighth": every, "quarter": [*a, *b], "half": a, "all": a}
    assert race_plan._trained([b, a, c], 0.0) == {"eighth": [*b, *a, *c], "quarter": [], "half": [], "all": []}
    assert race_plan._trained([a, c], 0.0) == {"eighth": [*a, *c], "quarter": a, "half": a, "all": a}


def test_a_race_with_one_row_left_ends_early():
    """Of objectives with one rate each: by hand, 60, 30 and 20% for all seeds and problems but for a little noise."""
    rng = np.random.default_rng(0)
    shares = {name: {"x": rng.normal(share, 0.01, (3, 40))} for name, share in (("dft", 0.6), ("sft", 0.3), ("b", 0.2))}
    objectives = {name: name for name in shares}
    rung = race.Rung("quarter", 200, racing.look(shares, shares["b"], 0.99), 20.0, {}, objectives)
    assert rung.left == ["dft"] and race_text.ended([rung])
    said = race_text.sentences(RACE, [rung])
    assert said[0].startswith("dft is left: after a quarter of the rows it was better than sft (30.")
    assert said[2] == "Nothing was compared on more than a quarter of the rows."
    one = race.Rung("quarter", 200, rung.standings, 20.0, {}, {"dft": "dft", "sft": "dft", "b": "b"})
    assert one.left == ["dft", "sft"] and not race_text.ended([one])  # as rates of one objective
    assert race.Rung("all", 800, rung.standings, 20.0, {}, one.objectives).left == ["dft"]


def test_the_sweeper_of_rows_runs_what_the_plan_has():
    """Rows that are no product, each with all seeds; what a row sets is taken from it, and quotes survive."""
    rows = [
        ["loss=base"],
        ["loss=sft", "optimizer.lr=0.1"],
        ["loss=dft", r"model.eval_prompt='it\'s {problem}, \\n\\'"],
    ]
    listed = ",".join(f"[{','.join(map(race._quoted, row))}]" for row in rows)
    words = ["experiment=demo", "hydra/sweeper=rows", f"hydra.sweeper.rows=[{listed}]", "seed=3,4", "loss=sft,dft"]
    with grid.multirun(words) as config:
        planned = grid.overrides(config)
        sweeper = instantiate(config.hydra.sweeper)
        parsed = OverridesParser.create().parse_overrides([*sweeper._parse_config(), *words[:1], *words[3:]])
        (batch,) = sweeper.split_arguments(parsed, None)
    assert batch == planned == [[f"seed={seed}", "experiment=demo", *row] for row in rows for seed in (3, 4)]


def places_of_averages(rungs: list[race.Rung]) -> dict[str, list[float]]:
    """Where the chart has the average of each row on each rung: x, y, x, y, …

    Across, the logarithm of the training rows, from a tenth below the least at 44 to a tenth above the most at 352;
    upwards from 170 to 8, with 5% of the range of the averages (or 2% of the largest) above and below them, or from
    zero where they come near it.
    """
    averages = {"base": {rung.rows: rung.base for rung in rungs}}
    for rung in rungs:
        for row in rung.standings:
            averages.setdefault(row.name, {})[rung.rows] = row.average
    every = [average for of_row in averages.values() for average in of_row.values()]
    low, high = min(every), max(every)
    air = max(0.05 * (high - low), 0.02 * high)
    floor = 0.0 if low < 0.4 * high else low - air
    ratio = 1.21 * rungs[-1].rows / rungs[0].rows
    places: dict[str, list[float]] = {}
    for name, of_row in averages.items():
        for rows, average in of_row.items():
            x = 44 + 308 * np.log(1.1 * rows / rungs[0].rows) / np.log(ratio)
            places.setdefault(name, []).extend([x, 170 - 162 * (average - floor) / (high + air - floor)])
    return places


def test_a_race_ends_with_a_page(tmp_path, capsys):
    words, rng = [*TINY, f"machine.results={tmp_path}"], np.random.default_rng(0)

    def train(line: list[str]) -> None:
        for config in ran(line[1:]):
            record(config, rng)

    rungs = race.run(Race.of(words), train)
    (tmp_path / "reports/study").mkdir(parents=True)
    (tmp_path / "reports/study/eighth.html").write_text("")
    assert command.main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "dft optimizer.lr=0.0004 is left: after" in printed and f"{tmp_path}/reports/study/race.html" in printed
    markdown = (tmp_path / "tables/study/race.md").read_text()
    assert "| row | eighth (100) | quarter (200) | half (400) | all (800) | over base | outcome |" in markdown
    last = re.search(
        r"^\| sft optimizer.lr=0.0004 \| (\S+) \((\S+) ± (\S+)\) \| – \| – \| – \| (.*) \| (.*) \|$", markdown, re.M
    )
    row = next(row for row in rungs[0].standings if row.name == "sft optimizer.lr=0.0004")
    assert last and last[1] == f"{row.average:.1f}" and last[3] == f"{row.difference.half:.1f}"
    assert last[5] == f"dropped after an eighth of the rows, behind {rungs[0].standings[0].name}"
    assert re.search(
        r"^\| base " + "".join(rf"\| {rung.base:.1f} " for rung in rungs) + r"\|  \| not trained \|$", markdown, re.M
    )
    lines = (tmp_path / "tables/study/race.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 + 2 + 2 + 2 + 4 and sum(line.endswith("True") for line in lines) == 3
    page = (tmp_path / "reports/study/race.html").read_text()
    for sentence in race_text.sentences(Race.of(words), rungs):
        assert sentence in unescape(page)
    assert 'href="eighth.html"' in page and 'href="quarter.html"' not in page  # which nobody has written here
    drawn = re.findall(r'<polyline [^>]*data-label="([^"]*)"[^>]* points="([^"]*)"', page)
    places = {label: [float(number) for number in re.split("[ ,]", points)] for label, points in drawn}
    assert page.count("<polyline") == len(places) == 5
    for name, expected in places_of_averages(rungs).items():
        assert places[name] == pytest.approx(expected, abs=0.06), name
    assert "http" not in page.replace("http-equiv", "")
    # 15 cells of 2 s of scoring and 18 later ones without the base's; 30 of 10 s of a device of training
    race_line = re.search(r"<th scope=row>race</th>(.*)</tr>", page)
    assert race_line and re.findall(r">([^<]+)<", race_line[1]) == ["9,600", "33", "5.0 min", "1.1 min"]
    sweep_line = re.search(r"<th scope=row>sweep</th>(.*)</tr>", page)
    assert sweep_line and re.findall(r">([^<]+)<", sweep_line[1]) == ["9,600", "15", "5.0 min", "30 s"]


def test_a_winner_that_is_no_better_than_the_base_is_called_so():
    """By its interval, which the base's scores alone decide here."""
    rng = np.random.default_rng(0)
    good, bad = ({"x": rng.normal(share, 0.01, (3, 40))} for share in (0.6, 0.2))
    near = {"x": good["x"] + rng.normal(0, 0.01, (3, 40))}
    for base, word in ((near, "undecided"), ({"x": good["x"] + 0.2}, "worse"), ({"x": good["x"] - 0.2}, "better")):
        rung = race.Rung(
            "all",
            8,
            racing.look({"good": good, "bad": bad}, base, 0.99),
            100 * base["x"].mean(),
            {},
            {"good": "a", "bad": "b"},
        )
        answer, beside, *_ = race_text.sentences(RACE, [rung])
        assert answer.startswith("good is left: after all of the rows it was better than bad (40")
        assert answer.endswith("It is not shown to be better than the base.") == (word != "better")
        assert re.match(rf"Against the base, [\d.]+%, after all of the rows: {word}: good \(", beside)


def test_scores_of_several_engines_are_told_of_a_race():
    shares = {name: {"x": np.full((3, 4), 0.5) + np.arange(4) / 10} for name in OBJECTIVES[1:]}
    rung = race.Rung(
        "all",
        8,
        racing.look(shares, shares["sft"], 0.99),
        65.0,
        {"vllm": ["sft"], "api": ["dft"]},
        {n: n for n in shares},
    )
    assert race_text.sentences(RACE, [rung])[-1].endswith(": vllm scored sft; api scored dft.")


def test_a_rung_without_all_scores_ends_the_call_and_not_the_race(tmp_path, capsys):
    words = [*TINY, f"machine.results={tmp_path}"]
    the_race = Race.of(words)
    assert race.run(the_race, lambda line: None) == []  # as under SLURM, whose cells wait in a queue
    assert race_text.sentences(the_race, []) == ["No verdict yet: cells of study/eighth have no scores."]
    rng = np.random.default_rng(0)
    for config in ran(the_race.command("eighth", the_race.entrants)[1:]):
        record(config, rng)
    (rung,) = race.run(the_race, lambda line: None)
    said = race_text.sentences(the_race, [rung])[0]
    assert re.match("No verdict yet on the rows of dft, .* and cells of study/quarter have no scores", said)


def test_a_race_that_ends_with_several_rows_is_undecided():
    shares = {name: {"x": np.full((3, 4), 0.5) + np.arange(4) / 10} for name in OBJECTIVES[1:]}
    standings = racing.look(shares, {"x": shares["sft"]["x"] - 0.1}, 0.99)
    rungs = [race.Rung(name, 8 // part, standings, 55.0, {}, {n: n for n in shares}) for name, part in RUNGS.items()]
    said = race_text.sentences(RACE, rungs)
    assert said[:2] == [
        "Undecided: sft, dft and iw_sft are left after all rows. sft has the highest average, 65.0%, which does not "
        "set it apart from the others that are left.",
        "Against the base, 55.0%, after all of the rows: better: sft (10.0 points, 10.0 to 10.0), dft (10.0 points, "
        "10.0 to 10.0) and iw_sft (10.0 points, 10.0 to 10.0).",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["loss=base,sft"], "a race is between two objectives or more"),
        (["loss=sft", "method=lr_1e-4,lr_2e-4"], "a race is between two objectives or more"),
        (
            ["loss=sft", "optimizer.lr=1e-4,4e-4"],
            "a race is between two objectives or more, as in loss=sft,dft: compare rows",
        ),
        (["loss=sft,dft", "seed=0,1"], "a race needs 3 seeds or more"),
        (["loss=sft,dft", "train.max_steps=10"], "leave it out"),
        (["loss=sft,dft", "train.max_steps=null,10"], "which train.max_steps would cut: leave it out"),
        (["loss=sft,dft", "sweep.tune=optimizer.lr"], "sweep.tune=optimizer.lr chooses nothing in a race, which drops"),
        (["loss=sft,dft", "dataset.rows=80"], "an eighth of the 80 rows does not fill one batch of 64"),
        (["loss=sft,dft", "prompt=question,boxed"], "the rows of a race are scored in one way"),
        (["loss=sft,dft", "+dataset.keep={problem: x}"], "how many dataset.keep leaves is not known before: name a"),
        (["loss=sft,dft", "dataset.rows=800,1600"], "on the same number of training rows, known before it starts: set"),
        (["loss=sft,dft", "dataset.rows=512", "dataset.validation=0.1"], "an eighth of the 512 rows does not fill one"),
        (["loss=sft,dft", "force=true"], "force is not for a race"),
        (["loss=sft,dft", "++force=true"], "force is not for a race"),
        (
            ["loss=sft,dft", "plan=true", "check=true"],
            "^check is not for a race: leave it out, or check the models",
        ),
        (["loss=sft,dft", "plan=True"], "plan=True is neither true nor false"),
        (["loss=sft,nonsense"], "loss=nonsense does not exist"),
    ],
)
def test_what_is_no_race_is_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        command.main(["experiment=demo", *words])


VARIED = [*TINY, "optimizer.lr=1e-4", "scheduler.floor=0.1"]


def test_rows_that_do_not_read_a_key_of_others_go_on_without_them(tmp_path, capfd):
    """The rung is planned by the command that trains it."""
    words = [*VARIED, "scheduler=constant,cosine", f"machine.results={tmp_path}"]
    the_race = Race.of(words)
    assert len(the_race.entrants) == 4 and len(the_race.cells("half", the_race.entrants[0])) == 3
    constant = [entrant for entrant in the_race.entrants if entrant.configs[0].scheduler.shape == "constant"]
    race._train([*the_race.command("quarter", constant), "plan=true"])
    said = capfd.readouterr()
    assert "study/quarter: 9 cells" in said.out, said.err
    with pytest.raises(ValueError, match="^scheduler.floor is where the learning rate ends, and scheduler.shape=const"):
        Race.of([*VARIED, "scheduler=constant"])


def test_what_a_file_sweeps_over_makes_rows_and_is_not_swept_over_again(tmp_path):
    """Eight rows of three seeds; the base, which shares none of the rates, is one cell for each seed."""
    the_race = Race.of(["experiment=demo_tuned", f"machine.results={tmp_path}"])
    assert len(the_race.entrants) == 8 and {len(e.configs) for e in the_race.entrants} == {3}
    assert [c.seed for c in the_race.base.configs] == [0, 1, 2]
    assert len(the_race.cells("eighth", the_race.base)) == len(the_race.cells("eighth", the_race.entrants[0])) == 3
    line = the_race.command("half", the_race.entrants[3:4])
    check_twice(line)  # each key once, though the rung has a name of its own
    assert [word for word in line if word.startswith("sweep.name=")] == ["sweep.name=demo_tuned/half"]
    last = ran(line[1:])
    assert [(c.names.loss, c.optimizer.lr) for c in last if c.trains] == [("sft", 4e-4)] * 3 and len(last) == 6


def test_the_rows_that_a_rung_holds_out_are_not_counted_as_training_rows(tmp_path, capsys):
    words = [*TINY, "dataset.validation=0.1", f"machine.results={tmp_path}"]
    the_race = Race.of(words)
    for rung, drawn in {"eighth": 100, "quarter": 200, "half": 400, "all": 800}.items():
        ((_, config), *_) = the_race.cells(rung, the_race.entrants[0])
        assert (
            (config.dataset.rows, the_race.training_rows(rung))
            == (drawn, drawn - drawn // 10)
            == (drawn, rows_of(config))
        )
    command.main([*words, "plan=true"])
    said = capsys.readouterr().out
    assert "eighth, 90 training rows, all 4 rows" in said and "16,200 if none is dropped; 8,640 for" in said


def test_a_plan_has_the_cost_of_each_rung_and_loads_nothing(tmp_path, capsys):
    command.main([*TINY, f"machine.results={tmp_path}", "plan=true"])
    said = capsys.readouterr().out
    assert "study: a race of 4 rows with 3 seeds each over 4 rungs, beside the base" in said
    assert (
        "training rows: 9,600 if one objective is left after the first rung, 18,000 if none is dropped; 9,600 for"
        in said
    )
    assert not Path(tmp_path / "cells").exists()
    costs = dict(re.findall(r"^(\S.*):\n  disk: ([\d.,]+ .B)", said, re.M))
    assert list(costs) == [
        "eighth, 100 training rows, all 4 rows", "quarter, 200 training rows, all 4 rows",
        "half, 400 training rows, all 4 rows", "all, 800 training rows, all 4 rows", "the base, scored once",
        "the race, if each rung drops half of the objectives", "the race, if none is dropped",
        "a sweep of all rows on all of the data, in its place",
    ]  # fmt: skip


def test_the_plan_of_a_race_adds_up_the_cells_of_its_rungs(tmp_path, monkeypatch):
    """Steps of up to 64 rows: 2, 4, 7 and 13; with half of two objectives dropped 4, 2, 2 and 2 rows of three seeds."""
    seen: list[tuple[int, int]] = []
    race = Race.of([*TINY, f"machine.results={tmp_path}"])
    step_tokens = cost.step_tokens(race.entrants[0].configs[0])

    def counted(times, *others, **more):
        seen.append((len(times), sum(time.size.tokens for time in times) // step_tokens))
        return needed(times, *others, **more)

    needed = plan_hours.needed
    monkeypatch.setattr(plan_hours, "needed", counted)
    race_plan.text(race)
    rungs = [(12, 12 * steps) for steps in (2, 4, 7, 13)]
    halved = (3 + 12 + 3 * 6, 12 * 2 + 6 * (4 + 7 + 13))
    assert seen == [*rungs, (3, 0), halved, (3 + 48, 12 * 26), (3 + 12, 12 * 13)]


def test_the_plan_of_a_race_under_slurm_is_that_of_its_jobs(tmp_path, monkeypatch, capsys):
    """Twelve cells and three of the base on the eight GPUs of a job, on a machine with none."""
    jobs = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=8"]
    model = ["model=qwen2.5-math-1.5b", "train.precision=bf16", "machine.device=auto", f"machine.results={tmp_path}"]
    model += ["train.max_length=2048", "train.epochs=20"]  # so that it takes hours
    seen: list[tuple[int, Devices, bool]] = []

    def counted(times, devices, card, here):
        seen.append((len(times), devices, here))
        return needed(times, devices, card, here)

    needed = plan_hours.needed
    monkeypatch.setattr(plan_hours, "needed", counted)
    command.main([*TINY, *model, *jobs, "plan=true"])
    said = capsys.readouterr().out
    assert seen[-1] == (15, Devices(1, 8, gpu=True), False)
    assert "of this CPU" not in said
    of_one = plan.make(Race.of([*TINY, *model]).entrants[0].configs[0], {"nodes": 1, "gpus_per_node": 8}).time.cost
    assert 12 * of_one.training > 1
    training = f"since a job's GPUs are not known here, at most: {12 * of_one.training:,.1f} of training"
    assert said.count(training) == 2  # all rows and all of the data: the last rung, and the sweep in its place
    with pytest.raises(ValueError, match="machine.workers=9, but hydra.launcher.gpus_per_node=8: make them equal"):
        command.main([*TINY, *model, *jobs, "machine.workers=9", "plan=true"])
