"""Claims of a sweep against differences worked out by hand."""

from dataclasses import replace

import pytest
from test_conclusion import scored
from test_tables import cell

from losslab.composition.experiment_files import declared
from losslab.config.choices import End
from losslab.config.sweep import DirectionConfig, SweepConfig
from losslab.data.probability_bins import EDGES
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.records.record import Cell
from losslab.results import claims, compare_to_baselines, tables
from losslab.results.conclusion import conclude
from losslab.results.load_records import CellScores
from losslab.results.problem_shares import ProblemShares
from losslab.results.table_formats import markdown
from losslab.results.tables import Measure, Table, declared_measures
from losslab.statistics.intervals import Estimate, over_problems

CLAIM = DirectionConfig("DFT is above SFT", {"loss": "dft"}, {"loss": "sft"})


def study(results, *claims):
    return tables.build(SweepConfig(name="study", directions=list(claims)), str(results))


def judge(claim: DirectionConfig, table: Table) -> claims.JudgedClaim:
    return claims.judge(claim, table, ProblemShares(table))


def test_differences_are_paired_by_seed(tmp_path):
    for seed, (low, high) in enumerate([(50, 60), (40, 52), (30, 44)]):
        cell(tmp_path, "sft", seed, {"math500": low})
        cell(tmp_path, "dft", seed, {"math500": high})
    cell(tmp_path, "dft", 7, {"math500": 0})  # a seed that SFT lacks
    found = judge(CLAIM, study(tmp_path))
    assert found.differences == pytest.approx({0: 10, 1: 12, 2: 14})
    # the seeds differ by 10 points, the pairs by 2: t(0.975, 2) s / sqrt(n) of 10, 12, 14
    assert (found.estimate.mean, found.estimate.half) == pytest.approx((12, 4.3027 * 2 / 3**0.5), rel=1e-4)
    assert found.outcome == "holds"
    back = judge(DirectionConfig("SFT is above DFT", {"loss": "sft"}, {"loss": "dft"}), study(tmp_path))
    assert back.outcome == "the other way round" and back.estimate.mean == pytest.approx(-12)


def test_a_claim_has_the_interval_of_the_conclusion(tmp_path):
    """Two seeds that agree to the last sample: over problems, as beside the baselines; one seed decides no claim."""
    for seed in range(2):
        scored(tmp_path, "sft", seed, [0, 1, 2, 1, 0])
        scored(tmp_path, "dft", seed, [2, 2, 4, 1, 1])
    table = study(tmp_path, CLAIM)
    found = judge(CLAIM, table)
    assert found.differences == {0: pytest.approx(30.0), 1: pytest.approx(30.0)} and found.outcome == "holds"
    assert found.estimate.half == pytest.approx(over_problems([50.0, 25.0, 50.0, 0.0, 25.0] * 10).half)
    (pair,) = conclude(table)[0].pairs
    assert (pair.difference.mean, pair.difference.half) == pytest.approx((found.estimate.mean, found.estimate.half))
    (line,) = compare_to_baselines.sheet("dft", [table]).rows
    assert line[-2].text == "20.0 (+30.0 ± 5.4, better)" and f"{found.estimate:.1f}" == "30.0 ± 5.4"
    scored(tmp_path / "one", "sft", 0, [0, 1, 2, 1, 0])
    scored(tmp_path / "one", "dft", 0, [2, 2, 4, 1, 1])
    one = judge(CLAIM, study(tmp_path / "one"))
    assert one.estimate.half == pytest.approx(found.estimate.half) and one.outcome == "open"


def test_equal_differences_of_two_seeds_have_no_interval_and_decide_no_claim(tmp_path):
    """In the table of claims, and beside the baselines."""
    table = study_of(tmp_path, [(50.0, 50.3), (70.0, 70.3)], CLAIM)
    (found,) = claims.judged(table, ProblemShares(table))
    assert found.outcome == "open" and found.estimate.half is None
    assert "| DFT is above SFT | open | 0.30 | 2 |" in markdown(claims.sheet([found])).splitlines()
    (line,) = compare_to_baselines.sheet("dft", [table]).rows
    assert line[-2].text == "60.0 ± 127.1 (+0.3, open)"


