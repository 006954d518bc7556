"""Problems that are versions of one another: read, recorded, and taken together in every interval."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from test_conclusion import MEASURE
from test_tables import cell

from losslab.composition.checks import check_prompts
from losslab.composition.compose import composed
from losslab.config.benchmark import BenchmarkConfig
from losslab.config.sweep import SweepConfig
from losslab.evaluation import benchmarks, scores
from losslab.files.json_files import read_json, write_json
from losslab.planning import plan_power
from losslab.results import tables
from losslab.results.compare import compare
from losslab.results.conclusion import conclude
from losslab.results.conclusion_text import sentences
from losslab.results.load_records import CellScores
from losslab.results.problem_shares import ProblemShares, ScoredProblems
from losslab.results.tables import Row, Table
from losslab.results.tuning import choosing, tune
from losslab.statistics.intervals import Estimate, over_benchmarks, over_problems, over_seeds_and_problems
from losslab.statistics.racing import look
from losslab.statistics.versions import Versions, merged

RNG = np.random.default_rng(3)


def test_by_hand():
    """Two benchmarks of the same tasks a, b, c, one of which lacks c; and one that stands alone."""
    first, second, alone = np.array([[0.0, 60.0, 90.0]]), np.array([[20.0, 40.0]]), np.array([[1.0, 2.0]])
    (together, other), weights = merged([first, alone, second], [["a", "b", "c"], None, ["b", "a"]])
    assert weights == [2, 1] and other is alone
    # The means are 50 and 30, so that of the two is 40; a: 40 + 3 ((0 - 50) / 6 + (40 - 30) / 4), and so on.
    np.testing.assert_allclose(together, [[22.5, 37.5, 60.0]])
    assert together.mean() == pytest.approx(40)
    estimate = over_seeds_and_problems([first, alone, second], originals=[["a", "b", "c"], None, ["b", "a"]])
    assert estimate.mean == pytest.approx((50 + 1.5 + 30) / 3)
    variance = np.var([22.5, 37.5, 60.0], ddof=1) / 3 * (2 / 3) ** 2 + 0.5 / 2 / 9
    assert over_seeds_and_problems([together], originals=[None]).half == over_problems(together[0]).half
    t = estimate.half / variance**0.5
    assert 4.1 < t < 4.4  # Student's at nearly two degrees of freedom: 4.30


def test_several_versions_in_one_benchmark_are_their_mean():
    values = RNG.normal(size=(3, 40))
    names = [f"x/{i % 8}" for i in range(40)]
    estimate = over_seeds_and_problems([values], originals=[names])
    expected = over_seeds_and_problems([values.reshape(3, 5, 8).mean(1)])
    assert (estimate.mean, estimate.half) == (pytest.approx(expected.mean), pytest.approx(expected.half))
    own = [f"x/{i}" for i in range(40)]
    assert over_seeds_and_problems([values], originals=[own]).half == pytest.approx(
        over_seeds_and_problems([values]).half
    )


@pytest.mark.parametrize(("benchmarks", "copies"), [(8, 1), (1, 5)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_coverage(benchmarks, copies, seeds):
    """Apart, versions that have most of their variance in common give intervals that hold the mean in two of three."""
    rng, hits, draws = np.random.default_rng(0), {False: 0, True: 0}, 500
    for _ in range(draws):
        shared = rng.normal(size=(60, 1)) * 0.8**0.5
        own = rng.normal(size=(benchmarks, 60, copies)) * 0.2**0.5
        values = [(shared + own[i]).ravel() + 0.5 * rng.normal(size=(seeds, 60 * copies)) for i in range(benchmarks)]
        names = [f"x/{i // copies}" for i in range(60 * copies)]
        for together in hits:
            estimate = over_seeds_and_problems(values, originals=[names if together else None] * benchmarks)
            hits[together] += abs(estimate.mean) <= estimate.half
    assert 0.92 < hits[True] / draws < 0.98
    assert hits[False] / draws < 0.85


def test_they_are_read_from_the_columns_of_the_shipped_benchmarks():
    config = composed(["benchmark=[humaneval,humaneval_plus,multipl_e]"])
    assert len(config.benchmark) == 10 and {about.versions_of for about in config.benchmark.values()} == {"HumanEval"}
    assert composed(["benchmark=[mathverse]"]).benchmark["mathverse"].original == "problem_index"
    from losslab.evaluation.versions import original

    about = config.benchmark
    assert original("row 1", {"task_id": "HumanEval/7"}, about["humaneval"]) == "HumanEval/7"
    assert original("row 1", {"task_id": "Python/7"}, about["multipl_e_python"]) == "HumanEval/7"
    assert original("row 1", {"name": "HumanEval_7_filter_by_substring"}, about["multipl_e_cpp"]) == "HumanEval/7"
    assert original("row 1", {"id": 7}, composed(["benchmark=[math500]"]).benchmark["math500"]) == ""
    with pytest.raises(ValueError, match="row 1: no number in the column 'task_id', .* or set versions_of=null"):
        original("row 1", {"task_id": "a"}, about["humaneval"])
    with pytest.raises(ValueError, match="benchmark.humaneval: versions_of and original go together"):
        check_prompts(composed(["benchmark=[humaneval]", "benchmark.humaneval.original=null"]))
    keys = ["benchmark.wemath.versions_of=WeMath", "benchmark.wemath.original=ID"]
    with pytest.raises(ValueError, match="wemath.versions_of is not for tasks of lm_eval and multi-step problems"):
        check_prompts(composed(["benchmark=[wemath]", *keys]))


def test_a_benchmark_has_them_and_its_hash_does_not(tmp_path):
    rows = [{"problem": f"{i}?", "answer": str(i), "of": f"task {i // 2}"} for i in range(4)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = BenchmarkConfig(path=str(tmp_path / "x.jsonl"))
    plain = benchmarks.load("x", about)
    made = benchmarks.load("x", BenchmarkConfig(path=about.path, versions_of="task", original="of"))
    assert [problem.original for problem in made.problems] == ["task/0", "task/0", "task/1", "task/1"]
    assert {problem.original for problem in plain.problems} == {""} and plain.sha256 == made.sha256


def records(right: list[list[bool]], originals: list[str]) -> list[dict]:
    sample = {"extracted": "7", "finish_reason": "stop", "tokens": 2, "timed_out": False}
    return [
        {"samples": [sample | {"official": mark, "corrected": mark} for mark in marks], "seen": None, "original": of}
        for marks, of in zip(right, originals, strict=True)
    ]


MARKS = {
    "python": [[True, True], [True, False], [False, False], [False, True]],
    "cpp": [[True, True], [True, True], [False, False]],
}
TASKS = {"python": ["t/0", "t/1", "t/2", "t/3"], "cpp": ["t/1", "t/0", "t/2"]}


def expected() -> Estimate:
    return over_seeds_and_problems(
        [100 * np.array(marks, float).mean(1)[None] for marks in MARKS.values()], originals=[*TASKS.values()]
    )


def test_scores_have_them():
    rows = {name: scores.summarise(records(MARKS[name], TASKS[name]), 2, "official") for name in MARKS}
    assert {name: row["originals"] for name, row in rows.items()} == TASKS
    average = scores.average(rows, "official")
    assert average["score"] == pytest.approx(expected().mean)
    assert average["interval"] == pytest.approx([expected().low, expected().high])
    apart = over_benchmarks({name: Estimate.recorded(row["score"], row["interval"]) for name, row in rows.items()}, {})
    assert expected().half > apart.half
    twice = scores.summarise(records(MARKS["python"], ["t/0", "t/0", "t/1", "t/1"]), 2, "official")
    assert twice["interval"] == pytest.approx([50 - 317.65, 50 + 317.65], rel=1e-4)  # 75 and 25, and 12.706 of 25


def test_tables_comparisons_and_conclusions_take_them_together(tmp_path):
    """What a sweep shows of scores with versions: the average of a row, the conclusion, the comparison of two cells."""
    other = {name: [[not mark for mark in marks] for marks in of] for name, of in MARKS.items()}
    folders = {}
    for loss, marks in (("sft", MARKS), ("dft", other)):
        folder = cell(tmp_path, loss, 0, {"python": 50.0, "cpp": 50.0}).folder
        place = next((folder / "scores").iterdir())
        rows = {name: scores.summarise(records(marks[name], TASKS[name]), 2, "official") for name in marks}
        content = read_json(place / "scores.json")
        write_json(place / "scores.json", content | {"benchmarks": rows, "average": scores.average(rows, "official")})
        folders[loss] = folder
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    (row,) = [row for row in table.rows if row.names["loss"] == "sft"]
    assert row.value("average").half == pytest.approx(expected().half)
    shares = ProblemShares(table)
    difference = shares.difference(*sorted(table.rows, key=lambda row: row.names["loss"], reverse=True))
    points = [100 * (1 - 2 * np.array(MARKS[name], float).mean(1))[None] for name in MARKS]
    assert difference.columns["average"].half == pytest.approx(
        over_seeds_and_problems(points, originals=[*TASKS.values()]).half
    )
    (conclusion,) = conclude(table)
    assert (conclusion.problems, conclusion.originals) == (7, 4)
    assert any(
        "7 problems of python, cpp, versions of 4 that are each taken together, with" in s
        for s in sentences(conclusion)
    )
    (line,) = [
        line for line in compare((str(folders["sft"]), str(folders["dft"]))).splitlines() if "| average |" in line
    ]
    assert f"{difference.columns['average'].low:+.1f} to" in line


def test_the_versions_of_one_problem_choose_all_or_score_all():
    originals = {"python": [f"t/{i}" for i in range(200)], "cpp": [f"t/{i}" for i in reversed(range(190))]}
    shares = {name: RNG.random(len(of)) for name, of in originals.items()}
    scored = ScoredProblems({name: f"hash of {name}" for name in shares}, shares, originals)
    chose = {
        name: {of for of, yes in zip(originals[name], choosing(scored, name), strict=True) if yes} for name in shares
    }
    assert chose["cpp"] == chose["python"] & set(originals["cpp"]) and 80 < len(chose["python"]) < 120
    plain = ScoredProblems(scored.problems, shares)
    assert choosing(plain, "python").sum() == 100


def test_a_race_takes_them_together():
    base, values = RNG.random((4, 30)), RNG.random((2, 4, 30)) * 0.3 + 0.5
    names = [f"t/{i}" for i in range(30)]
    rows = {"a": {"x": values[0], "y": values[0]}, "b": {"x": values[1], "y": values[1]}}
    apart, together = (look(rows, {"x": base, "y": base}, 0.99, of) for of in (None, {"x": names, "y": names}))
    once = look({name: {"x": of["x"]} for name, of in rows.items()}, {"x": base}, 0.99)
    assert together[1].difference.half == pytest.approx(once[1].difference.half)
    assert together[1].over_base.half == pytest.approx(once[1].over_base.half)
    assert together[1].over_base.half > apart[1].over_base.half


def test_a_plan_says_that_it_takes_them_as_different():
    config = composed(["experiment=table3", "model=qwen2.5-coder-3b", "loss=sft"])
    groups = [[config], [composed(["experiment=table3", "model=qwen2.5-coder-3b", "loss=dft"])]]
    assert "assumed: versions of one problem are as different as other problems (humaneval, " in plan_power.sentence(
        groups
    )


def in_a_folder(results: Path, marks: dict[str, dict[str, list[list[bool]]]], old: set[str]) -> dict[str, Path]:
    """Cells of objectives with samples; those of `old` were scored before their records had originals."""
    folders = {}
    for loss, of in marks.items():
        folder = cell(results, loss, 0, {name: 50.0 for name in of}).folder
        place = next((folder / "scores").iterdir())
        rows = {name: scores.summarise(records(right, TASKS[name]), 2, "official") for name, right in of.items()}
        average = scores.average(rows, "official")
        if loss in old:
            rows = {
                name: {key: value for key, value in row.items() if key != "originals"} for name, row in rows.items()
            }
        content = read_json(place / "scores.json")
        write_json(place / "scores.json", content | {"benchmarks": rows, "average": average})
        folders[loss] = folder
    return folders


def test_records_from_before_they_were_recorded_pair_with_others(tmp_path):
    """The hash of the problems is the same, so that what one record says of them holds for the other."""
    other = {name: [[not mark for mark in marks] for marks in of] for name, of in MARKS.items()}
    marks = {"sft": MARKS, "dft": other}
    halves = []
    for i, old in enumerate((set(), {"sft"}, {"dft"})):
        folders = in_a_folder(tmp_path / str(i), marks, old)
        table = tables.build(SweepConfig(name="study"), str(tmp_path / str(i)))
        rows = {row.names["loss"]: row for row in table.rows}
        shares = ProblemShares(table)
        halves.append(shares.difference(rows["sft"], rows["dft"]).columns["average"].half)
        assert {str(shares.of(row.entries[0]).originals) for row in table.rows} == {str(TASKS)}
        said = [
            compare((str(folders[a]), str(folders[b]))).splitlines()[-1] for a, b in (("sft", "dft"), ("dft", "sft"))
        ]
        lows, highs = zip(*([float(x) for x in line.split("|")[5].split(" to ")] for line in said), strict=True)
        assert (lows[0], highs[0]) == (-highs[1], -lows[1])
    assert halves[0] == pytest.approx(halves[1]) == pytest.approx(halves[2])


def test_damaged_originals_are_a_damaged_record(tmp_path):
    for i, damaged in enumerate((["t/0"], 5, [1, 2, 3, 4])):
        folders = in_a_folder(tmp_path / str(i), {"sft": MARKS}, set())
        place = next((folders["sft"] / "scores").iterdir()) / "scores.json"
        content = read_json(place)
        content["benchmarks"]["python"]["originals"] = damaged
        write_json(place, content)
        table = tables.build(SweepConfig(name="study"), str(tmp_path / str(i)))
        assert len(table.faults) == 1 and str(place) in table.faults[0] and "originals" in table.faults[0]


def test_equal_scores_stay_equal_beside_older_records():
    """A mean by way of originals would differ in the last digits, and a base's equal seeds then have no interval."""
    for _ in range(50):
        values = RNG.integers(0, 3, 7) / 2 * 100
        estimate = Estimate(float(values.mean()), 3.0)
        versions = {"x": Versions(values, [f"t/{i % 3}" for i in range(7)])}
        assert over_benchmarks({"x": estimate}, versions).mean == over_benchmarks({"x": estimate}, {}).mean


