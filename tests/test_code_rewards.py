"""Code as a reward: a data set of problems, whose tests verify what a model samples offline and online."""

import json
import os
import re

import pytest
from hydra import compose, initialize_config_dir
from test_code import HUMANEVAL, ROWS

from losslab.cells.sampling import build, sample
from losslab.composition.compose import read
from losslab.config.paths import CONF
from losslab.config.schema import Config, DatasetConfig
from losslab.data import toy_task
from losslab.data.table import load
from losslab.evaluation.engine_interface import Completion
from losslab.evaluation.questions import NAME, check_verifier, questions
from losslab.evaluation.samples import Samples
from losslab.grading.graders import Grader
from losslab.online import questions as online
from losslab.online.verifier import Verifier
from losslab.programs import assembly, languages, sandbox
from losslab.records.identity import identity

isolated = pytest.mark.skipif(
    bool(sandbox.refusal()) and not os.environ.get("LOSSLAB_CODE"), reason=f"no isolation: {sandbox.refusal()}"
)
BASH, RIGHT, WRONG = ROWS["sh"]
STOP = ["\n}"]


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> DatasetConfig:
    """Two problems, one of them twice, and a row without tests."""
    file = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    bash = BASH | {"language": "sh"}
    rows = [bash, HUMANEVAL, bash, {"prompt": "f() {", "language": "sh"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DatasetConfig(path=str(file), rules="code", stop=STOP, template="{problem}\n")


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
        return read(cfg, cfg.hydra.runtime.choices)


def options(problems: DatasetConfig) -> list[str]:
    return ["model=tiny", "dataset=mbpp_js", f"dataset.path={problems.path}"]


def test_rows_are_problems_asked_with_the_prompt_and_stops_of_the_data_set(problems):
    asked, counts = questions(problems)
    assert counts == {"rows": 4, "without_gold": 1, "repeated_questions": 1, "questions": 2}
    assert [json.loads(problem.gold)["test"] for problem in asked.problems] == [BASH["tests"], HUMANEVAL["test"]]
    assert asked.problems[0].gold == assembly.problem(BASH | {"language": "sh"}, STOP)
    assert (asked.rules, asked.prompt, asked.stop) == ("code", "{problem}\n", ("\n}",))


@isolated
def test_sampled_answers_are_right_where_the_tests_pass(problems, tmp_path):
    asked, _ = questions(problems)
    texts = [(RIGHT.rstrip("\n"), "stop"), (WRONG, "stop"), (RIGHT, "length")]
    with Grader(2) as grader, Samples(tmp_path, [asked], grader) as samples:
        for index, (text, reason) in enumerate(texts):
            samples.add((NAME, 0, index), Completion(index, text, 1, reason), None)
        samples.finish()
    record = {"index": 0, "question": asked.problems[0].question, "samples": samples.of(NAME, 0)}
    sets, tally = build([record], 3, seed=0)
    assert [row["reward"] for row in sets["graded"]] == [1, 0, 0]  # what was cut off is no right answer
    assert sets["correct"] == [{"problem": asked.problems[0].question, "solution": RIGHT.rstrip("\n")}]
    assert (tally["right"], tally["unfinished"], len(sets["pairs"])) == (1, 1, 1)


@isolated
def test_a_reward_online_is_for_an_answer_that_ended_and_passes(problems):
    tokenizer, gold = toy_task.tokenizer(), questions(problems)[0].problems[0].gold
    texts = [f"{RIGHT}<|end|>", f"{RIGHT}}}\nmore<|end|>", f"{WRONG}<|end|>", RIGHT]
    with Grader(2) as grader:
        verifier = Verifier(grader, tokenizer, [tokenizer.eos_token_id], "code")
        ids = [tokenizer(text)["input_ids"] for text in texts]
        assert verifier.reward(completion_ids=ids, gold=[gold] * 4) == [1, 1, 0, 0]


@isolated
def test_online_questions_have_the_problem_as_their_gold(problems, tmp_path):
    config = composed("loss=grpo", *options(problems))
    config.dataset.stop = STOP
    rows, report = online.ask(config, 200, toy_task.tokenizer())
    assert rows[0] == {"prompt": f"{BASH['prompt'].strip()}\n", "gold": questions(problems)[0].problems[0].gold}
    assert (report["prompts"], report["without_gold"]) == (2, 1)


def test_code_that_cannot_be_run_here_is_refused_before_a_model_is_loaded(problems, tmp_path, monkeypatch):
    golds = [problem.gold for problem in questions(problems)[0].problems]
    monkeypatch.setattr(sandbox, "refusal", lambda *_: "the program bwrap is missing")
    refused = pytest.raises(ValueError, match="cannot be isolated here .the program bwrap is missing.*unsafe_code=true")
    with refused:
        check_verifier(problems, golds, unsafe_code=False)
    with refused:
        sample(composed("loss=base", *options(problems), f"machine.results={tmp_path}"))
    with refused:
        config = composed("loss=grpo", *options(problems), f"machine.results={tmp_path}")
        online.prepare(config, toy_task.tokenizer(), tmp_path)
    monkeypatch.setattr(languages, "missing", lambda language: ["bash"] if language == "sh" else [])
    with pytest.raises(ValueError, match="problems.jsonl: Bash needs bash"):
        check_verifier(problems, golds, unsafe_code=True)


def test_a_data_set_without_problems_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"problem": "1+1", "solution": "2"}))
    with pytest.raises(ValueError, match="has texts in prompt and in test .or tests., which dataset.rules=code needs"):
        questions(DatasetConfig(path=str(tmp_path / "rows.jsonl"), rules="code"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset.stop=[x]"], "dataset.stop is for answers that are code: set dataset.rules=code too"),
        (["dataset.rules=code", "dataset.gold_column=answer"], "not dataset.gold_column=answer: leave that out"),
        (["dataset.rules=code", "dataset.prompt_column=text"], "not dataset.prompt_column=text: leave that out"),
    ],
)
def test_keys_that_would_not_be_read_are_refused(overrides, sentence):
    for loss in ("base", "grpo"):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            composed(f"loss={loss}", "dataset=file", "dataset.path=some/hub-id", *overrides)


def test_the_verifier_is_part_of_an_online_cell_alone():
    for loss, same in (("grpo", False), ("sft", True)):
        cells = [composed(f"loss={loss}", "dataset=mbpp_js", *more) for more in ([], ["dataset.stop=[end]"])]
        cells += [composed(f"loss={loss}", "dataset=mbpp_js", "dataset.stop=[]", "dataset.rules=general")]
        assert [identity(cell) == identity(cells[0]) for cell in cells] == [True, same, same]


def test_rft_on_code_asks_as_the_benchmarks_do():
    config = composed("method=rft_code", "model=tiny", "plan=true")
    assert config.train_prompt == composed("benchmark=multipl_e").benchmark["multipl_e_js"].prompt == "{problem}\n"
    assert config.dataset.path.endswith("sampled/tiny-mbpp_js/correct.jsonl")
    assert composed("dataset=mbpp_js").dataset.stop == composed("benchmark=multipl_e").benchmark["multipl_e_js"].stop


def test_a_subset_of_a_data_set_is_read(tmp_path):
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("mbpp-js", "mbpp-sh")]
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    for name in ("mbpp-js", "mbpp-sh"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(BASH | {"language": "sh", "name": name}))
    rows = load(DatasetConfig(path=str(tmp_path), subset="mbpp-sh", rules="code")).rows()
    assert [row["name"] for row in rows] == ["mbpp-sh"]
