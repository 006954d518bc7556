"""The one estimator: by hand, against independent computations, and how often its intervals hold the truth."""

import sys

import numpy as np
import pytest
from conftest import ROOT

from losslab.statistics import intervals
from losslab.statistics.intervals import (
    Estimate,
    over_benchmarks,
    over_problems,
    over_seeds,
    over_seeds_and_problems,
    paired,
    simultaneous_level,
    student,
)

sys.path.append(str(ROOT / "benchmarks"))
import coverage  # noqa: E402

T = {1: 12.70620, 2: 4.30265, 3: 3.18245}  # 97.5% quantiles of printed tables


@pytest.mark.parametrize(
    ("degrees", "level", "quantile"),
    [
        (1, 0.95, 12.7062), (2, 0.95, 4.30265), (3, 0.95, 3.18245), (15, 0.95, 2.13145), (30, 0.95, 2.04227),
        (40, 0.95, 2.02108), (120, 0.95, 1.97993), (10**6, 0.95, 1.95997), (1, 0.99, 63.6567), (4, 0.99, 4.60409),
        (9, 0.5, 0.70272),
    ],
)  # fmt: skip
def test_students_quantiles(degrees, level, quantile):
    assert student(degrees, level) == pytest.approx(quantile, rel=1e-4)


def test_over_seeds_by_hand():
    estimate = over_seeds([50.0, 52.0, 54.0])
    assert (estimate.mean, estimate.half) == (52.0, pytest.approx(T[2] * 2 / 3**0.5, rel=1e-5))
    assert over_seeds([7.0]) == over_seeds([7.0, 7.0]) == Estimate(7.0)
    assert (f"{estimate}", f"{Estimate(7.0):.2f}") == ("52.0 ± 5.0", "7.00")
    assert estimate.contains(47.1) and not estimate.contains(46.9) and Estimate(7.0).contains(7.0) is None
    assert estimate.nonzero and not Estimate(5.0, 6.0).nonzero and not Estimate(5.0).nonzero


def test_a_few_equal_numbers_have_no_interval():
    """Also if they are equal but for rounding, and of one seed; thirty of seeds and problems have one."""
    assert 70.3 - 70 != 20.3 - 20 and over_seeds([70.3 - 70, 20.3 - 20]).half is None
    assert not over_seeds([0.3, 0.3]).nonzero and over_seeds([0.3, 0.31]).half > 0.06
    assert over_seeds_and_problems([np.full((2, 14), 0.3)]).half is None
    assert over_seeds_and_problems([np.full((2, 7), 0.3), np.full((2, 7), 0.5)], 0.99).half is None
    assert [over_seeds_and_problems([np.full(shape, 0.25)]).half for shape in ((2, 15), (1, 30))] == [0.0, 0.0]
    assert over_seeds_and_problems([np.full((1, 4), 0.25)]).half is None
    assert intervals.over_clusters(np.full(4, 3.0), np.full(4, 2.0)) == Estimate(1.5, 0.0)


def test_over_problems_by_hand():
    estimate = over_problems([0.25, 1.0, 0.0])  # standard deviation 0.520416
    assert estimate.half == pytest.approx(T[2] * 0.520416 / 3**0.5, rel=1e-5)
    assert over_problems([0.5]) == Estimate(0.5)


def test_over_seeds_and_problems_by_hand():
    """Means of the seeds 20 and 60, of the problems 20 and 60; residuals 10, -10, -10, 10, or 400 / 1 = 400 over 4."""
    values = np.array([[10.0, 30.0], [30.0, 90.0]])
    # The seeds' part is 800 / 2 = 400, the problems' 800 / 2 - 100 = 300, their t(1) the same.
    assert over_seeds_and_problems([values]).half == pytest.approx(T[1] * 700**0.5, rel=1e-5)
    # With a second benchmark that does not vary: half of each seed's difference, a quarter of each part.
    other = np.full((2, 3), 40.0)
    average = over_seeds_and_problems([values, other])
    assert (average.mean, average.half) == (40.0, pytest.approx(T[1] * 175**0.5, rel=1e-5))


