"""A sample of the harness of bad inputs; `make hostile` runs all of it."""

import pytest
from hostile import cases, runner
from hostile.case import CODE, Case, Ending, contents, judge

CASES = 100


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    runner.preload()


def test_a_sample_of_bad_inputs_ends_in_one_sentence_or_the_right_result(tmp_path):
    chosen = cases.sample(CASES, tmp_path)
    assert len(chosen) >= 95
    bad = [
        f"{verdict.outcome}: {case.kind}: {case.title}: {verdict.reason}"
        for case, verdict in runner.run_all(chosen, tmp_path / "cases")
        if not verdict.good
    ]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (0, "fine", "right"),
        (2, "error: the key is wrong", "sentence"),
        (2, "error: something is wrong", "unnamed"),
        (2, "the key", "unnamed"),
        (1, "Traceback (most recent call last)\n", "traceback"),
        (-11, "", "traceback"),
        (None, "", "hang"),
        (2, "error: the key \x1b[2J", "escaped"),
    ],
)
def test_the_rule(tmp_path, status, output, outcome):
    work = tmp_path / "work"
    work.mkdir()
    case = Case("kind", "title", lambda: None, ("the key",))
    assert judge(case, Ending(status, output), work, contents(work)).outcome == outcome


def test_the_rule_about_files(tmp_path):
    work = tmp_path / "work"
    (work / "results").mkdir(parents=True)
    (work / "input").write_text("before")
    case, before = Case("kind", "title", lambda: None, ("the key",)), contents(work)
    done = Ending(0, "")
    assert judge(case, done, work, before).outcome == "right"
    (work / "results/more").write_text("")
    assert judge(case, done, work, before).outcome == "right"
    (work / "input").write_text("after")
    assert judge(case, done, work, before).outcome == "lost"
    (work / "stranger").write_text("")
    assert judge(case, done, work, before).outcome == "escaped"
    (work / "stranger").unlink()
    (tmp_path / "escape").write_text("")
    assert judge(case, done, work, before).outcome == "escaped"
    (tmp_path / "escape").rename(work / "results" / CODE)
    assert judge(case, done, work, before).reason == "code of the input was run"


def test_a_case_that_should_be_refused_and_is_not(tmp_path):
    case = Case("kind", "title", lambda: print("fine"), (), refuse=True)
    assert runner.run(case, tmp_path / "case").outcome == "swallowed"


def test_a_case_that_does_not_end_is_ended(tmp_path):
    case = Case("kind", "title", lambda: __import__("time").sleep(60), (), seconds=0.2)
    assert runner.run(case, tmp_path / "case").outcome == "hang"
    assert not (tmp_path / "case").exists()
