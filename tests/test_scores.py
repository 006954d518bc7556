import json
import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losslab.evaluation import scores
from losslab.evaluation.sample_page import sample_page
from losslab.statistics.pass_at_k import majority_at, pass_at, rounded
from losslab.tracking import content


def payload(html: str) -> dict:
    (text,) = re.findall(r'id="payload">(.*?)</script>', html)
    return json.loads(text)


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
    assert rounded(correct) == pytest.approx((36.8 + 2.6) / 2)
    assert 100 * correct.mean() == pytest.approx(19.6691, abs=1e-4)
    assert rounded([[1, 0, 0], [0, 0, 0], [0, 0, 0]]) == pytest.approx(33.3 / 3)


def test_summary_of_a_benchmark_by_hand():
    records = [
        record(0, ["2", "3", "3", "4"], "2"),
        record(1, ["5", "5", "5", "5"], "5"),
        record(2, ["", "", "8", "8"], "9"),
    ]
    records[2]["samples"][0] |= {"finish_reason": "length", "tokens": 130}
    records[2]["samples"][2] |= {"corrected": True}
    records[0]["samples"][0] |= {"corrected": False, "timed_out": True}
    row = scores.summarise(records, 4, "official")
    assert (row["problems"], row["samples"]) == (3, 4)
    assert row["score"] == row["official"] == pytest.approx(100 * (1 / 4 + 1 + 0) / 3)
    assert row["corrected"] == pytest.approx(100 * (0 + 1 + 1 / 4) / 3)
    assert row["first_sample"] == pytest.approx(100 * 2 / 3)
    assert row["rounded"] == pytest.approx((66.7 + 33.3 + 33.3 + 33.3) / 4)
    assert row["pass_at"] == pytest.approx({"1": 41.6666, "2": 100 * (0.5 + 1 + 0) / 3, "4": 100 * 2 / 3}, abs=1e-3)
    assert row["maj_at"] == pytest.approx({"1": 41.6666, "2": 100 * (1 / 2 + 1 + 0) / 3, "4": 100 * 1 / 3}, abs=1e-3)
    assert (row["only_official"], row["only_corrected"]) == (1, 1)
    assert row["without_answer"] == pytest.approx(100 * 2 / 12)
    assert (row["cut_by_length"], row["cut_and_right"]) == (pytest.approx(100 / 12), 0)
    assert row["mean_tokens"] == 20
    assert (row["timed_out"], row["too_long"]) == (1, 0)
    assert (row["seen_exact"], row["seen_words"], row["unseen"]) == (None, None, None)


def test_an_answer_that_is_cut_may_be_right():
    """Behind its box: the finish reason decides no verdict."""
    records = [record(0, ["2", "2", "3", "2"], "2"), record(1, ["2", "3", "2", "2"], "2")]
    for sample in (*records[0]["samples"][:3], records[1]["samples"][1]):
        sample["finish_reason"] = "length"
    records[0]["samples"][2]["corrected"] = True
    for verdict, right in (("official", 25.0), ("corrected", 37.5)):
        row = scores.summarise(records, 4, verdict)
        assert (row["cut_by_length"], row["cut_and_right"]) == (50.0, right)


def test_where_no_finish_reason_is_known_no_share_is_told():
    row = scores.summarise([record(0, ["2", "3"], "2", finish_reason="unknown")], 2, "official")
    assert (row["cut_by_length"], row["cut_and_right"], row["without_answer"]) == (None, None, 0.0)
    result = {
        "verdict": "official",
        "benchmarks": {"x": row},
        "average": scores.average({"x": row}, "official"),
        "warnings": [],
    }
    assert scores.markdown(result).splitlines()[2].endswith("| 0% | – | 10 |")
    page = sample_page("tiny", result, {"x": [record(0, ["2", "3"], "2")]})
    assert '<td class="number">0%</td><td class="number">–</td><td class="number">10</td>' in page


def test_the_score_without_problems_of_the_training_data():
    records = [record(i, answers, "2") for i, answers in enumerate([["2", "2"], ["2", "3"], ["3", "3"], ["2", "2"]])]
    for one, kinds in zip(records, [["exact", "words"], [], [], ["words"]], strict=True):
        one["seen"] = kinds
    row = scores.summarise(records, 2, "official")
    assert (row["score"], row["unseen"], row["seen_exact"], row["seen_words"]) == (62.5, 25.0, 1, 2)
    row = scores.summarise(records[:1], 2, "official")
    assert (row["unseen"], row["seen_exact"], row["seen_words"]) == (None, 1, 1)


