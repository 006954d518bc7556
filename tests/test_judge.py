"""A model as judge of the answers on which the verdicts differ: an endpoint of our own, and the real client."""

import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from endpoint import Endpoint

from losslab.commands.cli import main
from losslab.evaluation.judge import verdict
from losslab.evaluation.scores import summarise
from losslab.files.json_files import read_json, read_lines, write_json, write_lines

ASKED: list[dict] = []


class Judge(Endpoint):
    """Says RIGHT where the response holds the reference, WRONG where it does not, and nothing of a hedge."""

    model = "judge"

    def answer(self, body: dict) -> str:
        ASKED.append(body)
        text = body["messages"][0]["content"]
        gold = text.split("Reference answer:\n")[1].split("\n")[0]
        response = text.split("response:\n")[1].split("\n\nIs the")[0]
        if "perhaps" in response:
            return "Hm."
        return f"It is not WRONG at first.\n{'RIGHT' if gold in response else 'WRONG'}"


@pytest.fixture
def url() -> Iterator[str]:
    ASKED.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def sample(text: str, official: bool, corrected: bool) -> dict:
    return {"text": text, "official": official, "corrected": corrected}


@pytest.fixture
def scores(tmp_path) -> Path:
    disputed = [sample("so 9", True, False), sample("so 900", True, False), sample("so 900", True, False)]
    rows = [
        {"index": 0, "question": "{gold}?", "gold": "900", "samples": [*disputed, sample("900", False, True)]},
        {
            "index": 1,
            "question": "b",
            "gold": "2",
            "samples": [sample("2", True, True), sample("perhaps", False, True)],
        },
    ]
    write_lines(tmp_path / "one.jsonl", rows)
    part = {"samples": 3, "only_official": 3, "only_corrected": 1}
    write_json(tmp_path / "scores.json", {"benchmarks": {"one": part}})
    return tmp_path


def test_only_what_is_disputed_is_asked_and_once(scores, url, capsys):
    words = ["judge", str(scores), f"url={url}", "model=judge", "prices=1,2"]
    main(words)
    assert capsys.readouterr().out.splitlines() == [
        "one: 4 disputed, 2 agrees official, 1 agrees corrected, 1 undecided",
        "3 different responses, 300 + 30 tokens, 0.0004 dollars",
    ]
    assert len(ASKED) == 3 and {body["temperature"] for body in ASKED} == {0.0}
    asked = sorted(body["messages"][0]["content"] for body in ASKED)
    assert sum("Question:\n{gold}?\n\nReference answer:\n900\n" in text for text in asked) == 2
    result = read_json(scores / "judge.json")
    assert result["benchmarks"] == {"one": {"disputed": 4, "agrees_official": 2, "agrees_corrected": 1, "undecided": 1}}
    assert result["dollars"] == pytest.approx(300e-6 + 2 * 30e-6) and result["judge"] == "judge"
    lines = list(read_lines(scores / "judge.jsonl"))
    (scores / "judge.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]) + "{torn")
    main(words)
    assert len(ASKED) == 4 and read_json(scores / "judge.json") == result


def test_a_benchmark_whose_published_evaluation_asks_a_model_is_judged_whole(tmp_path, url, capsys):
    groups = [{"problem_version": version} for version in ("Text Lite", "Text Lite", "Vision Only")]
    answers = [[sample("so 2", True, True), sample("2 cm", False, True)], [sample("so 5", True, True)] * 2,
               [sample("perhaps", False, False), sample("so 2", False, False)]]  # fmt: skip
    rows = [
        {"index": i, "question": "q", "gold": "2\n3 cm", "samples": samples, "groups": groups[i], "judged": True}
        for i, samples in enumerate(answers)
    ]
    write_lines(tmp_path / "mathverse.jsonl", rows)
    part = {"samples": 2, "only_official": 0, "only_corrected": 1, "judged": True}
    write_json(tmp_path / "scores.json", {"benchmarks": {"mathverse": part}})
    main(["judge", str(tmp_path), f"url={url}", "model=judge"])
    assert capsys.readouterr().out.splitlines() == [
        "mathverse: 1 disputed, 0 agrees official, 1 agrees corrected, 0 undecided",
        "mathverse: 50.00% of 6 samples right by the judge, 1 left undecided",
        "4 different responses, 400 + 40 tokens",
    ]
    assert read_json(tmp_path / "judge.json")["scores"]["mathverse"] == {
        "samples": 6, "undecided": 1, "score": 50,
        "breakdown": {"problem_version": {"Text Lite": 50, "Vision Only": 50}},
    }  # fmt: skip
    more = {"extracted": "2", "finish_reason": "stop", "tokens": 1, "timed_out": False}
    assert summarise([{"judged": True, "samples": [sample("2", True, True) | more]}], 1, "official")["judged"] is True


def test_one_answer_in_other_words_is_asked_about_again_and_the_same_end_once(tmp_path, url, capsys):
    """How an answer is given counts: it has to be the only one."""
    texts = ["so 900", "it is 900", "a" * 2000 + "so 900" + " " * 1994, "b" * 2000 + "so 900" + " " * 1994]
    samples = [sample(text, True, False) | {"extracted": "900"} for text in texts]
    write_lines(tmp_path / "one.jsonl", [{"index": 0, "question": "a", "gold": "900", "samples": samples}])
    part = {"samples": 4, "only_official": 4, "only_corrected": 0}
    write_json(tmp_path / "scores.json", {"benchmarks": {"one": part}})
    main(["judge", str(tmp_path), f"url={url}", "model=judge"])
    assert capsys.readouterr().out.splitlines()[-1] == "3 different responses, 300 + 30 tokens"
    assert len(ASKED) == 3


def test_the_last_word_decides():
    assert [verdict(text) for text in ("RIGHT ... WRONG", "WRONG. No: RIGHT", "right", "WRONGLY")] == [
        False,
        True,
        None,
        None,
    ]
    assert verdict("<think>end with RIGHT or WRONG</think>\nRIGHT") is True and verdict("<think>RIGHT</think>") is None


def test_a_reply_that_was_cut_is_no_verdict(scores, url, capsys, monkeypatch):
    """Its thoughts may quote the two words of the question."""
    monkeypatch.setattr(Judge, "finish_reason", "length")
    main(["judge", str(scores), f"url={url}", "model=judge"])
    assert capsys.readouterr().out.splitlines()[0] == (
        "one: 4 disputed, 0 agrees official, 0 agrees corrected, 4 undecided"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "localhost"}, "url must begin with http:// or https://"),
        ({"model": ""}, "model has no value: losslab judge SCORES url="),
        ({"prices": "1"}, "prices=1 are not two prices: write prices=0.25,2.0"),
        ({"retries": "no"}, "retries=no is not a number from 1 to 9999"),
        ({"model": "other"}, "has no model other"),
        ({"folder": "nowhere"}, "nowhere holds no scores.json: name a folder of results/cells/CELL/scores"),
    ],
)
def test_mistakes_are_one_line(scores, url, capsys, change, message):
    options = {"folder": str(scores), "url": url, "model": "judge"} | change
    with pytest.raises(SystemExit) as ended:
        main(["judge", options.pop("folder"), *(f"{key}={value}" for key, value in options.items())])
    assert ended.value.code and message in capsys.readouterr().err.splitlines()[-1]