def test_where_all_originals_are_on_one_side_nothing_is_chosen_and_nothing_scored():
    names = next([f"{set}/{i}" for i in range(2)] for set in "abcdefgh" if len(sides(set)) == 1)
    of = [name for name in names for _ in range(5)]
    rows = []
    for rate, share in ((1e-5, 0.0), (1e-4, 1.0)):
        config = {"loss": "sft", "optimizer.lr": rate}
        names = {"model": "tiny", "loss": "sft", "method": None}
        scored = {"x": Estimate(share), "average": Estimate(share)}
        entry = CellScores(Path(f"{rate}"), names, 0, config, "paper-1", scored, {"x": 16}, "official")
        row = Row(names, config, MEASURE, [entry], f"sft {rate}")
        rows.append((row, ScoredProblems({"x": "hash"}, {"x": np.full(10, share)}, {"x": of})))
    table = Table(SweepConfig(name="study", tune="optimizer.lr"), ["x"], [], [row for row, _ in rows], [])
    shares = ProblemShares(table)
    shares.cells = {(row.entries[0].folder, "paper-1"): scored for row, scored in rows}
    (choice,) = tune(table, shares).own
    assert choice.chosen == {} and choice.row.scored == []


def sides(name: str) -> set[int]:
    return {hashlib.sha256(f"{name}/{i}".encode()).digest()[0] % 2 for i in range(2)}
