"""The conclusion of a sweep: its sentences, and how often they are right where the truth is chosen."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_tables import cell

from losslab.composition.experiment_files import declared
from losslab.config.sweep import SweepConfig
from losslab.files.json_files import read_json, write_json
from losslab.records.record import Cell
from losslab.report.page import write_report
from losslab.results import compare_to_baselines, tables
from losslab.results.conclusion import Conclusion, conclude, conclusions
from losslab.results.conclusion_text import markdown, points, sentences, text
from losslab.results.load_records import CellScores
from losslab.results.problem_shares import ProblemShares, ScoredProblems
from losslab.results.table_formats import caption
from losslab.results.table_formats import markdown as markdown_of
from losslab.results.tables import Measure, Row, Table
from losslab.results.write_tables import write_tables
from losslab.statistics.intervals import Estimate, over_seeds_and_problems, simultaneous_level
from losslab.statistics.power import BETWEEN_RUNS, detectable, seeds_for

MEASURE = Measure("paper-1", "official", (16,))
OBJECTIVES = ("base", "sft", "dft", "iw_sft")


def concluded(scores: dict[str, dict[str, np.ndarray]], **sweep) -> Conclusion:
    """Of rows with (seeds, problems) shares of right samples on each benchmark, in memory."""
    rows, cells, contents = [], {}, {}
    benchmarks = list(next(iter(scores.values())))
    for loss, of in scores.items():
        entries = []
        names = {"model": "tiny", "loss": loss, "method": None}
        for seed in range(len(next(iter(of.values())))):
            folder = Path(f"{loss}-{seed}")
            means = {name: Estimate(100 * float(values[seed].mean())) for name, values in of.items()}
            means["average"] = Estimate(float(np.mean([mean.mean for mean in means.values()])))
            entries.append(CellScores(folder, names, seed, {}, "paper-1", means, dict.fromkeys(of, 16), "official"))
            shares = {name: values[seed] for name, values in of.items()}
            cells[folder, "paper-1"] = ScoredProblems(dict.fromkeys(of, "hash"), shares)
            contents[folder / "scores" / "paper-1"] = {"benchmarks": {}}
        config = {} if loss == "base" else {"optimizer.lr": 1e-4}
        rows.append(Row(names, config, MEASURE, entries, loss))
    table = Table(SweepConfig(name="study", **sweep), benchmarks, [], rows, [])
    shares = ProblemShares(table)
    shares.cells, shares.scores.contents = cells, contents
    (found,) = conclusions(table, shares, None)
    return found


def simulated(rng: np.random.Generator, gains: dict[str, float], seeds: int) -> dict[str, dict[str, np.ndarray]]:
    """Scores of objectives on new problems: a chance for each problem, and what problem and seed do to an objective."""
    chances = {"a": rng.uniform(0.2, 0.8, 60), "b": rng.uniform(0.2, 0.8, 30)}
    scores = {}
    for loss, gain in gains.items():
        of_seed = rng.normal(0, 0.02, (seeds, 1))
        scores[loss] = {
            name: rng.binomial(16, np.clip(p + gain + rng.normal(0, 0.05, len(p)) + of_seed, 0, 1)) / 16
            for name, p in chances.items()
        }
    return scores


@pytest.mark.parametrize(("seeds", "studies"), [(1, 5), (2, 100), (3, 100)])
def test_where_nothing_differs_it_says_undecided(seeds, studies):
    """In 95 of 100 studies at least no row is said to be better than another, base, SFT and best included."""
    rng, wrong = np.random.default_rng(0), 0
    for i in range(studies):
        found = concluded(simulated(rng, dict.fromkeys(OBJECTIVES, 0.0), seeds))
        claimed = any(pair.decided for pair in found.pairs)
        wrong += claimed
        if claimed or i < 3:  # each of its sentences costs time
            said = " ".join(sentences(found))
            assert ("better" in said or "worse" in said) == claimed
            assert said.startswith("Undecided") == bool(found.rivals)
    assert wrong <= (0 if seeds == 1 else 0.05 * studies)


def test_where_one_objective_is_better_it_is_named_and_no_other():
    rng, named, wrong = np.random.default_rng(0), 0, 0
    gains = {"base": -0.1, "sft": 0.0, "dft": 0.2, "iw_sft": 0.0}
    for _ in range(20):
        found = concluded(simulated(rng, gains, 5))
        named += found.decided and found.best == "dft"
        wrong += any(pair.decided and gains[pair.higher] <= gains[pair.lower] for pair in found.pairs)
    assert named >= 18 and wrong <= 1
    assert sentences(found)[0].startswith("dft is the best")


def test_by_hand():
    """Three rows of two seeds on four problems; the intervals are those of three pairs."""
    base = np.array([[0.0, 0.25, 0.5, 0.25], [0.25, 0.25, 0.25, 0.25]])
    steps = np.array([[0.0, 0.0, 0.25, -0.25], [0.0, 0.0, 0.0, 0.0]])
    scores = {"base": base, "sft": base + 0.01 * steps, "dft": base + 0.5 + 0.01 * steps[::-1]}
    found = concluded({loss: {"x": values} for loss, values in scores.items()}, difference=0.5)
    level = simultaneous_level(3)
    assert (found.best, found.family, found.problems, found.seeds) == ("dft", 3, 4, (2, 2))
    pairs = {(pair.higher, pair.lower): pair for pair in found.pairs}
    assert set(pairs) == {("dft", "base"), ("dft", "sft"), ("base", "sft")}
    expected = over_seeds_and_problems([100 * (scores["dft"] - scores["sft"])], level)
    assert pairs["dft", "sft"].difference == expected
    said = sentences(found)
    assert said[0].startswith("dft is the best, with an average of 75.0%: better than base (50.0 points, ")
    assert said[1].startswith("Against base: undecided: sft (−0.0 points, ")
    assert (
        "simultaneous 95% intervals of all 3 pairs of rows (all of them hold with a probability of 95%; Šidák)"
        in said[2]
    )
    assert "over 2 seeds and 4 problems of x with 16 samples each" in said[2]
    assert said[-2:] == [
        "All objectives have the learning rate 0.0001; none has one that was chosen for it.",
        "Not all rows were checked for problems of the benchmarks in their training data.",
    ]


def test_one_seed_each_decides_nothing_and_says_what_would():
    rng = np.random.default_rng(0)
    found = concluded(simulated(rng, {"sft": 0.0, "dft": 0.3}, 1), difference=3.0)
    said = sentences(found)
    assert said[0].startswith("Undecided: with one seed per row the models can be compared, but not the objectives.")
    assert found.power.smallest is None and found.spread.assumed
    assert f"if runs of one recipe differ by {BETWEEN_RUNS} points on the average of five benchmarks (" in said[2]
    between = 2 * BETWEEN_RUNS**2 * 5 / 2
    (parts,) = [pair.variances for pair in found.pairs]
    assert found.power.with_more == pytest.approx(detectable(type(parts)(between, parts.problems), 5))
    assert "the 3 points of sweep.difference cannot be shown with 100 seeds: use more or other problems" in said[2]
    assert (
        f"10 points of sweep.difference take {seeds_for(10.0, type(parts)(between, parts.problems))} seeds"
        in sentences(replace(found, asked=10.0))[2]
    )


def test_averages_over_other_seeds_do_not_turn_a_difference_round():
    """dft has the higher average, by seeds that sft lacks; on the two that both have, sft is ahead by 2."""
    common = np.tile([[0.55, 0.55, 0.56, 0.54], [0.552, 0.552, 0.562, 0.542]], 4)
    rest = np.array([[0.64] * 16, [0.65] * 16, [0.66] * 16])
    found = concluded({"dft": {"x": np.concatenate([common, rest])}, "sft": {"x": common + 0.02}})
    (pair,) = found.pairs
    assert (pair.higher, pair.lower, pair.seeds, found.seeds) == ("sft", "dft", 2, (2, 2)) and pair.decided
    said = sentences(found)
    assert said[0] == (
        "Undecided: dft has the highest average, 61.0%. On the seeds that both have, it is below sft (2.0 points, "
        "2.0 to 2.0)."
    )


def test_the_sign_of_an_interval_is_that_of_its_difference():
    rng = np.random.default_rng(0)
    said = sentences(concluded(simulated(rng, {"sft": 0.0, "dft": 0.2, "iw_sft": -0.2}, 5)))[1]
    match = re.fullmatch(r"Against sft: worse: iw_sft \(−([\d.]+) points, −([\d.]+) to −([\d.]+)\)\.", said)
    assert match, said
    mean, low, high = map(float, match.groups())
    assert high < mean < low


@pytest.mark.parametrize("lacking", [0, 2])
def test_a_seed_that_lacks_a_benchmark_is_left_out_and_named(tmp_path, lacking):
    """The others are compared on all benchmarks, and the table counts the seeds that its average has."""
    for loss, right in (("sft", [1, 2, 1]), ("dft", [3, 4, 3])):
        for seed in range(3):
            scored(tmp_path, loss, seed, right)
    for path in tmp_path.glob("cells/*/scores/*/scores.json"):
        content = read_json(path)
        content["benchmarks"]["amc23"] = content["benchmarks"]["math500"]
        if f"dft-s{lacking}" not in str(path):
            write_json(path, content)
        path.with_name("protocol.yaml").write_text("benchmarks: {math500: a, amc23: b}\n")
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    (found,) = conclude(table)
    (pair,) = found.pairs
    assert (pair.higher, pair.lower, pair.seeds) == ("dft", "sft", 2) and pair.decided
    assert found.left_out == ["dft lacks benchmarks in 1 of its 3 seeds"]
    assert "over 2 seeds and 60 problems of math500, amc23" in text([found])
    write_tables(["study"], str(tmp_path))
    rows = (tmp_path / "tables/study/table.md").read_text()
    assert "| tiny | dft | **83.3** [1] | **83.3** | **83.3** | 2/3 |" in rows
    assert "| 33.3 | 3 |" in rows and "\n[1] Over 3 seeds.\n" in rows
    lines = (tmp_path / "tables/study/table.csv").read_text().splitlines()
    assert lines[0].endswith(
        "seeds,seeds_asked,math500,math500_half,math500_seeds,amc23,amc23_half,amc23_seeds,average,"
        "average_half,average_seeds"
    )
    (of_dft,) = (line.split(",") for line in lines if line.startswith("tiny,dft,2,3,"))
    assert of_dft[6::3] == ["3", "2", "2"]
    page = write_report(SweepConfig(name="study"), str(tmp_path)).read_text()
    assert page.count("<small>(3 seeds)</small>") == 1 and "(2 seeds)" not in page
    difference = ProblemShares(table).difference(*sorted(table.rows, key=lambda row: row.label))
    assert difference.seeds == [seed for seed in range(3) if seed != lacking]
    assert (
        difference.columns["math500"]
        == ProblemShares(replace(table, benchmarks=["math500"]))
        .difference(*sorted(table.rows, key=lambda row: row.label))
        .columns["math500"]
    )  # over all three seeds


def test_a_base_that_other_sweeps_score_too_stays_in_the_conclusion(tmp_path):
    """On other benchmarks under the same protocol, and under another one."""
    for loss, right in (("base", [0, 1, 0]), ("sft", [1, 2, 1]), ("dft", [3, 4, 3])):
        for seed in range(2):
            scored(tmp_path, loss, seed, right)
    before = text(conclude(tables.build(SweepConfig(name="study"), str(tmp_path))))
    assert before.startswith("dft is the best") and "Against base: better: sft" in before
    for path in list(tmp_path.glob("cells/*base*/scores/*/scores.json")):
        content = read_json(path)
        part = content["benchmarks"]["math500"]
        write_json(path, content | {"benchmarks": {"math500": part, "gsm8k": part}})
        write_json(path.parent.with_name("greedy-1") / "scores.json", content | {"benchmarks": {"gsm8k": part}})
        (path.parent.with_name("greedy-1") / "protocol.yaml").write_text("benchmarks: {gsm8k: hash}\n")
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert table.benchmarks == ["math500"] and not table.others
    assert text(conclude(table)) == before


def test_scores_on_other_problems_are_rows_of_their_own(tmp_path):
    """One benchmark's file was changed between cells: no mean, claim or comparison has both."""
    for loss, right in (("sft", [1, 2, 1]), ("dft", [3, 4, 3])):
        for seed in range(3):
            scored(tmp_path, loss, seed, right)
    for path in tmp_path.glob("cells/*/scores/*/protocol.yaml"):
        changed = "-dft-" in str(path) and "-s2" not in str(path)
        path.write_text(f"benchmarks:\n  math500: {'b' * 64 if changed else 'a' * 64}\n")
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert [(row.label, len(row.scored)) for row in table.rows] == [
        ("sft", 3), ("dft", 1), ("dft problems=math500:bbbbbbbb", 2),
    ]  # fmt: skip
    (found,) = conclude(table)
    assert list(found.averages) == ["dft", "sft"] and found.pairs[0].seeds == 1
    assert found.left_out == [
        "dft problems=math500:bbbbbbbb is scored by another protocol, verdict, number of samples or set of problems"
    ]
    page = markdown_of(compare_to_baselines.sheet("dft", [table]))
    assert "| study | problems=math500:bbbbbbbb | 83.3 | – |" in page