def test_a_claim_needs_an_interval_without_zero(tmp_path):
    assert judge(CLAIM, study_of(tmp_path / "none", [])).outcome == "not measured"
    assert judge(CLAIM, study_of(tmp_path / "one", [(50, 60)])).outcome == "open"
    # mean 1, s = sqrt(3): half = 4.3
    assert judge(CLAIM, study_of(tmp_path / "three", [(50, 50), (50, 50), (50, 53)])).outcome == "open"


def study_of(results, pairs, *claims):
    cell(results, "base", 0, {"math500": 10})
    for seed, (low, high) in enumerate(pairs):
        cell(results, "sft", seed, {"math500": low})
        cell(results, "dft", seed, {"math500": high})
    return study(results, *claims)


def test_rows_are_told_apart_by_any_key(tmp_path):
    for lr, low, high in [(1e-3, 50, 60), (1e-4, 45, 42)]:
        cell(tmp_path, "sft", 0, {"math500": low}, lr=lr)
        cell(tmp_path, "dft", 0, {"math500": high}, lr=lr)
    for lr, difference in [(1e-3, 10), (1e-4, -3)]:
        own = {"optimizer.lr": lr}
        claim = DirectionConfig("", higher={"loss": "dft"} | own, lower={"loss": "sft"} | own)
        assert judge(claim, study(tmp_path)).differences == {0: pytest.approx(difference)}


def test_keys_that_name_two_rows_are_refused(tmp_path):
    for lr in (1e-3, 1e-4):
        cell(tmp_path, "dft", 0, {"math500": 60.0}, lr=lr)
    with pytest.raises(ValueError, match="'dft'} fits several rows .*add keys to its sweep.directions"):
        judge(CLAIM, study(tmp_path))


def test_a_shared_cell_stays_in_the_declared_row(tmp_path):
    """A twin that names where answers come from has the same demonstrations as one that does not."""
    for name in ("table6", "table7"):
        for config in declared(f"toy_suite/{name}", str(tmp_path)):
            if config.names.dataset == "embedded" and config.names.loss == "dft":
                Cell.of(config).declare(config)
    grid = declared("toy_suite/table7", str(tmp_path))
    rows = [row for row in tables.build(grid[0].sweep, str(tmp_path)).rows if row.names["dataset"] == "embedded"]
    assert [(row.declared, len(row.entries)) for row in rows] == [(True, 5), (True, 5)]


def test_scores_of_one_protocol_are_compared(tmp_path):
    """Scored once more under another protocol, a row has two lines in the table and is still one row of a claim."""
    grid = {config.names.loss: config for config in declared("toy_suite/table9", str(tmp_path)) if config.seed == 0}
    claim = grid["dft"].sweep.directions[1]
    for temperature, scores in ((0.0, {"sft": 70, "dft": 65}), (1.0, {"sft": 50, "dft": 60}), (0.5, {"dft": 99})):
        for loss, score in scores.items():
            config = replace(grid[loss], eval=replace(grid[loss].eval, temperature=temperature))
            own = Cell.of(config)
            own.declare(config)
            parts = {name: {"score": score, "interval": [score, score], "samples": 16} for name in config.benchmark}
            write_json(own.scores(config) / "scores.json", {"benchmarks": parts, "verdict": "official"})
    table = tables.build(grid["dft"].sweep, str(tmp_path))
    lines = {(row.name, row.value("average") and row.value("average").mean, len(row.entries)) for row in table.rows}
    assert lines == {("base", None, 5), ("sft", 70, 5), ("sft", 50, 5), ("dft", 65, 5), ("dft", 60, 5), ("dft", 99, 5)}
    found = judge(claim, table)
    assert found.differences == {0: 10.0} and found.seeds == "1/5"  # under the declared one
    low = Cell.of(grid["sft"]).scores(grid["sft"]) / "scores.json"
    asked = read_json(low)
    write_json(low, asked | {"verdict": "corrected"})  # the other measures that both have are one
    assert judge(claim, tables.build(grid["dft"].sweep, str(tmp_path))).differences == {0: -5.0}
    write_json(low, asked)
    for loss in ("sft", "dft"):
        (Cell.of(grid[loss]).scores(grid[loss]) / "scores.json").unlink()
    assert judge(claim, tables.build(grid["dft"].sweep, str(tmp_path))).differences == {0: -5.0}  # the one both have


