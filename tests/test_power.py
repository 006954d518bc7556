"""The smallest difference that can be shown: by hand, and how often simulated sweeps show it."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from losslab.composition.compose import composed
from losslab.config.benchmark import BenchmarkConfig
from losslab.files.json_files import write_json
from losslab.planning import plan_power
from losslab.records.record import Cell
from losslab.statistics.intervals import Variances, over_seeds_and_problems, simultaneous_level
from losslab.statistics.power import (
    assumed,
    chance_to_show,
    detectable,
    seeds_for,
    true_chances,
    uniform_chances,
)

sys.path.append(str(ROOT / "benchmarks"))
import coverage  # noqa: E402


def test_without_variance_between_seeds_it_is_the_normal_formula():
    """(z(0.975) + z(0.8)) times the standard error, with so many problems that t is z."""
    parts = Variances(0.0, ((4.0, 10**6),))
    assert detectable(parts, 3) == pytest.approx((1.95996 + 0.84162) * 2, rel=2e-3)
    assert chance_to_show(0.0, parts, 3) == pytest.approx(0.05, abs=1e-3)
    assert chance_to_show(3.91992, parts, 3) == pytest.approx(0.5, abs=1e-3)


def test_with_seeds_alone_it_is_the_noncentral_t():
    """Power of a paired t-test with 4 pairs and a difference of 1.2 and 2 standard deviations, from printed tables."""
    parts = Variances(1.0, ((0.0, 39),))
    assert [chance_to_show(d, parts, 3) for d in (0.0,)] == [pytest.approx(0.05, abs=2e-3)]
    # n = 2 sd^2 ...: sample sizes of the one-sample t-test at 80%, 5%: effect 1.0 takes 10, 0.8 takes 15, 0.5 takes 34.
    assert [seeds_for(effect, parts) for effect in (1.0, 0.8, 0.5)] == [10, 15, 34]


@pytest.mark.parametrize(
    ("seeds", "ratio", "level"),
    [(3, (0.6, 0.3, 0.1), 0.95), (3, (0.3, 0.6, 0.1), 0.95), (5, (0.6, 0.2, 0.2), simultaneous_level(6)),
     (2, (0.2, 0.7, 0.1), 0.95)],
)  # fmt: skip
def test_simulated_sweeps_show_the_detectable_difference_as_often_as_it_says(seeds, ratio, level):
    """In 80% of 2,000, of which 2% less and 2% more by chance."""
    problems, rng = 60, np.random.default_rng(0)
    of_seeds, of_problems, rest = ratio
    parts = Variances(seeds * of_seeds + seeds * rest, ((of_problems, problems - 1),))
    difference = detectable(parts, seeds, level)
    draws = [over_seeds_and_problems([difference + coverage.crossed(seeds, problems, ratio, rng)], level)
             for _ in range(2000)]  # fmt: skip
    assert np.mean([draw.nonzero for draw in draws]) == pytest.approx(0.8, abs=0.04)


def test_assumed_variances_by_hand():
    """Chances 0, 0.5 and 1: variance 0.25, mean of p (1 - p) 1 / 12; four samples; and two benchmarks of them."""
    chances = np.array([0.0, 0.5, 1.0])
    omega, noise = 2 * 0.5 * 0.25, 2 / 12 / 4
    one = assumed([chances], [4])
    assert one.problems == ((pytest.approx(1e4 * omega / 3), 2),)
    assert one.between_seeds == pytest.approx(2 * 0.41**2 * 5 + 1e4 * noise / 3)
    two = assumed([chances, chances], [4, 4])
    assert two.problems == ((pytest.approx(1e4 * omega / 12), 2),) * 2
    assert two.between_seeds == pytest.approx(2 * 0.41**2 * 2.5 + 1e4 * noise / 6)


def test_chances_behind_shares_have_less_variance_than_the_shares():
    rng = np.random.default_rng(0)
    chances = rng.uniform(0.2, 0.8, 4000)
    for samples in (2, 16):
        found = true_chances(rng.binomial(samples, chances) / samples, samples)
        assert (found.mean(), found.var()) == (pytest.approx(0.5, abs=0.02), pytest.approx(chances.var(), rel=0.1))
    found = true_chances(np.array([1.0, 0, 0, 0]), 1)  # which may be the chances, or 0.25 each
    assert (found.min(), found.max(), found.mean()) == (0, 0.5, 0.25)
    assert true_chances(np.zeros(5), 16).tolist() == [0.0] * 5
    assert uniform_chances(2).tolist() == [0.25, 0.75]


def test_what_miller_says_of_a_thousand_problems():
    """About 1,000 of them show 3 points at 80% (arXiv 2411.00640); here with so many seeds that runs do not count."""
    parts = assumed([uniform_chances(1000)], [16])
    assert detectable(parts, 50) == pytest.approx(2.8 * (1e4 / 12 / 1000) ** 0.5, rel=0.08)


def test_a_plan_says_what_it_can_show_from_assumptions_and_from_the_base(tmp_path):
    words = ["model=tiny", "dataset=embedded", "benchmark=[tiny_add]", f"machine.results={tmp_path}", "eval.samples=4"]

    def groups(*more: str, seeds: int = 3) -> list:
        config = composed([*words, "loss=sft", *more])
        other = replace(config, names=replace(config.names, loss="dft"))
        return [[replace(one, seed=seed) for seed in range(seeds)] for one in (config, other)]

    said = plan_power.sentence(groups("sweep.difference=16"))
    parts = assumed([uniform_chances(40)], [4])
    assert said.startswith(
        f"power: between two of 2 rows 3 seeds show {detectable(parts, 3):.1f} points of the average"
    )
    assert f"sweep.difference=16: {seeds_for(16, parts)} seeds" in said
    assert "the chances of problems spread evenly" in said
    assert "one seed each shows no difference, and 5 seeds" in plan_power.sentence(groups(seeds=1))
    assert plan_power.sentence(groups()[:1]) == ""
    assert detectable(parts, 2, simultaneous_level(435)) is None  # it would be more than two scores can differ
    config = groups()[0][0]
    thirty = [
        [replace(config, names=replace(config.names, loss=f"loss{i}"), seed=j) for j in (0, 1)] for i in range(30)
    ]
    assert (
        "between two of 30 rows 2 seeds show no difference of the average (tiny_add none), and"
        in plan_power.sentence(thirty)
    )
    base = composed([*words, "loss=base", "seed=0"])
    right = [4, 3, 2, 4, 0] * 8
    part = {"score": 65.0, "interval": None, "samples": 4, "right": {"official": right}}
    write_json(Cell.of(base).scores(base) / "scores.json", {"benchmarks": {"tiny_add": part}, "verdict": "official"})
    said = plan_power.sentence(groups())
    parts = assumed([true_chances(np.array(right) / 4, 4)], [4])
    assert f"3 seeds show {detectable(parts, 3):.1f} points" in said and "as hard as for the base" in said
    # A task of lm_eval has one answer to each question, however many samples the others have.
    task = BenchmarkConfig(path="lm_eval:arc_easy", rows=30)
    mixed = groups()
    for config in (config for group in mixed for config in group):
        config.benchmark = {**config.benchmark, "arc_easy": task}
    both = assumed([uniform_chances(40), uniform_chances(30)], [4, 1])
    said = plan_power.sentence(mixed)
    assert f"3 seeds show {detectable(both, 3):.1f} points of the average" in said
    assert f"arc_easy {detectable(assumed([uniform_chances(30)], [1]), 3):.1f})" in said
    for config in (config for group in mixed for config in group):
        config.benchmark, config.sweep = {"arc_easy": task}, replace(config.sweep, difference=18.0)
    said = plan_power.sentence(mixed)
    assert "sweep.difference=18: " in said and " seeds" in said and "samples of each problem" not in said
    unknown = plan_power.sentence(groups("benchmark.tiny_add.path=problems.jsonl"))
    assert unknown.startswith("power: not known before the problems of tiny_add are read")


def test_a_plan_speaks_of_each_model_by_itself(tmp_path):
    """One has a scored base and one more row; two of which nothing is on record are named together."""
    words = ["dataset=embedded", "benchmark=[tiny_add]", f"machine.results={tmp_path}", "eval.samples=4", "loss=sft"]
    tiny = composed(["model=tiny", *words])

    def groups(model: str, losses: tuple[str, ...]) -> list:
        own = replace(tiny, names=replace(tiny.names, model=model), model=replace(tiny.model, path=model))
        return [[replace(own, names=replace(own.names, loss=loss), seed=seed) for seed in range(3)] for loss in losses]

    base = replace(groups("a", ("base",))[0][0], loss={"_target_": "losslab.objectives.base.Base"})
    right = [4, 3, 2, 4, 0] * 8
    part = {"score": 65.0, "interval": None, "samples": 4, "right": {"official": right}}
    write_json(Cell.of(base).scores(base) / "scores.json", {"benchmarks": {"tiny_add": part}, "verdict": "official"})
    said = plan_power.sentence(
        groups("a", ("sft", "dft", "x")) + groups("b", ("sft", "dft")) + groups("c", ("sft", "dft"))
    )
    of_a, of_others = said.split("\npower of b and c: ")
    known, unknown = assumed([true_chances(np.array(right) / 4, 4)], [4]), assumed([uniform_chances(40)], [4])
    three = detectable(known, 3, simultaneous_level(3))
    assert of_a.startswith(f"power of a: between two of 3 rows 3 seeds show {three:.1f} points")
    assert "as hard as for the base" in of_a and "spread evenly" in of_others
    assert of_others.startswith(f"between two of 2 rows 3 seeds show {detectable(unknown, 3):.1f} points")
    assert plan_power.sentence(groups("a", ("sft",)) + groups("b", ("sft",))) == ""


def test_a_plan_takes_the_variance_between_recorded_runs(tmp_path):
    """Of three seeds: of two rows the difference, of one row twice its own; two seeds are too few."""
    words = ["model=tiny", "dataset=embedded", "benchmark=[tiny_add]", f"machine.results={tmp_path}", "eval.samples=4"]
    config = composed([*words, "loss=sft"])
    objectives = {"sft": "losslab.objectives.sft.SFT", "dft": "losslab.objectives.dft.DFT"}
    of_objectives = [
        replace(config, loss={"_target_": target}, names=replace(config.names, loss=loss))
        for loss, target in objectives.items()
    ]
    rows = [[replace(one, seed=seed) for seed in range(4)] for one in of_objectives]

    def record(row: int, seed: int, right: list[int]) -> None:
        one = rows[row][seed]
        part = {"score": 25 * float(np.mean(right)), "interval": None, "samples": 4, "right": {"official": right}}
        content = {"benchmarks": {"tiny_add": part}, "verdict": "official"}
        write_json(Cell.of(one).scores(one) / "scores.json", content)

    constant = "runs of one recipe differ by 0.41 points on the average of five benchmarks"
    for seed in range(2):
        record(0, seed, [1 + seed] * 40)
    assert constant in plan_power.sentence(rows)
    record(0, 2, [3] * 40)
    # 25, 50 and 75% on every problem: a variance of 625, and of the difference twice as much. Of it sampling makes
    # 1e4 p (1 - p) / 3 / 40 on average, twice.
    runs = 2 * (625 - 1e4 * (0.1875 + 0.25 + 0.1875) / 3 / 3 / 40)
    said = plan_power.sentence(rows)
    assert f"differences of the average vary between runs by {runs**0.5:.2f} points (standard deviation)" in said
    assert "as measured over 3 or more recorded seeds" in said
    assert f"4 seeds show {detectable(assumed([uniform_chances(40)], [4], runs), 4):.1f} points of the average" in said
    own = [[replace(one, model=replace(one.model, pretrain_seed=None)) for one in row] for row in rows]
    for row, seed in ((0, 0), (0, 1), (0, 2)):
        rows[row][seed] = own[row][seed]
        record(row, seed, [1 + seed] * 40)
    assert constant in plan_power.sentence(own)  # its base changes with the seed, and cancels in a difference
    for seed, more in enumerate((1, 0, 1)):
        rows[1][seed] = own[1][seed]
        record(1, seed, [1 + seed + more] * 40)
    # Differences of 25, 0 and 25 points on every problem; of shares of 25, 50, 75, and 50, 50, 100 percent.
    noise = 1e4 * (0.1875 + 0.25 + 0.1875 + 0.25 + 0.25) / 3 / 3 / 40
    assert f"vary between runs by {(625 / 3 - noise) ** 0.5:.2f} points" in plan_power.sentence(own)
    # Each run has another half of the problems right whenever it is asked: no noise of sampling, but one of training.
    rng, means = np.random.default_rng(0), []
    for seed in range(3):
        marks = [rng.integers(0, 2, 40) for _ in range(2)]
        for row, right in enumerate(marks):
            record(row, seed, (4 * right).tolist())
        means.append(100 * float(marks[1].mean() - marks[0].mean()))
    assert f"vary between runs by {np.std(means, ddof=1):.2f} points" in plan_power.sentence(own)