def test_the_measure_that_the_file_declares_is_the_one_that_compares(tmp_path):
    """Both rows have lower scores under another protocol too, in the opposite order."""
    grid = {config.names.loss: config for config in declared("toy_suite/table9", str(tmp_path)) if config.seed == 0}
    names = list(grid["sft"].benchmark)

    def score(loss: str, right: list[int], temperature: float) -> str:
        config = replace(grid[loss], eval=replace(grid[loss].eval, temperature=temperature))
        own = Cell.of(config)
        own.declare(config)
        mean, samples = 100 * float(np.mean(right)) / config.eval.samples, config.eval.samples
        part = {"score": mean, "interval": [mean, mean], "samples": samples, "problems": len(right)}
        part["right"] = {"official": right, "corrected": right}
        write_json(
            own.scores(config) / "scores.json", {"benchmarks": dict.fromkeys(names, part), "verdict": "official"}
        )
        (own.scores(config) / "protocol.yaml").write_text(f"benchmarks: {{{', '.join(f'{n}: hash' for n in names)}}}\n")
        return own.scores(config).name

    def found() -> Conclusion:
        (model,) = {config.names.model for config in grid.values()}
        return next(c for c in conclude(tables.build(grid["sft"].sweep, str(tmp_path))) if c.model == model)

    asked = grid["sft"].eval.temperature
    protocol = score("sft", [14, 15, 16], asked)
    score("dft", [11, 12, 13], asked)
    assert found().protocol is None and "under the protocol" not in " ".join(sentences(found()))
    score("sft", [2, 3, 4], asked + 0.5)
    other = score("dft", [5, 6, 7], asked + 0.5)
    assert other != protocol
    assert (found().best, found().protocol) == (f"sft eval={protocol}", protocol)
    assert f" under the protocol {protocol}. They cover" in " ".join(sentences(found()))


