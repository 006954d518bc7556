"""Each objective at its own best value of a key: what chooses, what scores, and how often the answer is right."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_conclusion import MEASURE
from test_tables import cell

from losslab.composition import experiment_files
from losslab.composition.checks import check
from losslab.composition.compose import composed
from losslab.composition.log_uniform import drawn
from losslab.composition.words import any_group
from losslab.config.sweep import SweepConfig
from losslab.files.json_files import read_json, write_json
from losslab.planning import plan_power, plan_tuning
from losslab.records.record import Cell
from losslab.report.page import _headlines
from losslab.results import setting_curves, table_formats, tables, tuning
from losslab.results.conclusion import Conclusion, conclusions
from losslab.results.conclusion_text import sentences
from losslab.results.load_records import CellScores
from losslab.results.problem_shares import ProblemShares, ScoredProblems
from losslab.results.tables import Row, Table
from losslab.results.tuning import half_of_problems
from losslab.results.write_tables import layouts, write_tables
from losslab.statistics.intervals import Estimate

RATES = (1e-5, 1e-4, 1e-3)
Shares = dict[tuple[str, float], np.ndarray]  # (seeds, problems) of an objective at a rate


def study(scores: Shares, base: np.ndarray | None = None) -> tuple[Table, ProblemShares]:
    """A table in memory, of one benchmark."""
    rows, cells, contents = [], {}, {}
    for (loss, rate), shares in [*scores.items(), *([(("base", 0.0), base)] if base is not None else [])]:
        names, entries = {"model": "tiny", "loss": loss, "method": None}, []
        config = {"loss": loss} if loss == "base" else {"loss": loss, "optimizer.lr": rate}
        for seed, values in enumerate(shares):
            folder, mean = Path(f"{loss}-{rate}-{seed}"), Estimate(100 * float(values.mean()))
            of = {"x": mean, "average": mean}
            entries.append(CellScores(folder, names, seed, config, "paper-1", of, {"x": 16}, "official"))
            cells[folder, "paper-1"] = ScoredProblems({"x": "hash"}, {"x": values})
            contents[folder / "scores" / "paper-1"] = {"benchmarks": {}}
        rows.append(Row(names, config, MEASURE, entries, f"{loss} {rate}"))
    table = Table(SweepConfig(name="study", tune="optimizer.lr"), ["x"], [], rows, [])
    shares = ProblemShares(table)
    shares.cells, shares.scores.contents = cells, contents
    return table, shares


def concluded(*of) -> Conclusion:
    table, shares = study(*of)
    (made,) = conclusions(table, shares, tuning.tune(table, shares))
    return made


def simulated(rng: np.random.Generator, gains: dict[str, tuple[float, ...]], seeds: int, problems: int = 60) -> Shares:
    """Of objectives, each with a gain at each rate, on new problems and with new seeds."""
    chances = rng.uniform(0.2, 0.8, problems)
    return {
        (loss, rate): rng.binomial(
            16, np.clip(chances + gain + rng.normal(0, 0.05, problems) + rng.normal(0, 0.02, (seeds, 1)), 0, 1)
        )
        / 16
        for loss, of in gains.items()
        for rate, gain in zip(RATES, of, strict=True)
    }


def test_the_split_is_half_of_the_problems_and_that_of_their_hash():
    for count in (2, 7, 40):
        assert half_of_problems("hash", count).sum() == count // 2
    assert (half_of_problems("hash", 40) == half_of_problems("hash", 40)).all()
    assert 5 < (half_of_problems("hash", 40) != half_of_problems("other", 40)).sum() < 35


def test_by_hand():
    """Four problems; at 1e-4 sft is better on those that choose and worse on the others, which score."""
    mask = half_of_problems("hash", 4)
    of = lambda chose, scored: np.where(mask, chose, scored)  # noqa: E731
    scores = {
        ("sft", 1e-5): np.stack([of(0.25, 1.0), of(0.75, 0.5)]),
        ("sft", 1e-4): np.stack([of(0.50, 0.5), of(0.50, 0.25)]),
        ("dft", 1e-5): np.stack([of(0.00, 0.0), of(0.00, 0.0)]),
        ("dft", 1e-4): np.stack([of(0.75, 0.75), of(0.75, 1.0)]),
    }
    table, shares = study(scores, np.stack([of(0.25, 0.5)] * 2))
    tuned = tuning.tune(table, shares)
    assert {c.row.label: c.chosen for c in tuned.own} == {"sft": {0: 1e-4, 1: 1e-5}, "dft": {0: 1e-4, 1: 1e-4}}
    # Together: 0.125 and 0.625 in seed 0, 0.375 and 0.625 in seed 1.
    assert {c.row.label: c.chosen for c in tuned.shared} == {"sft": {0: 1e-4, 1: 1e-4}, "dft": {0: 1e-4, 1: 1e-4}}
    own = {row.label: [entry.scores["x"].mean for entry in row.entries] for row in tuned.table.rows}
    assert own == {"base 0.0": [50.0, 50.0], "sft": [50.0, 50.0], "dft": [75.0, 100.0]}
    assert [entry.scores["x"].mean for entry in tuned.shared[0].row.entries] == [50.0, 25.0]
    text = table_formats.markdown(tuning.sheet(tuned))
    assert "| tiny | sft | own: 0.0001 (1 seed), 1e-05 (1 seed) | 50.0 | 50.0 | 2 |" in text
    assert "| tiny | sft | shared: 0.0001 (2 seeds) |" in text
    assert tuning.to_json(tuned)["benchmarks"]["x"] == {"problems": "hash", "chose": np.flatnonzero(mask).tolist()}
    (conclusion,) = conclusions(table, shares, tuning.tune(table, shares))
    (pair,) = [pair for pair in conclusion.pairs if (pair.higher, pair.lower) == ("dft", "sft")]
    assert pair.difference.mean == 37.5 and conclusion.problems == 2  # of 75 - 50 and 100 - 50
    said = sentences(conclusion)
    assert any("dft at 0.0001 (2 seeds); sft at 0.0001 (1 seed), 1e-05 (1 seed)." in line for line in said)
    assert any("a better one may lie beyond: dft in 2 of 2 seeds, sft in 2 of 2 seeds." in line for line in said)
    assert not any("none has one that was chosen for it" in line for line in said)


def test_a_seed_that_lacks_a_value_chooses_nothing_and_is_counted():
    scores = simulated(np.random.default_rng(0), {"sft": (0, 0.1, 0), "dft": (0, 0.1, 0)}, 3)
    scores["sft", 1e-3] = scores["sft", 1e-3][:2]
    tuned = tuning.tune(*study(scores))
    assert [sorted(choice.chosen) for choice in tuned.own] == [[0, 1], [0, 1, 2]]
    assert "Not compared: sft lacks 1 of its 3 seeds." in sentences(concluded(scores))


def test_values_that_are_no_numbers_and_objectives_without_the_key():
    scores = simulated(np.random.default_rng(0), {"sft": (0, 0.2, 0), "dft": (0, 0.2, 0)}, 2)
    table, shares = study(scores)
    for row in table.rows:
        rate = row.config.pop("optimizer.lr")
        if row.names["loss"] == "dft":
            row.config["loss.kind"] = {1e-5: "a", 1e-4: "b", 1e-3: "c"}[rate]
    one_sft = [row for row in table.rows if row.names["loss"] == "dft" or row.label == "sft 0.0001"]
    table = Table(SweepConfig(name="study", tune="loss.kind"), ["x"], [], one_sft, [])
    tuned = tuning.tune(table, shares)
    assert [(str(c), c.at_the_end) for c in tuned.own] == [("b (2 seeds)", 0)] and tuned.shared == []
    assert sorted(row.label for row in tuned.table.rows) == ["dft", "sft 0.0001"]
    assert setting_curves.keys(table) == []  # which draws numbers


def test_what_scores_says_no_more_than_the_truth_and_what_chose_does():
    """Ten objectives alike at all rates: the chosen half is above its true score, the scoring half is not."""
    rng, scored, chose = np.random.default_rng(0), [], []
    for _ in range(60):
        scores = simulated(rng, {name: (0.0, 0.0, 0.0) for name in "ab"}, 1, problems=40)
        truth = 100 * np.mean([shares.mean() for shares in scores.values()])
        table, shares = study(scores)
        for choice in tuning.tune(table, shares).own:
            (entry,) = choice.row.scored
            values = shares.of(entry).shares["x"]
            scored.append(entry.scores["x"].mean - truth)
            chose.append(100 * values[half_of_problems("hash", 40)].mean() - truth)
    assert abs(np.mean(scored)) < 1.0 < np.mean(chose)


def test_where_nothing_differs_it_says_undecided():
    """In 95 of 100 studies at least, though each objective takes the best of three values."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(60):
        scores = simulated(rng, {name: (0.0, 0.0, 0.0) for name in ("sft", "dft", "iw_sft")}, 3)
        wrong += any(pair.decided for pair in concluded(scores).pairs)
    assert wrong <= 3


