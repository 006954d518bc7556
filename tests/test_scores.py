from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losslab.evaluation import sample_page, scores

CORRECT = [[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]  # three problems, four samples


def record(index: int, answers: list[str], gold: str, **changes) -> dict:
    samples = [
        {
            "text": f"it is {answer}",
            "finish_reason": "stop",
            "tokens": 10,
            "seed": 1,
            "extracted": answer,
            "official": answer == gold,
            "corrected": answer == gold,
            "timed_out": False,
            **changes,
        }
        for answer in answers
    ]
    return {
        "index": index,
        "question": "q",
        "prompt": "p",
        "gold": gold,
        "gold_official": gold,
        "seen": None,
        "samples": samples,
    }


def test_the_official_average_rounds_each_column_first():
    correct = np.zeros((272, 2))
    correct[:100, 0] = 1  # 36.7647 -> 36.8
    correct[:7, 1] = 1  # 2.5735 -> 2.6
    assert scores.rounded(correct) == pytest.approx((36.8 + 2.6) / 2)
    assert 100 * correct.mean() == pytest.approx(19.6691, abs=1e-4)
    assert scores.rounded([[1, 0, 0], [0, 0, 0], [0, 0, 0]]) == pytest.approx(33.3 / 3)


def test_summary_of_a_benchmark_by_hand():
    records = [
        record(0, ["2", "3", "3", "4"], "2"),
        record(1, ["5", "5", "5", "5"], "5"),
        record(2, ["", "", "8", "8"], "9"),
    ]
    records[2]["samples"][0] |= {"finish_reason": "length", "tokens": 130}
    records[2]["samples"][2] |= {"corrected": True}
    records[0]["samples"][0] |= {"corrected": False, "timed_out": True}
    row = scores.summary(records, 4, "official")
    assert (row["problems"], row["samples"]) == (3, 4)
    assert row["score"] == row["official"] == pytest.approx(100 * (1 / 4 + 1 + 0) / 3)
    assert row["corrected"] == pytest.approx(100 * (0 + 1 + 1 / 4) / 3)
    assert row["first_sample"] == pytest.approx(100 * 2 / 3)
    assert row["rounded"] == pytest.approx((66.7 + 33.3 + 33.3 + 33.3) / 4)
    assert row["pass_at"] == pytest.approx({"1": 41.6666, "2": 100 * (0.5 + 1 + 0) / 3, "4": 100 * 2 / 3}, abs=1e-3)
    assert row["maj_at"] == pytest.approx({"1": 41.6666, "2": 100 * (1 / 2 + 1 + 0) / 3, "4": 100 * 1 / 3}, abs=1e-3)
    assert (row["only_official"], row["only_corrected"]) == (1, 1)
    assert row["without_answer"] == pytest.approx(100 * 2 / 12)
    assert row["cut_by_length"] == pytest.approx(100 / 12)
    assert row["mean_tokens"] == 20
    assert (row["timed_out"], row["too_long"]) == (1, 0)
    assert (row["seen_exact"], row["seen_words"], row["unseen"]) == (None, None, None)


def test_the_score_without_problems_of_the_training_data():
    records = [record(i, answers, "2") for i, answers in enumerate([["2", "2"], ["2", "3"], ["3", "3"], ["2", "2"]])]
    for one, kinds in zip(records, [["exact", "words"], [], [], ["words"]], strict=True):
        one["seen"] = kinds
    row = scores.summary(records, 2, "official")
    assert (row["score"], row["unseen"], row["seen_exact"], row["seen_words"]) == (62.5, 25.0, 1, 2)
    row = scores.summary(records[:1], 2, "official")
    assert (row["unseen"], row["seen_exact"], row["seen_words"]) == (None, 1, 1)


def test_only_the_first_samples_count():
    row = scores.summary([record(0, ["2", "3", "3", "3"], "2")], 1, "official")
    assert (row["score"], row["samples"], row["pass_at"]) == (100, 1, {"1": 100})


def test_intervals_by_hand():
    # Means of the problems 0.25, 1, 0: mean 5/12, standard deviation 0.520416.
    low, high = scores.over_problems(CORRECT)
    half = 100 * 1.959964 * 0.520416 / 3**0.5
    assert (low, high) == pytest.approx((100 * 5 / 12 - half, 100 * 5 / 12 + half), rel=1e-5)
    # Means of the columns 2/3, 1/3, 1/3, 1/3: standard deviation 1/6; t(3) = 3.1824.
    low, high = scores.over_seeds(CORRECT)
    assert (low, high) == pytest.approx((100 * (5 / 12 - 3.1824 / 12), 100 * (5 / 12 + 3.1824 / 12)))
    assert scores.over_seeds([[1], [0]]) is None


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (15, 2.1314), (30, 2.0423), (40, 2.0211), (120, 1.9799)]
)
def test_students_quantiles(degrees, quantile):
    assert scores.student(degrees) == pytest.approx(quantile, abs=5e-4)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_mean_over_all_choices(n, data):
    row = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    choices = list(combinations(row, k))
    assert scores.pass_at([row], k) == pytest.approx(100 * sum(map(any, choices)) / len(choices))