def test_no_interval_is_beyond_what_scores_can_differ():
    """Two seeds that disagree have an interval of hundreds of points, and show no difference at all."""
    assert points(Estimate(2.4, 143.0)) == "2.4 points, −100.0 to 100.0"
    assert points(Estimate(2.4, 20.0)) == "2.4 points, −17.6 to 22.4"
    low = np.full((2, 4), 0.2)
    found = concluded({"sft": {"x": low}, "dft": {"x": low + np.array([[0.0], [0.6]])}})
    said = sentences(found)
    assert "sft (30.0 points, −100.0 to 100.0)" in said[0] and found.power.smallest is None
    assert said[2].startswith("With a chance of 80%, 2 seeds show no difference between two objectives, and 5 seeds")


def test_a_base_that_nothing_improves():
    rng = np.random.default_rng(0)
    said = sentences(concluded(simulated(rng, {"base": 0.0, "sft": -0.2, "dft": -0.2}, 5)))
    assert said[0].startswith("No objective improves the model: base, with an average of ")


def scored(
    results: Path, loss: str, seed: int, right: list[int], lr: float = 1e-3, sweep: str = "study", **facts
) -> None:
    """A record of 4 samples of ten times these problems of math500; `facts` are of its scores."""
    right = 10 * right
    made = cell(results, loss, seed, {"math500": 25 * float(np.mean(right))}, lr, samples=4, sweep=sweep)
    (folder,) = (made.folder / "scores").iterdir()
    content = read_json(folder / "scores.json")
    content["benchmarks"]["math500"] |= {"right": {"official": right}, "problems": len(right), **facts}
    write_json(folder / "scores.json", content)
    (folder / "protocol.yaml").write_text("benchmarks: {math500: hash}\n")