def test_an_objective_that_is_better_at_its_own_rate_alone_is_found():
    """dft wins by twelve points where each has its own rate, and loses at the rate that is best for sft."""
    rng, named, at_one_rate = np.random.default_rng(0), 0, 0
    for _ in range(20):
        scores = simulated(rng, {"sft": (0.0, -0.1, -0.3), "dft": (-0.1, 0.02, 0.12)}, 5)
        conclusion = concluded(scores)
        named += conclusion.decided and conclusion.best == "dft"
        at_one_rate += scores["dft", 1e-5].mean() > scores["sft", 1e-5].mean()
    assert named >= 18 and at_one_rate == 0


def test_its_own_best_value_is_said_of_rows_that_had_a_choice():
    """A base has no value, and an objective with a single one has chosen nothing."""
    low = np.array([[0.25, 0.3] * 4] * 2)
    rates = {("sft", 1e-4): low, ("sft", 1e-3): low + 0.1}
    for dft, base, best in (
        (low, low - 0.1, "sft at its own best optimizer.lr, on half of the problems"),
        (low, low + 0.3, "base 0.0, on half of the problems"),
        (low + 0.3, low, "dft, on half of the problems"),
    ):
        made = concluded(rates | {("dft", 1e-3): dft}, base)
        assert [line["label"] for line in _headlines([made])] == [best]
        said = sentences(made)
        (both,) = [text for text in said if "its own best" in text]
        assert both.startswith(
            "Each objective that had several values has its own best optimizer.lr: sft at 0.001 (2 seeds). In each seed"
        )
        assert "With one value of optimizer.lr alone, scored on the same half: dft at 0.001 (2 seeds)." in said
    said = sentences(concluded(rates | {("dft", 1e-3): low, ("dft", 1e-4): low + 0.1}))
    assert not any("alone" in text for text in said)
    assert sum(text.startswith("Each objective has its own best optimizer.lr: ") for text in said) == 1