def test_the_declared_measure_has_one_answer_to_each_question_of_a_task(tmp_path):
    """As a cell's scores have: 16 samples of tiny_add, and one of a task of lm_eval."""
    (config,) = (c for c in declared("toy_suite/table9", str(tmp_path)) if c.seed == 0 and c.names.loss == "sft")
    task = replace(next(iter(config.benchmark.values())), path="lm_eval:mmlu")
    config = replace(config, benchmark={**config.benchmark, "mmlu": task})
    (measure,) = declared_measures(Table(config.sweep, list(config.benchmark), [], [], [config]))
    samples = {name: 1 if name == "mmlu" else 16 for name in config.benchmark}
    scores = dict.fromkeys(samples, Estimate(50.0))
    entry = CellScores(tmp_path, {}, 0, {}, measure.protocol, scores, samples, "official")
    assert measure == Measure.of(entry, dict.fromkeys(samples)) and measure.samples == (1, 16)


def test_after_some_steps(tmp_path):
    for loss, early, late in [("sft", 20.0, 30.0), ("dft", 26.0, 29.0)]:
        own = cell(tmp_path, loss, 0, {"math500": late})
        write_lines(own.metrics, [{"step": 50}])
        (scores,) = own.folder.glob("scores/*")
        write_json(scores / "steps" / "00000025" / "scores.json", {"benchmarks": {"math500": {"score": early}}})
    at = [DirectionConfig("", {"loss": "dft"}, {"loss": "sft"}, step=step) for step in (25, 50, None, 30)]
    assert [judge(one, study(tmp_path)).differences for one in at] == [{0: 6.0}, {0: -1.0}, {0: -1.0}, {}]


def test_ends_of_the_histogram(tmp_path):
    before = [0, 0, 10, *[0] * 9, 40]  # below 1e-4, 1e-3, 1e-2, tenths from 0.01 on
    after = [5, 10, 0, *[0] * 8, 10, 75]
    own = cell(tmp_path, "dft", 0, {"math500": 1.0})
    rest = {"edges": list(EDGES), "lowest": [], "highest": []}
    counts = {"before": before, "after": after}
    ends = {when: rest | {"counts": found, "tokens": sum(found)} for when, found in counts.items()}
    write_json(own.folder / "probabilities.json", ends)
    grows = {end: judge(DirectionConfig("", {"loss": "dft"}, grows=end), study(tmp_path)).differences for end in End}
    assert grows == {End.rare: {0: pytest.approx(15 - 20)}, End.sure: {0: pytest.approx(75 - 80)}}


def test_the_table_of_claims(tmp_path):
    for seed, high in enumerate([60, 62, 64]):
        cell(tmp_path, "sft", seed, {"math500": 50})
        cell(tmp_path, "dft", seed, {"math500": high})
    unmeasured = DirectionConfig(claim="nobody ran it", higher={"loss": "x"}, lower={"loss": "y"})
    table = study(tmp_path, CLAIM, unmeasured)
    lines = markdown(claims.sheet(claims.judged(table, ProblemShares(table)))).splitlines()
    assert "| DFT is above SFT | holds | 12.00 ± 4.97 | 3 |" in lines
    assert "| nobody ran it | not measured | – | 0 |" in lines