@pytest.mark.parametrize("content", ["benchmarks: [", "temperature: 1.0\n", None])
def test_a_damaged_protocol_is_the_reason_why_a_row_is_left_out(tmp_path, capsys, content):
    """Also that of the best row: the others are compared without it."""
    for loss, right in (("sft", [1, 2, 1]), ("iw_sft", [2, 3, 2]), ("dft", [3, 4, 3])):
        for seed in range(2):
            scored(tmp_path, loss, seed, right)
    for path in tmp_path.glob("cells/*-dft-*/scores/*/protocol.yaml"):
        path.unlink() if content is None else path.write_text(content)
    write_tables(["study"], str(tmp_path))
    assert capsys.readouterr().err.count("protocol.yaml: ") == 2
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    (found,) = conclude(table)
    assert found.left_out == ["dft (damaged record) has no usable record of its answers problem by problem"]
    assert text([found]).startswith("iw_sft is the best, with an average of 58.3%: better than sft (25.0 points, ")
    assert "| dft (damaged record) | " in (tmp_path / "tables/study/table.md").read_text()


def test_a_record_without_samples_is_older_and_not_damaged(tmp_path, capsys):
    """Counts of right samples are on record since version 1; before, samples had them, and may be gone."""
    for loss, right in (("sft", [1, 2, 1]), ("iw_sft", [2, 3, 2]), ("dft", [3, 4, 3])):
        scored(tmp_path, loss, 0, right)
    (path,) = tmp_path.glob("cells/*-dft-*/scores/*/scores.json")
    content = read_json(path)
    del content["benchmarks"]["math500"]["right"]
    write_json(path, content)
    write_tables(["study"], str(tmp_path))
    assert "damaged" not in capsys.readouterr().err
    write_report(SweepConfig(name="study"), str(tmp_path))
    assert "damaged" not in capsys.readouterr().err
    (found,) = conclude(tables.build(SweepConfig(name="study"), str(tmp_path)))
    assert found.left_out == ["dft has no usable record of its answers problem by problem"]