def test_majority_by_hand():
    answers = [["1", "2", "2", "1"]]
    correct = [[1, 0, 0, 1]]
    assert scores.majority_at(answers, correct, 4) == 100  # a tie goes to the answer that came first
    assert scores.majority_at(answers, correct, 3) == 0
    assert scores.majority_at(answers, correct, 1) == 50
    assert scores.majority_at([["", "", "7"]], [[0, 0, 1]], 3) == 100  # no answer, no vote
    assert scores.majority_at([["", ""]], [[0, 0]], 2) == 0


def test_average_over_benchmarks():
    rows = {
        "a": {"score": 10.0, "interval": [7.0, 13.0], "official": 10.0, "corrected": 12.0, "rounded": 10.1},
        "b": {"score": 30.0, "interval": [26.0, 34.0], "official": 30.0, "corrected": 30.0, "rounded": 29.9},
    }
    average = scores.average(rows)
    assert average["score"] == 20 and average["corrected"] == 21 and average["rounded"] == 20
    assert average["interval"] == pytest.approx([17.5, 22.5])  # half of the root of 9 + 16


def test_paired_difference():
    a = {"x": np.array([[0, 0], [1, 0], [0, 0], [1, 1]] * 10), "y": np.zeros((5, 1))}
    b = {"x": np.array([[1, 0], [1, 0], [0, 0], [1, 1]] * 10), "y": np.ones((5, 4))}
    found = scores.paired_difference(a, b)
    assert found == scores.paired_difference(a, b)
    assert found["x"]["difference"] == pytest.approx(12.5)
    assert found["y"] == {"difference": 100, "interval": [100, 100]}
    assert found["average"]["difference"] == pytest.approx(56.25)
    low, high = found["x"]["interval"]
    half = 100 * 1.96 * np.array([0.5, 0, 0, 0] * 10).std() / 40**0.5
    assert (low, high) == pytest.approx((12.5 - half, 12.5 + half), abs=1.3)
    assert scores.paired_difference(a, a)["average"] == {"difference": 0, "interval": [0, 0]}
    with pytest.raises(ValueError, match="only runs on the same benchmarks compare"):
        scores.paired_difference(a, {"x": b["x"]})
    with pytest.raises(ValueError, match="40 and 39 problems"):
        scores.paired_difference(a, {"x": b["x"][1:], "y": b["y"]})


def test_the_page_lists_where_the_verdicts_differ():
    records = [record(3, ["2", "\\frac{4}{2}", "\\frac{4}{2}", "5"], "2"), record(4, ["200"], "2")]
    for i in (1, 2):
        records[0]["samples"][i] |= {"corrected": True}
    records[1]["samples"][0] |= {"official": True}
    for one in records:
        for sample in one["samples"]:
            sample["text"] = f"It is \\boxed{{{sample['extracted']}}}."
    records[1]["samples"] *= 4
    row = scores.summary(records, 4, "official")
    assert (row["only_official"], row["only_corrected"]) == (4, 2)
    html = sample_page.page("m", {"verdict": "official", "benchmarks": {"x": row}, "warnings": []}, {"x": records})
    assert "x: right by the official verdict alone 4, by the corrected verdict alone 2 of 8 samples" in html
    cells = [f"<tr><td>{a}</td><td><code>2</code></td><td><code>{b}</code></td><td>{c}</td><td>{d}</td></tr>"
             for a, b, c, d in [(3, "\\frac{4}{2}", "corrected", 2), (4, "200", "official", 4)]]  # fmt: skip
    assert "".join(cells) in html
    assert html.count("data-disagree='1'") == 2


def test_the_page_shows_a_hostile_sample_as_text():
    hostile = record(0, ["</pre><script>alert(1)</script>"], "1<2")
    result = {
        "verdict": "official",
        "benchmarks": {"x": scores.summary([hostile], 1, "official")},
        "warnings": ["a & b"],
    }
    html = sample_page.page("<model>", result, {"x": [hostile]})
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)" in html
    assert "&lt;model&gt;" in html and "1&lt;2" in html and "a &amp; b" in html
    assert html.count("<article") == 1
    assert "5 more problems of x" in sample_page.page("m", result, {"x": [hostile] * 7}, room=1000)
