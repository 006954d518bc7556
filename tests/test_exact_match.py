"""Exact match with several golds by hand, and section 4.5 of the paper on a handful of facts."""

import json

import pytest
from hydra import compose, initialize_config_dir

from losslab.cells.run import run
from losslab.composition.compose import read
from losslab.config.paths import CONF
from losslab.files.json_files import read_json, read_lines
from losslab.grading.exact_match import equal, extract, normalise
from losslab.grading.graders import Grader, Verdict
from losslab.records.record import Cell


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Beatles.", "beatles"),
        ("  a   Tale of\tTwo  Cities ", "tale of two cities"),
        ("U.S.A.", "usa"),
        ("rock-and-roll", "rockandroll"),  # as SQuAD's script: punctuation leaves no space
        ("Another theme", "another theme"),  # whole words are articles
        ("Café “Zürich”", "café “zürich”"),  # punctuation of ASCII alone
        ("A", "a"),  # the script would leave nothing to compare
        ("The", "the"),
        ("%", "%"),
        (" ", ""),
    ],
)
def test_normalisation(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("response", "golds", "right"),
    [
        ("beatles", ["The Beatles."], True),
        ("the Beatles", ["The Rolling Stones", "Beatles"], True),
        ("14 December 1972", ["December 14, 1972", "14 December 1972 UTC", "14 december, 1972"], True),
        ("\n\n Paris \nQuestion: and of Spain?\nAnswer:\nMadrid", ["Paris"], True),  # cut, below the answer
        ("Paris<|im_end|> and so on", ["Paris"], True),
        ("<think>\nRome? No.\n</think>\n\nParis", ["Paris"], True),
        ("A", ["a"], True),
        ("Paris, Fra", ["Paris", "Paris, France"], False),  # cut in the answer
        ("It is Paris.", ["Paris"], False),
        ("\\boxed{Paris}", ["Paris"], False),  # the first line is the answer, as it stands
        ("Madrid\nParis", ["Paris"], False),
        ("Paris London", ["Paris", "London"], False),
        ("1972", ["1973"], False),
        ("", ["Paris"], False),
        (" \n ", ["."], False),
        ("The", ["a"], False),
    ],
)
def test_right_answers(response, golds, right):
    assert equal(extract(response), golds) is right


def test_the_grader_decides_at_once():
    with Grader(workers=1) as grader:
        for response, right in (("The Beatles!", True), ("12", False)):
            verdict = grader.submit("exact_match", response, "1 2\nbeatles")
            assert verdict.done()  # no process was asked
            assert verdict.result() == Verdict(normalise(response), right, right, timed_out=False)
        assert grader.submit("general", "\\boxed{12}", "12").result().official  # others are mathematics as before


def test_section_4_5_on_a_handful_of_facts(checkpoint, tmp_path):
    """Whatever it is asked, a model that has seen one answer alone gives it: right where that is among the golds."""
    rows = [{"question": f"{i}+{i}", "answer": ["7", "8"]} for i in range(8)]
    asked = [["7"], ["8", "7."], ["8"], ["77", "-7"]]
    facts = [{"question": f"{i}-{i}", "answer": golds} for i, golds in enumerate(asked)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked/natural_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in facts))
    arguments = [
        "experiment=knowledge", "loss=sft", f"model.path={checkpoint}", "dataset.template='{problem}='",
        "benchmark.natural_questions.prompt='{problem}='",
        f"dataset.path={tmp_path}/rows.jsonl", f"eval.data={tmp_path}/asked", "benchmark.natural_questions.rows=4",
        "train.epochs=20", "train.batch_size=8", "train.precision=fp32", "optimizer.lr=1e-2",
        "machine.device=cpu", "machine.threads=1", "machine.engine=transformers",
        f"machine.results={tmp_path}/results", "tracker=none",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", arguments, return_hydra_config=True)
        config = read(composed, composed.hydra.runtime.choices)
    run(config)
    cell = Cell.of(config)
    assert cell.state()["state"] == "done", cell.state()
    records = read_lines(cell.scores(config) / "natural_questions.jsonl")
    assert [record["gold"] for record in records] == ["7", "8\n7.", "8", "77\n-7"]
    assert [record["samples"][0]["extracted"] for record in records] == ["7"] * 4
    found = read_json(cell.scores(config) / "scores.json")["benchmarks"]["natural_questions"]
    assert found["score"] == found["official"] == found["corrected"] == 75.0  # -7 is 7 without punctuation
    assert found["seen_exact"] == 0