def test_from_records_to_the_terminal_the_files_and_what_was_not_compared(tmp_path, capsys):
    for seed in range(3):
        scored(tmp_path, "sft", seed, [0, 1, 2, 1, 0], seen_exact=0)
        scored(tmp_path, "dft", seed, [2, 3, 4, 3, 2], cut_by_length=30.0, cut_and_right=3.0 * seed, seen_exact=2)
    cell(tmp_path, "iw_sft", 0, None)
    write_tables(["study"], str(tmp_path))
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("dft is the best, with an average of 70.0%: better than sft (50.0 points, 50.0 to 50.0).")
    assert printed.index("dft is the best") < printed.index("study: Which?")
    (found,) = conclude(tables.build(SweepConfig(name="study"), str(tmp_path)))
    assert markdown([found]) == (tmp_path / "tables/study/conclusion.md").read_text()
    said = text([found]).splitlines()
    assert "Not compared: iw_sft has no score." in said
    cut = "30% of the answers of dft to math500 are cut by length"
    assert f"{cut}; 10% of these are right all the same." in said  # 0, 3 and 6 of 30 points
    assert "The training rows hold the question of 2 of the 50 problems of math500." in said


def test_what_was_not_searched_is_named_beside_what_was_found(tmp_path):
    for seed in range(2):
        scored(tmp_path, "sft", seed, [0, 1, 2], seen_exact=None)
        scored(tmp_path, "dft", seed, [2, 3, 4], seen_exact=1 + seed)
    (found,) = conclude(tables.build(SweepConfig(name="study"), str(tmp_path)))
    assert sentences(found)[-2:] == [
        "Not all rows were checked for problems of the benchmarks in their training data.",
        "The training rows hold the question of 2 of the 30 problems of math500.",
    ]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"cut_by_length": 30.0}, ["30% of the answers of dft to math500 are cut by length."]),  # of earlier versions
        ({"cut_by_length": 4.9, "cut_and_right": 0.0}, []),
        ({"cut_by_length": None, "cut_and_right": None}, []),  # as of tasks of lm_eval
    ],
)
def test_of_answers_cut_by_length_nothing_is_said_that_is_not_on_record(tmp_path, facts, told):
    for seed in range(2):
        scored(tmp_path, "sft", seed, [0, 1, 2], seen_exact=0)
        scored(tmp_path, "dft", seed, [2, 3, 4], seen_exact=0, **facts)
    (found,) = conclude(tables.build(SweepConfig(name="study"), str(tmp_path)))
    assert [sentence for sentence in sentences(found) if "cut by length" in sentence] == told