def records(results: Path) -> None:
    for loss in ("sft", "dft"):
        for lr in (1e-4, 1e-3):
            for seed in range(2):
                right = {"dft": [4, 4, 3, 3], "sft": [2, 3, 2, 2]}[loss]
                right = right if (loss == "dft") == (lr == 1e-3) else [1, 1, 1, 0]
                made = cell(results, loss, seed, {"math500": 25 * float(np.mean(right))}, lr=lr, samples=4)
                (folder,) = (made.folder / "scores").iterdir()
                content = read_json(folder / "scores.json")
                content["benchmarks"]["math500"] |= {"right": {"official": right}, "problems": 4}
                write_json(folder / "scores.json", content)
                (folder / "protocol.yaml").write_text("benchmarks: {math500: hash}\n")


def test_from_records_to_the_files(tmp_path, capsys):
    """The key is found in the records by whoever builds the table again."""
    records(tmp_path)
    assert next(layouts(["study"], str(tmp_path))).tune is None
    for folder in (tmp_path / "cells").iterdir():
        state = read_json(folder / "cell.json")
        write_json(folder / "cell.json", state | {"tunes": {"study": "optimizer.lr"}})
    write_tables(["study"], str(tmp_path))
    folder = tmp_path / "tables/study"
    assert "## Each objective at its own best optimizer.lr" in (folder / "table.md").read_text()
    choices = json.loads((folder / "tuning.json").read_text())["choices"]
    own = {c["objective"]: c["chosen"] for c in choices if not c["shared"]}
    assert own == {"sft": {"0": 1e-4, "1": 1e-4}, "dft": {"0": 1e-3, "1": 1e-3}}
    assert "dft at 0.001 (2 seeds); sft at 0.0001 (2 seeds)" in (folder / "conclusion.md").read_text()
    assert (folder / "settings.csv").read_text().count("optimizer.lr") == 4
    capsys.readouterr()