def test_the_quantiles_of_seeds_and_problems_are_blended():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 1)) + rng.normal(size=40) + rng.normal(size=(3, 40))
    seeds, problems = values.mean(1), values.mean(0)
    residuals = values - seeds[:, None] - problems + values.mean()
    of_seeds = seeds.var(ddof=1) / 3
    of_problems = problems.var(ddof=1) / 40 - (residuals**2).sum() / (2 * 39) / 120
    total = of_seeds + of_problems
    r = of_seeds / total
    weight = r * r / (r * r + 1 - r)
    square = weight * T[2] ** 2 + (1 - weight) * 2.02269**2  # t(39)
    assert over_seeds_and_problems([values]).half == pytest.approx((total * square) ** 0.5, rel=1e-4)


def test_a_paired_difference_forgets_what_both_share():
    rng = np.random.default_rng(0)
    a = {name: rng.random((3, size)) for name, size in (("x", 20), ("y", 7))}
    b = {name: values + 0.1 for name, values in a.items()}
    assert {name: (round(e.mean, 9), e.half and round(e.half, 9)) for name, e in paired(a, b).items()} == {
        "x": (10.0, 0.0), "y": (10.0, None), "average": (10.0, 0.0)
    }  # fmt: skip
    shuffled = rng.permutation(20)
    c = {name: rng.random(values.shape) for name, values in a.items()}
    order = [{"x": rows["x"][:, shuffled], "y": rows["y"]} for rows in (a, c)]
    assert paired(*order)["average"].half == pytest.approx(paired(a, c)["average"].half)
    assert paired(c, a)["x"].mean == -paired(a, c)["x"].mean
    for wrong in ({"x": a["x"]}, {"x": a["x"][:2], "y": a["y"][:2]}, {"x": a["x"], "y": a["y"][:, :3]}):
        with pytest.raises(ValueError, match="the same benchmarks, problems and seeds"):
            paired(a, wrong)