def test_scores_of_several_engines_are_a_threat(tmp_path, capsys):
    """Averaged in one row, or compared between rows; a record that lacks a fact does not tell engines apart by it."""
    vllm = {"engine": "vllm", "engine_version": "0.32.0", "generation": {"dtype": "float32"}}
    transformers = {"engine": "transformers", "engine_version": "5.19.0", "generation": {"dtype": "float32"}}
    for loss, right in (("sft", [1, 2, 1]), ("dft", [3, 4, 3])):
        for seed in range(3):
            scored(tmp_path, loss, seed, right)
    files = {path.parts[-4]: path for path in tmp_path.glob("cells/*/scores/*/scores.json")}

    def threats(engines: dict[str, dict]) -> list[str]:
        for cell_name, path in files.items():
            of_cell = next((engine for part, engine in engines.items() if part in cell_name), vllm)
            content = {key: value for key, value in read_json(path).items() if key not in vllm}
            write_json(path, content | of_cell)
        (found,) = conclude(tables.build(SweepConfig(name="study"), str(tmp_path)))
        return [sentence for sentence in sentences(found) if "several engines" in sentence]

    assert threats({}) == []
    (mixed,) = threats({"dft-s2": transformers})
    assert mixed == (
        "The scores come from several engines, whose probabilities of tokens differ slightly, so that part of a "
        "difference may be theirs: vllm 0.32.0 float32 scored dft (2 of 3 cells) and sft; transformers 5.19.0 float32 "
        "scored dft (1 of 3 cells)."
    )
    write_tables(["study"], str(tmp_path))
    printed = " ".join(capsys.readouterr().out.split())
    assert mixed in printed and mixed in (tmp_path / "tables/study/conclusion.md").read_text()
    bfloat16 = vllm | {"generation": {"dtype": "bfloat16"}}
    assert ": vllm 0.32.0 bfloat16 scored dft; vllm 0.32.0 float32 scored sft." in threats({"dft": bfloat16})[0]
    assert "vllm 0.33.0 float32 scored dft" in threats({"dft": vllm | {"engine_version": "0.33.0"}})[0]
    assert threats({"dft": {"engine": "vllm", "engine_version": "0.32.0"}}) == []
    assert threats({"dft": {}}) == []  # nothing is known of its engine
    served = {"engine": "api", "engine_version": "2.0", "endpoint": "http://localhost:8000/v1"}
    assert "endpoint http://localhost:8000/v1 scored dft" in threats({"dft": served})[0]


def test_a_row_alone_that_averages_engines_says_so(tmp_path):
    for seed in range(2):
        scored(tmp_path, "sft", seed, [1, 2, 1])
    for path in tmp_path.glob("cells/*-s1*/scores/*/scores.json"):
        write_json(path, read_json(path) | {"engine": "transformers"})
    for path in tmp_path.glob("cells/*-s0*/scores/*/scores.json"):
        write_json(path, read_json(path) | {"engine": "vllm"})
    (found,) = conclude(tables.build(SweepConfig(name="study"), str(tmp_path)))
    said = sentences(found)
    assert said[0].startswith("Nothing to compare with sft") and len(said) == 2
    assert "vllm scored sft (1 of 2 cells); transformers scored sft (1 of 2 cells)" in said[1]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_greedy_answers_are_not_called_sampled(tmp_path, temperature):
    """By the conclusion and the caption, over several seeds and over one; nor are those of one fixed seed."""
    for loss, right in (("base", [1, 1, 1]), ("sft", [1, 2, 1]), ("dft", [3, 4, 3])):
        for seed in range(2):
            scored(tmp_path, loss, seed, right)

    def said(seeds: int, fixed: bool = False) -> tuple[str, str]:
        for path in tmp_path.glob("cells/*/scores/*/protocol.yaml"):
            seed = 7 if fixed else int(re.search(r"-s(\d)-", str(path))[1])
            path.write_text(f"benchmarks: {{math500: hash}}\ntemperature: {temperature}\nseed: {seed}\n")
        table = tables.build(SweepConfig(name="study"), str(tmp_path))
        rows = [replace(row, entries=row.entries[:seeds]) for row in table.rows]
        table = replace(table, rows=rows)
        (found,) = conclude(table)
        return next(s for s in sentences(found) if s.startswith("In brackets")), caption(table)

    sampled = temperature > 0
    several, below = said(2)
    assert several.endswith(f"other seeds, which change the order of training{' and sampling of answers' * sampled}.")
    assert f"covers another order of training{' and sampling of answers' * sampled} on the same problems" in below
    one, below = said(1)
    assert one.endswith(f"other problems of these kinds{' and other samples' * sampled}, but not another training.")
    assert f"covers other problems{' and answers' * sampled}, but not another training" in below
    assert said(2, fixed=True)[0].endswith("which change the order of training.")