def test_scores_by_subject_and_level_by_hand():
    records = [record(i, [answer, "2"], "2") for i, answer in enumerate(["2", "3", "3", "2"])]
    for one, groups in zip(records, [("b", "10"), ("a", "9"), ("b", "9"), None], strict=True):
        one |= {"groups": dict(zip(("subject", "level"), groups, strict=True))} if groups else {}
    records[1]["samples"][0] |= {"corrected": True}
    row = scores.summarise(records, 2, "official")
    half = 12.7062 * 35.35534 / 2**0.5  # t(1), and the deviation of 50 and 100
    assert row["breakdown"]["subject"]["b"] == {
        "problems": 2, "score": 75.0, "official": 75.0, "corrected": 75.0,
        "interval": pytest.approx([75 - half, 75 + half], rel=1e-5),
    }  # fmt: skip
    assert row["breakdown"]["subject"]["a"] == {
        "problems": 1, "score": 50.0, "official": 50.0, "corrected": 100.0, "interval": None
    }  # fmt: skip
    assert list(row["breakdown"]["level"]) == ["9", "10"] and list(row["breakdown"]["subject"]) == ["a", "b"]
    assert row["breakdown"]["level"]["9"]["score"] == 50
    result = {
        "verdict": "official",
        "benchmarks": {"x": row},
        "average": scores.average({"x": row}, "official"),
        "warnings": [],
    }
    assert scores.markdown(result).splitlines()[-5:] == [
        "",
        "| x by level | problems | score | 95% interval | official | corrected |",
        "|---|---:|---:|---:|---:|---:|",
        "| 9 | 2 | 50.00 | – | 50.0 | 75.0 |",
        "| 10 | 1 | 100.00 | – | 100.0 | 100.0 |",
    ]
    assert '<td>10</td><td class="number">1</td>' in sample_page("m", result, {"x": records})
    values = content.values(result)
    assert values["breakdown/x/subject/b"] == 75 and values["scores/x"] == row["score"]


def test_only_the_first_samples_count():
    row = scores.summarise([record(0, ["2", "3", "3", "3"], "2")], 1, "official")
    assert (row["score"], row["samples"], row["pass_at"]) == (100, 1, {"1": 100})


def test_intervals_of_a_benchmark_by_hand():
    records = [record(0, ["1", "", "", ""], "1"), record(1, ["1"] * 4, "1"), record(2, [""] * 4, "1")]
    row = scores.summarise(records, 4, "official")
    # Means of the problems 0.25, 1, 0: mean 5/12, standard deviation 0.520416; t(2) = 4.30265.
    half = 100 * 4.30265 * 0.520416 / 3**0.5
    assert row["interval"] == pytest.approx([100 * 5 / 12 - half, 100 * 5 / 12 + half], rel=1e-5)
    # Means of the columns 2/3, 1/3, 1/3, 1/3: standard deviation 1/6; t(3) = 3.18245.
    low, high = 100 * (5 / 12 - 3.18245 / 12), 100 * (5 / 12 + 3.18245 / 12)
    assert row["interval_over_seeds"] == pytest.approx([low, high], rel=1e-5)
    row = scores.summarise(records[:1], 1, "official")
    assert (row["interval"], row["interval_over_seeds"]) == (None, None)
    average = scores.average({"x": row}, "official")
    assert (average["score"], average["interval"]) == (100, None)
    assert "| x avg@1 | 100.00 | 100.0 | – |" in scores.markdown(
        {"verdict": "official", "benchmarks": {"x": row}, "average": average}
    )


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_mean_over_all_choices(n, data):
    row = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    choices = list(combinations(row, k))
    assert pass_at([row], k) == pytest.approx(100 * sum(map(any, choices)) / len(choices))


def test_majority_by_hand():
    answers = [["1", "2", "2", "1"]]
    correct = [[1, 0, 0, 1]]
    assert majority_at(answers, correct, 4) == 100  # a tie goes to the answer that came first
    assert majority_at(answers, correct, 3) == 0
    assert majority_at(answers, correct, 1) == 50
    assert majority_at([["", "", "7"]], [[0, 0, 1]], 3) == 100  # no answer, no vote
    assert majority_at([["", ""]], [[0, 0]], 2) == 0