def test_one_seed_is_the_interval_over_problems():
    """And near a paired bootstrap over problems, which assumes no distribution."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((200, 16)) < chance for chance in (0.4, 0.5))
    difference = 100 * (b.mean(1) - a.mean(1))
    estimate = paired({"x": a.mean(1)[None]}, {"x": b.mean(1)[None]})["x"]
    assert estimate == over_problems(difference)
    means = difference[rng.integers(200, size=(4000, 200))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=0.25), pytest.approx(high, abs=0.25))
    assert paired({"x": [[0.1]]}, {"x": [[0.3]]})["x"].half is None  # one problem of one seed


def test_a_mean_of_independent_estimates():
    assert over_benchmarks({"x": Estimate(10.0, 3.0), "y": Estimate(30.0, 4.0)}, {}) == Estimate(20.0, 2.5)
    assert over_benchmarks({"x": Estimate(10.0, 3.0), "y": Estimate(30.0)}, {}) == Estimate(20.0, None)
    assert Estimate.recorded(10.0, [7.0, 13.0]) == Estimate(10.0, 3.0)
    assert Estimate.recorded(10.0, None) == Estimate(10.0)


def test_simultaneous_intervals_are_sidaks():
    rng = np.random.default_rng(0)
    rows = {str(i): {"x": rng.random((4, 30))} for i in range(3)}
    reference = {"x": rng.random((4, 30))}
    for row in rows.values():
        points = [100 * (row["x"] - reference["x"])]
        alone, together = (over_seeds_and_problems(points, simultaneous_level(n)) for n in (1, len(rows)))
        assert alone == paired(reference, row)["x"] and together == over_seeds_and_problems(points, 0.95 ** (1 / 3))
        assert together.mean == alone.mean and together.half > alone.half


def recorded(title: str) -> list[list[str]]:
    """The lines of a table of coverage.md, as benchmarks/coverage.py last wrote it, below its head."""
    parts = (ROOT / "results/benchmarks/coverage.md").read_text().split("\n## ")
    (lines,) = (part.splitlines() for part in parts if part.startswith(f"{title}\n"))
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]


@pytest.mark.parametrize("ratio", coverage.RATIOS)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_seeds_and_problems_hold_the_truth_as_often_as_is_quoted(seeds, ratio):
    """In 92.4 to 97.3%, as coverage.md has it of this case; of 2,000 drawn ones 1.5% less or more by chance."""
    name = " : ".join(f"{part:g}" for part in ratio)
    (expected,) = (float(row[seeds]) for row in recorded("Over seeds and problems") if row[:2] == [name, "30"])
    rng = np.random.default_rng(1)
    found = coverage.coverage(lambda: over_seeds_and_problems([coverage.crossed(seeds, 30, ratio, rng)]), 0.0, 2000)
    assert found == pytest.approx(expected, abs=1.5) and 92.4 <= expected <= 97.3


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        *((lambda rng, n=n: over_seeds(rng.normal(size=n)), 0.0) for n in (2, 3, 4, 5)),
        (lambda rng: over_problems(coverage.bernoulli(200, 16, 0.5, rng)), 0.5),
        (lambda rng: over_problems(coverage.bernoulli(200, 4, 0.3, rng)), 0.3),
    ],
)
def test_intervals_over_one_of_both_hold_the_truth_as_often_as_they_say(draw, truth):
    """In 94 to 96% of these cases; of 2,000 drawn ones 1.5% less or more by chance."""
    rng = np.random.default_rng(1)
    assert 92.5 <= coverage.coverage(lambda: draw(rng), truth, 2000) <= 97.5


def test_where_seeds_agree_by_chance_they_are_taken_not_to_differ():
    """Means of the seeds 41 and 39, of the problems 30 and 50; residuals 9, -9, -9, 9."""
    values = np.array([[40.0, 42.0], [20.0, 58.0]])
    estimate, parts = intervals.with_variances([values])
    # A seed's mean varies by 324 / 1 / 2 = 162 by the rest alone, and by 2 here; the problems' part is 200 / 2 - 81.
    assert (parts.between_seeds, parts.rest, parts.problems) == (2.0, 162.0, ((19.0, 1),))
    assert estimate.half == pytest.approx(over_problems([30.0, 50.0]).half) == pytest.approx(T[1] * 10, rel=1e-5)
    # At a higher level the longer one counts: here the same, since t(1) is that of seeds and problems alike.
    assert over_seeds_and_problems([values], 0.99).half == pytest.approx(63.6567 * 10, rel=1e-4)
    # With a second benchmark in which nothing varies: of the average a quarter of each part.
    assert over_seeds_and_problems([values, np.full((2, 3), 40.0)]).half == pytest.approx(T[1] * 5, rel=1e-5)
    rng = np.random.default_rng(0)
    for level in (0.95, 0.99):
        for _ in range(300):
            drawn = [coverage.crossed(3, 20, (0.1, 0.1, 0.8), rng), coverage.crossed(3, 60, (0.1, 0.1, 0.8), rng)]
            for one in drawn:
                assert (
                    over_seeds_and_problems([one], level).half
                    >= over_seeds_and_problems([one.mean(0)[None]], level).half - 1e-9
                )


def test_how_often_seeds_agree_and_what_pooling_would_do():
    """The figures of coverage.md and the docstring; of 2,000 draws each differs by up to 4 points by chance."""
    rng = np.random.default_rng(1)
    alike, held = coverage.agreeing(3, (0.5, 0.0, 0.5), 2000, rng)
    assert 35 < alike < 44 and 82 < held < 90
    alike, held = coverage.agreeing(3, (0.1, 0.1, 0.8), 2000, rng)
    assert 54 < alike < 62 and 92 < held < 97
    own, own_least, pooled, pooled_least = coverage.pooled((1, 1, 1, 3), 3, 500, rng)
    assert own > 93 and own_least > 91 and pooled < own and 84 < pooled_least < 92


def test_half_of_an_interval_has_no_sign():
    assert f"{Estimate(-10.2, 2.9):+.1f}" == "-10.2 ± 2.9" and str(Estimate(33.54, 0.5)) == "33.5 ± 0.5"
    assert f"{Estimate(1.0):+.1f}" == "+1.0"


def test_the_coverage_that_the_docstring_quotes_is_the_simulated_one():
    """Its smallest and largest figures, as benchmarks/coverage.py last wrote them."""

    def ends(title: str, columns: slice, lines: slice = slice(None)) -> tuple[float, float]:
        found = [float(value) for row in recorded(title)[lines] for value in row[columns]]
        return min(found), max(found)

    quoted = " ".join((intervals.__doc__ or "").split())
    for text, (low, high) in {
        "2 to 5 normal seeds {} to {}%": ends("Over normal seeds", slice(1, None)),
        "{} to {}% with 3 or more seeds": ends("Over seeds and problems", slice(3, None)),
        "{} to {}% with 2 ": ends("Over seeds and problems", slice(2, 3)),
        "{} to {}% on 30 or more problems": ends("Over problems, with Bernoulli samples", slice(4, 6)),
        "{} to {}% on 500 problems": ends("Over problems, with Bernoulli samples", slice(3, None), slice(4, 5)),
    }.items():
        assert text.format(low, high) in quoted, (text, low, high)