@pytest.mark.parametrize(
    ("benchmarks", "graders", "sampled"),
    [
        (["ifeval", "mmlu"], {}, False),
        (["ifeval", "math500"], {"math500": "version"}, True),
        (["ifeval", "mmlu"], None, True),  # an older record, which does not tell tasks apart
        (["ifeval"], {"math500": "version"}, False),  # scored for another sweep too
    ],
)
def test_answers_to_tasks_are_not_called_sampled(tmp_path, benchmarks, graders, sampled):
    """Tasks of lm_eval take the most probable answer, whatever the temperature of the protocol is."""
    for loss, score in (("sft", 40.0), ("dft", 60.0)):
        for seed in range(3):
            made = cell(tmp_path, loss, seed, dict.fromkeys({*benchmarks, *(graders or {})}, score))
            (folder,) = (made.folder / "scores").iterdir()
            hashes = ", ".join(f"{name}: hash" for name in {*benchmarks, *(graders or {})})
            (folder / "protocol.yaml").write_text(f"benchmarks: {{{hashes}}}\ntemperature: 1.0\nseed: {seed}\n")
            content = read_json(folder / "scores.json")
            for part in content["benchmarks"].values():
                part |= {"right": {"official": [round(score / 10)] * 3}, "samples": 10, "problems": 3}
            write_json(folder / "scores.json", content | ({} if graders is None else {"graders": graders}))
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    table = replace(table, benchmarks=benchmarks, others=[])
    (found,) = conclude(table)
    several = next(sentence for sentence in sentences(found) if sentence.startswith("In brackets"))
    covered = f"order of training{' and sampling of answers' * sampled}"
    assert several.endswith(f"other seeds, which change the {covered}.")
    assert f"over several seeds it covers another {covered} on the same problems" in caption(table)


def test_seeds_that_change_nothing_are_said_to():
    rows = [
        Row(
            {"loss": "base"},
            {},
            MEASURE,
            [CellScores(Path(str(i)), {"loss": "base"}, i, {}, "p", {"a": Estimate(1.0)}) for i in range(2)],
        )
    ]
    assert ": of a base with equal scores in all seeds it covers other problems; never" in caption(
        Table(SweepConfig(name="x"), ["a"], [], rows, [])
    )


def test_rows_of_several_learning_rates_are_told_with_theirs_and_not_called_one_recipe(tmp_path):
    for loss, rates in (("sft", (1e-4, 4e-4)), ("dft", (1e-4,))):
        for lr in rates:
            for seed in range(2):
                scored(tmp_path, loss, seed, [1, 2, 1], lr=lr, seen_exact=0)
    (found,) = conclude(tables.build(SweepConfig(name="study"), str(tmp_path)))
    assert sentences(found)[-2:] == [
        "This is one model, tiny, and one prompt: another of these may order the rows otherwise.",
        "The rows have different learning rates, none of them tuned, which may order them too: "
        "0.0001: sft, dft; 0.0004: sft.",
    ]
    one = replace(found, rates={"sft": [1e-4], "dft": [1e-4]}, one_recipe=True)
    assert sentences(one)[-2:] == [
        "This is one model, tiny, one recipe and one prompt: another of these may order the rows otherwise.",
        "All objectives have the learning rate 0.0001; none has one that was chosen for it.",
    ]
