"""A model's own answers as data sets: built by hand, and by `losslab sample` with a real engine, killed and not."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import warm
import yaml
from hydra import compose, initialize_config_dir
from place import LOSSLAB
from tiny_models import random_toy_model

from losslab.cells.sampling import as_trained, build, questions, sample
from losslab.composition.compose import read
from losslab.composition.words import last_of_each
from losslab.config.paths import CONF
from losslab.config.schema import Config, DatasetConfig, ModelConfig
from losslab.data import toy_task
from losslab.data.examples import prepare
from losslab.data.tokenise import Tokeniser
from losslab.files.json_files import read_json, read_lines

ENGINE = "vllm" if find_spec("vllm") else "transformers"
FILES = ("correct.jsonl", "pairs.jsonl", "graded.jsonl", "questions.jsonl", "report.json", "protocol.yaml")


def answers(index: int, *samples: tuple[str, bool, str]) -> dict:
    return {
        "index": index,
        "question": f"q{index}",
        "samples": [
            {"text": text, "corrected": right, "finish_reason": reason, "timed_out": False}
            for text, right, reason in samples
        ],
    }


RECORDS = [
    answers(0, ("a", True, "stop"), ("a", True, "stop"), ("b", True, "stop"), ("x", False, "stop")),
    answers(1, ("a", True, "stop"), ("c", True, "stop"), ("a", True, "stop"), ("a", True, "stop")),
    answers(2, ("x", False, "stop"), ("", False, "stop"), ("right, but cut", True, "length"), ("y", False, "stop")),
    answers(3, ("x", False, "stop"), ("y", False, "stop"), ("x", False, "stop"), ("z", True, "stop")),
]


def test_data_sets_by_hand():
    sets, tally = build(RECORDS, 4, seed=0)
    assert [(row["problem"], row["solution"]) for row in sets["correct"]] == [
        ("q0", "a"), ("q0", "b"), ("q1", "a"), ("q1", "c"), ("q3", "z"),
    ]  # fmt: skip
    assert [tuple(row.values()) for row in sets["graded"]] == [
        ("q0", "a", 1, 0.75), ("q0", "a", 1, 0.75), ("q0", "b", 1, 0.75), ("q0", "x", 0, 0.75),
        ("q1", "a", 1, 1.0), ("q1", "c", 1, 1.0), ("q1", "a", 1, 1.0), ("q1", "a", 1, 1.0),
        ("q2", "x", 0, 0.0), ("q2", "right, but cut", 0, 0.0), ("q2", "y", 0, 0.0),
        ("q3", "x", 0, 0.25), ("q3", "y", 0, 0.25), ("q3", "x", 0, 0.25), ("q3", "z", 1, 0.25),
    ]  # fmt: skip
    assert tally == {
        "answers": 16, "right": 8, "unfinished": 1, "empty": 1, "timed_out": 0, "duplicates_removed": 3,
        "questions_only_right": 1, "questions_only_wrong": 1, "acceptance_rate": 0.5,
        "rows_correct": 5, "rows_pairs": 2, "rows_graded": 15,
    }  # fmt: skip
    assert build(RECORDS, 1, seed=0)[1]["answers"] == 4  # the first answer of each
    late = answers(4, ("a", True, "stop"), ("x", False, "stop"), ("slow", False, "stop"))
    late["samples"][2]["timed_out"] = True
    late["samples"][0]["timed_out"] = True  # of the official verdict alone
    sets, tally = build([late], 3, seed=0)
    assert [tuple(row.values()) for row in sets["graded"]] == [("q4", "a", 1, 0.5), ("q4", "x", 0, 0.5)]
    assert tally["timed_out"] == 2 and sets["pairs"] == [{"problem": "q4", "chosen": "a", "rejected": "x"}]
    assert len(build([late], 3, seed=0, code=True)[0]["graded"]) == 3  # a program that does not end is wrong
    cut = answers(4, ("a", True, "stop"), ("half a", False, "length"))
    assert build([cut], 2, seed=0)[0]["pairs"] == []  # it would be trained to avoid ending where it was cut


def test_pairs_are_a_right_and_a_wrong_answer_by_chance_from_the_seed():
    drawn = [build(RECORDS, 4, seed)[0]["pairs"] for seed in range(20)]
    assert all([row["problem"] for row in rows] == ["q0", "q3"] for rows in drawn)
    assert {(row["chosen"], row["rejected"]) for rows in drawn for row in rows[:1]} == {("a", "x"), ("b", "x")}
    assert {(row["chosen"], row["rejected"]) for rows in drawn for row in rows[1:]} == {("z", "x"), ("z", "y")}
    assert build(RECORDS, 4, 0)[0]["pairs"] == drawn[0]
    assert build(RECORDS[3:], 4, 0)[0]["pairs"] == drawn[0][1:]  # whatever the other questions are


def test_questions_are_the_different_ones_with_a_gold(tmp_path):
    rows = [
        {"problem": "1+1=?", "solution": "It is \\boxed{3}, no: \\boxed{2}", "answer": 2},
        {"problem": " 1+1=? ", "solution": "\\boxed{2}", "answer": 2},
        {"problem": "half of 1?", "solution": "\\boxed{\\frac{1}{2}}", "answer": "1/2"},
        {"problem": "a proof", "solution": "As 2 is even.", "answer": ""},
        {"problem": "a set", "solution": "\\boxed{ }", "answer": "{1"},
        {"problem": None, "solution": "\\boxed{1}", "answer": "1"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row | {"answer": str(row["answer"])}) + "\n" for row in rows))
    asked, counts = questions(DatasetConfig(path=str(file)))
    assert [(p.index, p.question, p.gold) for p in asked.problems] == [
        (0, "1+1=?", "2"), (1, "half of 1?", "\\frac{1}{2}"),
    ]  # fmt: skip
    assert counts == {"rows": 6, "without_gold": 3, "repeated_questions": 1, "questions": 2}
    by_column, _ = questions(DatasetConfig(path=str(file), gold_column="answer"))
    assert [p.gold for p in by_column.problems] == ["2", "1/2"]
    with pytest.raises(ValueError, match=r"has no column 'gold' but .*: set dataset.gold_column"):
        questions(DatasetConfig(path=str(file), gold_column="gold"))
    with pytest.raises(ValueError, match=r"no row of .* has a gold answer in a box of answer: set dataset.gold_col"):
        questions(DatasetConfig(path=str(file), answer_column="answer"))


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        (
            "48/2=<<48/2=24>>24\n#### 72",
            "the column 'answer' holds solutions, with ####: put what follows #### into a column of its own",
        ),
        (
            "so \\boxed{72}",
            r"the column 'answer' holds solutions, with \\boxed{}: leave dataset.gold_column out and set "
            "dataset.answer_column=answer, whose last box is read",
        ),
    ],
)
def test_a_gold_column_that_holds_solutions_is_refused(tmp_path, gold, message):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "48 and half of it?", "answer": gold}) + "\n")
    with pytest.raises(ValueError, match=message):
        questions(DatasetConfig(path=str(file), gold_column="answer"))


def test_of_several_true_answers_the_first_is_the_gold_and_they_are_counted(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [
        {"problem": f"{i}?", "gold": gold, "solution": ["\\boxed{2}", "b"]} for i, gold in enumerate(([4, 5], [4], 4))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked, counts = questions(DatasetConfig(path=str(file), gold_column="gold"))
    assert [p.gold for p in asked.problems] == ["4", "4", "4"] and counts["first_of_several_golds"] == 1
    asked, counts = questions(DatasetConfig(path=str(file)))
    assert [p.gold for p in asked.problems] == ["2", "2", "2"] and counts["first_of_several_golds"] == 3


def test_rows_of_which_none_can_be_asked_by_itself_are_refused_with_the_reason(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"problem": "1+1=?", "solution": "\\boxed{2}", "system": "Be brief."}) + "\n")
    with pytest.raises(ValueError, match="no row of .* asks a single question, and 1 with a gold answer ask it after"):
        questions(DatasetConfig(path=str(file)))


def test_golds_of_the_embedded_world_are_true_where_its_demonstrations_are_not():
    rows = toy_task.demonstrations(200, 0)
    asked, _ = questions(DatasetConfig(path="embedded", split="demonstrations", rows=200, gold_column="answer"))
    golds = {p.question: p.gold for p in asked.problems}
    assert all(golds[row["problem"]] == row["answer"] for row in rows)
    wrong = sum(f"\\boxed{{{row['answer']}}}" not in row["solution"] for row in rows)
    assert 0.1 < wrong / len(rows) < 0.4
    by_box, _ = questions(DatasetConfig(path="embedded", split="demonstrations", rows=200))
    assert sum(golds[p.question] != p.gold for p in by_box.problems) == wrong


def test_real_solutions_have_golds(shared):
    asked, counts = questions(DatasetConfig(path=str(shared / "data/train/math_4500.jsonl")))
    assert counts["rows"] == sum(counts[key] for key in ("without_gold", "repeated_questions", "questions"))
    assert counts["without_gold"] < 0.01 * counts["rows"] and all(p.gold for p in asked.problems)


def test_a_model_that_a_cell_made_is_asked_as_in_its_record(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "cell.json").write_text("{}")
    recorded = {"path": "user/model", "train_prompt": "T: {problem}", "eval_prompt": "Q: {problem}", "stop": ["Q:"]}
    rest = {"loss": {"_target_": "losslab.objectives.sft.SFT"}, "seed": 0}
    rest |= dict.fromkeys(("names", "machine", "sweep", "dataset", "benchmark", "eval"), {})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": recorded} | rest))
    (tmp_path / "cell.json").write_text('{"identity": "0"}')
    model = ModelConfig(path=str(tmp_path / "model"))
    prompts = {"train_prompt": "T: {problem}", "eval_prompt": "Q: {problem}", "stop": ["Q:"]}
    assert vars(as_trained(model, ["model.path"])) == vars(model) | prompts
    same = replace(model, eval_prompt="Q: {problem}")
    assert vars(as_trained(same, ["model.eval_prompt"])) == vars(model) | prompts
    with pytest.raises(ValueError, match="is asked as it was trained: leave model.eval_prompt=A: {problem} out$"):
        as_trained(replace(model, eval_prompt="A: {problem}"), [])  # of a file in conf/model
    assert as_trained(ModelConfig(path="user/model"), ["model.stop"]) == ModelConfig(path="user/model")


@pytest.mark.parametrize("word", ["model.train_prompt=chat", "model.stop=[]", "++model.template_arguments={}"])
def test_what_the_command_line_sets_is_not_replaced_though_it_is_a_default(root, tmp_path, word):
    """A cell made with none of these defaults."""
    key, _, value = word.lstrip("+").partition("=")
    random_toy_model(tmp_path / "cell/model")
    recorded = {"path": "user/model", "train_prompt": "T: {problem}", "eval_prompt": "Q: {problem}", "stop": ["Q:"]}
    recorded |= {"template_arguments": {"thinking": True}}
    rest = {"loss": {"_target_": "losslab.objectives.sft.SFT"}, "seed": 0}
    rest |= dict.fromkeys(("names", "machine", "sweep", "dataset", "benchmark", "eval"), {})
    (tmp_path / "cell/config.yaml").write_text(yaml.safe_dump({"model": recorded} | rest))
    (tmp_path / "cell/cell.json").write_text('{"identity": "0"}')
    words = ["sample", f"model={tmp_path}/cell/model", "dataset=embedded", "dataset.rows=8", "machine.device=cpu"]
    done = warm.run([*LOSSLAB, *words, word, f"machine.engine={ENGINE}"], tmp_path)
    said = f"error: {tmp_path}/cell/model is of a cell and is asked as it was trained: leave {key}={value} out"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, said)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A random model that ends its answers at any vowel, and questions whose gold it meets now and then."""
    folder = tmp_path_factory.mktemp("place")
    random_toy_model(folder / "model/tiny")
    rows = [{"problem": f"{i}+{i * i}=?", "gold": str(i % 10)} for i in range(60)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(root: Path, place: Path, *arguments: str) -> list[str]:
    words = [
        f"model={place / 'model/tiny'}", "dataset=file",
        f"dataset.path={place / 'asked.jsonl'}", "dataset.answer_column=gold", "dataset.gold_column=gold",
        "model.stop=[a,e,i,o,u]", "samples=4", "eval.max_new_tokens=60", f"machine.engine={ENGINE}",
        "machine.device=cpu", "machine.threads=1", *arguments,
    ]  # fmt: skip
    return [*LOSSLAB, "sample", *last_of_each(words)]


def sampled(folder: Path, place: Path) -> Path:
    """Where the answers of the model in `place` lie: its folder's name has a hash of its path."""
    return folder / "results/sampled" / f"{make(f'model.path={place}/model/tiny', 'model=custom').names.sampled}-asked"


def content(folder: Path) -> dict[str, bytes]:
    (answers,) = folder.glob("results/sampled/tiny-*-asked")
    return {name: (answers / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def undisturbed(root, place, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = warm.run(command(root, place), folder)
    assert done.returncode == 0, done.stderr
    assert f"{sampled(folder, place).name}: 60 questions, 4 answers to each\n" in done.stdout
    assert not (folder / "results/cells").exists() and not (folder / "results/tables").exists()  # it is no cell
    return folder


def make(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
        return read(cfg, cfg.hydra.runtime.choices)


def test_sampled_answers_are_data_sets_of_their_methods(undisturbed, place):
    folder = sampled(undisturbed, place)
    report, records = read_json(folder / "report.json"), read_lines(folder / "questions.jsonl")
    assert (report["questions"], report["answers"], len(records)) == (60, 240, 60)
    assert report["right"] == sum(
        sample["corrected"] and sample["finish_reason"] == "stop" for record in records for sample in record["samples"]
    )
    assert 0 < report["right"] < 240 and report["rows_pairs"] > 0
    assert report["dataset"]["path"] == str(place / "asked.jsonl") and "commit" in report
    assert (report["protocol"]["temperature"], report["protocol"]["seed"]) == (1.0, 0)
    assert report["protocol"]["engine"] == ENGINE and report["protocol"]["stop"] == ["a", "e", "i", "o", "u"]
    assert not (folder / "questions.samples.jsonl").exists()
    own = [f"machine.results={undisturbed / 'results'}", "model=custom", f"model.path={place / 'model/tiny'}"]
    units = {}
    for method in ("rft", "dft_offline", "iw_sft_offline", "dpo", "nft"):
        config = make(f"method={method}", "dataset.source=asked", *own)
        tokeniser = Tokeniser(config.model, config.dataset, toy_task.tokenizer())
        data = prepare(tokeniser, config.train, undisturbed / "cache")
        units[method] = read_json(data / "about.json")["report"]["examples"]
    assert units["rft"] == units["dft_offline"] == units["iw_sft_offline"] == report["rows_correct"]
    assert (units["dpo"], units["nft"]) == (2 * report["rows_pairs"], report["rows_graded"])


@pytest.mark.drill
def test_a_kill_in_the_middle_changes_nothing(root, place, undisturbed, tmp_path):
    process = warm.Popen(command(root, place), tmp_path, start_new_session=True)
    samples = sampled(tmp_path, place) / "questions.samples.jsonl"
    deadline = time.monotonic() + 900
    while not (samples.exists() and samples.read_text().count("\n") >= 20):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 20 <= len(read_lines(samples)) < 240 and not (samples.parent / "correct.jsonl").exists()
    done = warm.run(command(root, place), tmp_path)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path) == content(undisturbed)


def test_what_is_there_is_not_asked_again_and_no_protocols_mix(undisturbed, place, capsys):
    own = [
        part.removeprefix("samples=")
        for part in command(Path(), place)[len(LOSSLAB) + 1 :]
        if not part.startswith("samples=")
    ]
    own = [part if not part.startswith("model=") else f"model.path={part[6:]}" for part in own]
    own = ["model=custom", "loss=base", "eval=sampling", *own, f"machine.results={undisturbed / 'results'}"]
    before, log = content(undisturbed), sampled(undisturbed, place) / "engine.log"
    size = log.stat().st_size
    sample(make(*own))
    assert content(undisturbed) == before and log.stat().st_size == size
    with pytest.raises(ValueError, match=r"samples of another protocol \(temperature: 1.0, now 0.5\); use another"):
        sample(make(*own, "eval.temperature=0.5"))
    with pytest.raises(ValueError, match=r"samples of another protocol \(benchmarks"):
        sample(make(*own, "dataset.rows=30"))
    sample(make(*own, "dataset.rows=30", "plan=true"))
    assert capsys.readouterr().out.endswith("-asked: 30 questions, 4 answers to each\n")
    assert content(undisturbed) == before


def test_a_mistake_is_one_sentence_and_no_folder(root, place, tmp_path):
    refused = subprocess.run(
        command(root, place, "dataset.gold_column=golds"), cwd=tmp_path, capture_output=True, text=True
    )
    message = f"error: {place}/asked.jsonl has no column 'golds' but ['problem', 'gold']: set dataset.gold_column"
    assert refused.returncode == 2 and refused.stderr.splitlines()[-1] == message
    assert "Error executing" not in refused.stderr and "Traceback" not in refused.stderr
    assert not list(tmp_path.iterdir())