def test_average_over_benchmarks():
    rows = {
        "a": {"score": 10.0, "interval": [7.0, 13.0], "official": 10.0, "corrected": 12.0, "rounded": 10.1},
        "b": {"score": 30.0, "interval": [26.0, 34.0], "official": 30.0, "corrected": 30.0, "rounded": 29.9},
    }
    average = scores.average(rows, "official")
    assert average["score"] == 20 and average["corrected"] == 21 and average["rounded"] == 20
    assert average["interval"] == pytest.approx([17.5, 22.5])  # half of the root of 9 + 16


def test_the_page_lists_where_the_verdicts_differ():
    records = [record(3, ["2", "\\frac{4}{2}", "\\frac{4}{2}", "5"], "2"), record(4, ["200"], "2")]
    for i in (1, 2):
        records[0]["samples"][i] |= {"corrected": True}
    records[1]["samples"][0] |= {"official": True}
    for one in records:
        for sample in one["samples"]:
            sample["text"] = f"It is \\boxed{{{sample['extracted']}}}."
    records[1]["samples"] *= 4
    row = scores.summarise(records, 4, "official")
    assert (row["only_official"], row["only_corrected"]) == (4, 2)
    html = sample_page("m", {"verdict": "official", "benchmarks": {"x": row}, "warnings": []}, {"x": records})
    assert "x: right by the official verdict alone 4, by the corrected verdict alone 2 of 8 samples" in html
    part = html[html.index("Where the verdicts differ") :]
    cells = re.findall(r"<tr><td>(.*?)</td>" + 4 * r'<td class="number">(.*?)</td>' + "</tr>", part)
    assert cells == [("3", "2", "\\frac{4}{2}", "corrected", "2"), ("4", "2", "200", "official", "4")]
    first, second = payload(html)["benchmarks"]["x"]["cells"][0]
    assert (first["official"], first["corrected"], first["right"]) == ("1000", "1110", "1000")
    assert (second["official"], second["corrected"]) == ("1111", "0000")


def test_the_page_shows_a_hostile_sample_as_text():
    hostile = record(0, ["</pre><script>alert(1)</script>"], "1<2")
    result = {
        "verdict": "official",
        "benchmarks": {"x": scores.summarise([hostile], 1, "official")},
        "warnings": ["a & b"],
    }
    html = sample_page("<model>", result, {"x": [hostile]})
    assert "<script>alert" not in html and html.count("</script>") == 2
    assert "&lt;model&gt;" in html and "a &amp; b" in html
    shown = payload(html)["benchmarks"]["x"]
    assert shown["problems"] == [{"index": 0, "question": "q", "gold": "1<2", "prompt": "p"}]
    assert shown["cells"][0][0]["texts"][0]["text"] == "it is </pre><script>alert(1)</script>"
    assert "5 more problems of x" in sample_page("m", result, {"x": [hostile] * 7}, room=600)


def test_the_page_shows_thumbnails_and_nothing_else_as_an_image():
    thumbnail = "data:image/jpeg;base64,/9j/4AAQ+w=="
    other = [
        "https://x.org/a.jpg",
        "data:image/svg+xml;base64,AAAA",
        'data:image/jpeg;base64,A" onload="alert(1)',
        None,
    ]
    shown = record(0, ["2"], "2") | {"thumbnails": [thumbnail, *other]}
    result = {"verdict": "official", "benchmarks": {"x": scores.summarise([shown], 1, "official")}, "warnings": []}
    html = sample_page("m", result, {"x": [shown, record(1, ["2"], "2") | {"thumbnails": other}]})
    first, second = payload(html)["benchmarks"]["x"]["problems"]
    assert first["images"] == [thumbnail] and "images" not in second and "onload" not in html
    assert "img-src data:" in html and 'element("img", { src, alt:' in html
    heavy = [record(i, ["2"], "2") | {"thumbnails": [f"data:image/jpeg;base64,{'A' * 5000}"]} for i in range(5)]
    page = sample_page("m", result, {"x": heavy}, room=12_000)  # thumbnails count in what fits
    assert len(payload(page)["benchmarks"]["x"]["problems"]) == 2 and "3 more problems of x" in page