def test_a_record_knows_what_a_sweep_tunes_until_it_leaves_it(tmp_path):
    config = composed(["model=tiny", "loss=sft", "sweep.tune=optimizer.lr", f"machine.results={tmp_path}"])
    made = Cell.of(config)
    made.declare(config)
    assert made.state()["tunes"] == {"ablation": "optimizer.lr"}
    made.leave("ablation")
    assert not made.folder.exists()


def test_one_value_is_nothing_to_choose_from(tmp_path):
    cell(tmp_path, "sft", 0, {"math500": 50.0})
    table = tables.build(SweepConfig(name="study", tune="optimizer.lr"), str(tmp_path))
    assert tuning.tune(table, ProblemShares(table)) is None
    write_tables(["study"], str(tmp_path))
    from losslab.results.notes import notes

    assert list(notes(table, {}, [], [])) == [
        "No row has several values of optimizer.lr, of which sweep.tune is to choose one."
    ]


@pytest.mark.parametrize("key", ["seed", "optimizer.rate", "eval.samples", "optimizer", "machine.results"])
def test_what_cannot_be_tuned_is_refused(key):
    with pytest.raises(ValueError, match=f"sweep.tune={key} is not a training key with a value"):
        check(composed(["model=tiny", "dataset=embedded", "loss=sft", f"sweep.tune={key}", "plan=true"]))


def test_values_that_are_drawn():
    """One in each third of the logarithms, the same for the same command."""
    key, _, text = drawn("optimizer.lr=log_uniform(1e-6,1e-3,3)").partition("=")
    values = [float(part) for part in text.split(",")]
    assert key == "optimizer.lr" and [int(np.floor(np.log10(v))) for v in values] == [-6, -5, -4]
    assert any_group("optimizer.lr=log_uniform(1e-6,1e-3,3)") == [f"optimizer.lr={text}"]
    assert drawn("optimizer.lr=log_uniform(1e-6,1e-3,4)") != drawn("optimizer.lr=log_uniform(1e-6,2e-3,4)")
    assert drawn("optimizer.lr=1e-5") == "optimizer.lr=1e-5"
    many = [float(v) for v in drawn("x=log_uniform(1,100,1000)").removeprefix("x=").split(",")]
    assert np.median(many) == pytest.approx(10, rel=0.01)
    for wrong in ("1e-3,1e-6,3", "0,1,3", "1e-6,1e-3", "a,b,3", "1e-6,1e-3,2.5"):
        with pytest.raises(ValueError, match=r"write log_uniform\(LOW,HIGH,COUNT\)"):
            drawn(f"optimizer.lr=log_uniform({wrong})")


def test_the_plan_counts_the_cells_of_the_choice_and_half_of_the_problems():
    configs = experiment_files.declared("demo_tuned", "no/where")
    rows: dict[tuple[str, float], list] = {}
    for config in configs:
        rows.setdefault((config.names.loss, config.optimizer.lr if config.trains else 0.0), []).append(config)
    groups = list(rows.values())
    assert plan_tuning.sentence(groups).startswith(
        "tuning: 24 trained cells in place of 6, for each objective's own best"
    )
    said = plan_power.sentence(groups)
    assert said.startswith("power: between two of 2 rows 3 seeds show")
    for group in groups:
        group[0].sweep.tune = None
    whole = float(plan_power.sentence([g for g in groups if g[0].optimizer.lr in (2e-4,)]).split("show ")[1].split()[0])
    assert float(said.split("show ")[1].split()[0]) > whole
    assert (ROOT / "experiments/demo_tuned.yaml").is_file()
