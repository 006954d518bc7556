"""Tasks of lm-evaluation-harness as benchmarks: real tasks of the library's own format, on data of a file."""

import importlib.util
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from losslab.composition.checks import check_prompts
from losslab.composition.compose import composed
from losslab.composition.words import any_group
from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.config.schema import BenchmarkConfig, Config, Engine, EvalConfig, ModelConfig, Names
from losslab.evaluation import engines, harness, harness_engine
from losslab.evaluation.contamination import Corpus
from losslab.evaluation.evaluate import _seen, evaluate
from losslab.records.record import Cell

installed = pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="pip install losslab[lm-eval]")
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
metadata: {{version: 1.0}}
"""
CHOICE = """
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITE = """
output_type: generate_until
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
PERPLEXITY = """
output_type: loglikelihood_rolling
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """The library's YAML files: of choices, of answers that are written, one that runs code, and perplexity."""
    rows = [
        {"question": f"{i}+{i}=", "choices": [str(2 * i), str(2 * i + 1), str(7 * i)], "gold": i % 3} for i in range(9)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {"pick": CHOICE, "tell": WRITE, "code": WRITE + "unsafe_code: true\n", "measure": PERPLEXITY}
    for name, kind in kinds.items():
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, rows=tmp_path / "rows.jsonl") + kind)
    return tmp_path


def task(place: Path, name: str, **options) -> BenchmarkConfig:
    return BenchmarkConfig(path=f"lm_eval:{place / name}.yaml", **options)


def config(place: Path, model: Path, **benchmarks: BenchmarkConfig) -> Config:
    return Config(
        model=ModelConfig(path=str(model), eval_prompt="{problem}"),
        eval=EvalConfig(samples=2, max_new_tokens=4),
        benchmark=benchmarks,
        machine=MachineConfig(engine=Engine.transformers, device=Device.cpu, threads=1, results=str(place)),
        names=Names(model="tiny", dataset="embedded", loss="base", eval="quick"),
        loss={"_target_": "losslab.objectives.base.Base"},
    )


def records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def picked(model: Path, question: str, choices: list[str]) -> int:
    """The most probable continuation, after a space as the library has it, by the model's own forward."""
    tokenizer, own = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    sums = []
    for choice in choices:
        first = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        ids = tokenizer(f"{question} {choice}", return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logp = own(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        sums.append(float(logp[first - 1 :].sum()))
    return max(range(len(choices)), key=sums.__getitem__)


@installed
def test_tasks_are_scored_beside_our_own_benchmarks(place, checkpoint):
    (place / "own.jsonl").write_text(json.dumps({"problem": "1+1=?", "answer": "2"}) + "\n")
    own = BenchmarkConfig(path=str(place / "own.jsonl"))
    cfg = config(place, checkpoint, own=own, pick=task(place, "pick"), tell=task(place, "tell", rows=9))
    folder = Cell.of(cfg).scores(cfg)
    result = evaluate(cfg, str(checkpoint), folder)
    assert {name: (row["problems"], row["samples"]) for name, row in result["benchmarks"].items()} == {
        "own": (1, 2), "pick": (9, 1), "tell": (9, 1),
    }  # fmt: skip
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    expected = [picked(checkpoint, row["question"], row["choices"]) for row in rows]
    kept = records(folder, "pick")
    assert [record["samples"][0]["extracted"] for record in kept] == [
        row["choices"][choice] for row, choice in zip(rows, expected, strict=True)
    ]
    right = [choice == row["gold"] for row, choice in zip(rows, expected, strict=True)]
    assert result["benchmarks"]["pick"]["score"] == pytest.approx(100 * sum(right) / 9)
    assert result["benchmarks"]["pick"]["right"]["official"] == [int(one) for one in right]
    assert result["benchmarks"]["pick"]["interval"] is not None
    assert [record["gold"] for record in kept] == [row["choices"][row["gold"]] for row in rows]
    assert [result["benchmarks"][name]["cut_by_length"] for name in ("pick", "tell")] == [None, None]
    (untold,) = [warning for warning in result["warnings"] if "does not say" in warning]
    assert untold == "lm_eval does not say which answers to tell are cut by length"  # choices are not generated
    told = records(folder, "tell")
    assert (told[3]["question"], told[3]["prompt"], told[3]["gold"]) == ("3+3=", "3+3=", "6")
    assert [r["samples"][0]["corrected"] for r in told] == [r["samples"][0]["text"] == r["gold"] for r in told]
    assert not list(folder.glob("*.cache")) and Cell.of(cfg).scored(cfg)

    log = (folder / "engine.log").stat().st_size
    assert evaluate(cfg, str(checkpoint), folder) == result  # nothing is run again
    assert (folder / "engine.log").stat().st_size == log
    (folder / "tell.jsonl").unlink()
    alone = replace(cfg, benchmark={"own": own})
    assert set(evaluate(alone, str(checkpoint), folder)["benchmarks"]) == {"own", "pick"}
    again = evaluate(cfg, str(checkpoint), folder)
    assert again["benchmarks"] == result["benchmarks"] and records(folder, "tell") == told


@installed
def test_the_choice_on_record_is_the_one_that_the_metric_judges(place, checkpoint):
    """acc_norm takes the log-probability by character: it often picks a longer choice than acc."""
    rows = [{"question": f"{i}+{i}=", "choices": ["7", str(2 * i) * 9, str(i) * 4], "gold": i % 3} for i in range(9)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    byte = "  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}\n"
    (place / "pick.yaml").write_text((place / "pick.yaml").read_text() + byte)
    found = {}
    for metric in ("acc", "acc_norm", "acc_bytes"):
        cfg = config(place, checkpoint, pick=task(place, "pick", metric=metric))
        evaluate(cfg, str(checkpoint), place / metric)
        found[metric] = [record["samples"][0] for record in records(place / metric, "pick")]
        assert [s["official"] for s in found[metric]] == [
            s["extracted"] == row["choices"][row["gold"]] for s, row in zip(found[metric], rows, strict=True)
        ]
    chosen = {metric: [sample["extracted"] for sample in samples] for metric, samples in found.items()}
    assert chosen["acc"] != chosen["acc_norm"] == chosen["acc_bytes"]  # characters of one byte each


@pytest.mark.parametrize(
    ("metric", "picked"), [("acc", "b"), ("acc_norm", "ccc"), ("acc_bytes", "ccc"), ("acc_mutual_info", "éé")]
)
def test_the_choice_of_each_metric_by_hand(metric, picked):
    """Per character -1, -2, -0.67 of b, éé, ccc; per byte -1, -1, -0.67; less the choice alone: -1, 1, 0."""
    chances = [-1.0, -4.0, -2.0, 0.0, -5.0, -2.0]
    row = {"resps": [[(chance, False)] for chance in chances[: 6 if metric == "acc_mutual_info" else 3]]}
    assert harness_engine._picked(row, metric, ["b", "éé", "ccc"]) == picked


@installed
@pytest.mark.parametrize(
    ("choices", "chances", "picked"),
    [
        (["yes", ""], [-3.0, -1.0], ["", "yes", "yes", ""]),
        (["yes", ""], [-3.0, 0.0], ["", "", "", ""]),  # 0 / 0 is not a number
        (["éé", "bbbb", "cc"], [-4.0, -4.0, -4.0], ["éé", "bbbb", "éé", "éé"]),
        (["a", "b"], [-1.0, math.nan], ["b", "b", "b", "b"]),
    ],
)
def test_empty_choices_ties_and_what_is_no_number_are_judged_as_by_the_library(choices, chances, picked):
    """Its score of each metric is 1 for the choice that is picked, and for no other; probabilities alone are all 1."""
    answers = [[(chance, False)] for chance in (*chances, *(0.0 for _ in choices))]
    found = {metric: harness_engine._picked({"resps": answers}, metric, choices) for metric in METRICS}
    assert found == dict(zip(METRICS, picked, strict=True))
    from lm_eval.api.task import ConfigurableTask, TaskConfig

    library = object.__new__(ConfigurableTask)  # of which this needs no data
    library._config, library.OUTPUT_TYPE = TaskConfig(task="pick"), "multiple_choice"
    library.multiple_input, library.multiple_target, library._metric_fn_list = 0, 0, dict.fromkeys(METRICS)
    library.doc_to_choice = lambda doc: choices
    library.doc_to_target = choices.index
    for choice in choices:
        with np.errstate(all="ignore"):
            right = library.process_results(choice, [answer for (answer,) in answers])
        assert right == {metric: float(choice == found[metric]) for metric in METRICS}


@installed
def test_what_answers_tasks_is_on_record_whatever_the_engine_is(place, checkpoint, monkeypatch):
    """transformers, in a protocol of vLLM too; later versions are added, and so is the engine of other benchmarks."""
    version = {Engine.transformers: "5.1", Engine.vllm: "0.32"}
    monkeypatch.setattr(engines, "version", version.__getitem__)
    monkeypatch.setattr(engines, "choose", lambda *_: Engine.vllm)
    monkeypatch.setattr(engines, "dtype", lambda job: f"float{32 if job.sampling.temperature == 0 else 16}")

    def made(**benchmarks: BenchmarkConfig) -> list[str]:
        result = evaluate(config(place, checkpoint, **benchmarks), str(checkpoint), place / "scores")
        return [result["engine"], result["engine_version"], result["generation"].get("dtype")]

    pick, tell = task(place, "pick"), task(place, "tell")
    assert made(pick=pick) == ["transformers", "5.1", "float32"]
    version[Engine.transformers] = "5.2"
    assert made(pick=pick) == ["transformers", "5.1", "float32"]  # nothing was missing
    assert made(pick=pick, tell=tell) == ["transformers", "5.1, 5.2", "float32"]
    (place / "scores/scores.json").unlink()  # as where a call was killed after the last answer
    assert made(pick=pick, tell=tell) == ["transformers", "5.2", None]
    if importlib.util.find_spec("vllm"):
        (place / "own.jsonl").write_text(json.dumps({"problem": "1+1=?", "answer": "2"}) + "\n")
        own = BenchmarkConfig(path=str(place / "own.jsonl"))
        assert made(own=own) == ["transformers, vllm", "0.32, 5.2", "float16"]


@installed
def test_a_group_is_broken_down_by_task_and_prompts_follow_the_chat_template(place, checkpoint):
    (place / "both.yaml").write_text("group: both\ntask: [pick, tell]\n")
    cfg = config(place, checkpoint, both=task(place, "both"))
    cfg.model.eval_prompt = "chat"
    result = evaluate(cfg, str(checkpoint), place / "scores")
    parts = result["benchmarks"]["both"]["breakdown"]["task"]
    assert {name: part["problems"] for name, part in parts.items()} == {"pick": 9, "tell": 9}
    prompts = [record["prompt"] for record in records(place / "scores", "both")]
    assert prompts[2] == prompts[11] == "<|user|>2+2=<|end|><|assistant|>"
    assert not any("chat template" in warning for warning in result["warnings"])


@installed
def test_arguments_of_the_chat_template_reach_tasks(place, checkpoint):
    folder = place / "model"
    shutil.copytree(checkpoint, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ 'hard' if effort == 2 else 'soft' }} " + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    cfg = config(place, folder, pick=task(place, "pick"))
    cfg.model.eval_prompt, cfg.model.template_arguments = "chat", {"effort": 2}
    evaluate(cfg, str(folder), place / "scores")
    prompts = [record["prompt"] for record in records(place / "scores", "pick")]
    assert prompts[2] == "hard <|user|>2+2=<|end|><|assistant|>"
    cfg.model.template_arguments = {}
    evaluate(cfg, str(folder), place / "others")
    assert records(place / "others", "pick")[2]["prompt"] == prompts[2].replace("hard", "soft")


PREAMBLE = "Say which one of the following answers is right and give no reason for it at all."
SHARED = f"{{% set first = '{PREAMBLE} ' %}}" + "{{first + COLUMN}} {{choices[0]}}, {{choices[1]}}"
LIBRARY = "doc_to_decontamination_query: story"  # where its own search for known problems looks


@installed
@pytest.mark.parametrize(
    ("prompt", "column", "more", "found"),
    [
        ("Question: {{question}}\nAnswer:", "question", "", True),
        ("{{ story.strip() }} Answer:", "story", "", True),  # the only one
        ("story", "story", "", True),
        (SHARED.replace("COLUMN", "question"), "question", "", True),
        (SHARED.replace("COLUMN", "story"), "story", LIBRARY, True),
        (SHARED.replace("COLUMN", "story"), "story", "", False),
    ],
)
def test_of_a_task_the_question_alone_is_looked_for_in_rows_of_training(place, prompt, column, more, found):
    """Not the prompt, which no row is; so a row with what stands in all prompts marks none of them."""
    texts = [f"How many of {i} red and {i} blue apples on the table are left at the end of day {i}" for i in range(4)]
    rows = [{column: text, "choices": ["1", "2"], "gold": 0} for text in texts]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = TASK.format(name="pick", rows=place / "rows.jsonl").replace('"{{question}}"', json.dumps(prompt))
    (place / "pick.yaml").write_text(plain + CHOICE + more)
    cfg = config(place, place, pick=task(place, "pick"))
    chosen = [harness.load("pick", cfg.benchmark["pick"])]
    corpus = Corpus(prompt, lambda: [(texts[1], "none"), (f"{PREAMBLE} Thanks.", "no")])
    unknown = "pick: the training data was not searched, since the task does not say which column holds its question"
    expected = ({"pick": {"exact": [1], "words": [1]}}, []) if found else ({}, [unknown])
    assert _seen(cfg, corpus, chosen) == expected
    assert _seen(cfg, None, chosen) == (None, [])


@installed
def test_a_column_with_a_usual_name_is_a_question_where_prompts_hold_it_and_few_documents_share_it(place):
    """COPA's `question` is cause or effect; a prompt may leave a column out."""
    asked = [("cause", "effect")[i % 2] for i in range(4)]
    rows = [{"question": text, "story": f"{i}?", "choices": ["1", "2"], "gold": 0} for i, text in enumerate(asked)]
    others = [row | {"question": f"Q{i}"} for i, row in enumerate(rows)]
    tasks = {"shared": ("{{question}}: {{story}}", rows), "absent": ("{{story}} {{choices[0]}}", others)}
    for name, (prompt, of_task) in tasks.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_task))
        plain = TASK.format(name=name, rows=place / f"{name}.jsonl").replace('"{{question}}"', json.dumps(prompt))
        (place / f"{name}.yaml").write_text(plain + CHOICE)
    for name, (_, of_task) in tasks.items():
        cfg = config(place, place, **{name: task(place, name)})
        corpus = Corpus(name, lambda of_task=of_task: [(of_task[1]["question"], "none")])
        (found, (told,)) = _seen(cfg, corpus, [harness.load(name, cfg.benchmark[name])])
        assert found == {} and told.startswith(f"{name}: the training data was not searched")


@installed
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pick", {"metric": "f1"}, r"benchmark.pick.metric=f1 is not a metric of pick: there are acc, acc_norm"),
        ("pick", {"rows": 8}, "has 9 problems, not 8"),
        ("code", {}, "the task code runs code that a model writes: not supported"),
        ("measure", {}, "the task measure measures perplexity and has no right answers"),
    ],
)
def test_tasks_that_cannot_be_scored_are_refused(place, name, options, message):
    with pytest.raises(ValueError, match=message):
        harness.load(name, task(place, name, **options))


@installed
def test_the_hash_follows_the_problems_and_the_metric(place):
    first, again = (harness.load("pick", task(place, "pick")) for _ in range(2))
    other = harness.load("pick", task(place, "pick", metric="acc_norm"))
    assert first == again and first.sha256 != other.sha256
    text = (place / "rows.jsonl").read_text().replace('"8+8="', '"9+9="')
    (place / "rows.jsonl").write_text(text)
    assert harness.load("pick", task(place, "pick")).sha256 != first.sha256


def test_without_the_library_it_is_named(place, monkeypatch):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="benchmark pick needs the package lm-eval: pip install lm-eval"):
        harness.load("pick", task(place, "pick"))


def test_tasks_are_named_among_benchmarks():
    cfg = composed(["model=tiny", "loss=base", "benchmark=[aime24,lm_eval:ifeval,lm_eval:a/my-task.yaml]"])
    assert {name: about.task for name, about in cfg.benchmark.items()} == {
        "aime24": None, "ifeval": "ifeval", "my_task": "a/my-task.yaml",
    }  # fmt: skip
    cfg = composed(["model=tiny", "loss=base", "benchmark=forgetting"])
    assert [about.task for about in cfg.benchmark.values()] == ["ifeval", "mmlu", "arc_challenge", "truthfulqa_mc1"]
    assert any_group("benchmark=[aime24]") == ["benchmark=[aime24]"]
    with pytest.raises(
        ValueError, match="over benchmarks: write them in one list, as in benchmark=.lm_eval:ifeval,aime24.$"
    ):
        any_group("benchmark=[lm_eval:ifeval],[aime24]")
    with pytest.raises(ValueError, match="two benchmarks are called ifeval"):
        composed(["model=tiny", "loss=base", "benchmark=[forgetting,lm_eval:ifeval]"])


def test_tasks_do_not_go_with_an_endpoint_and_metrics_not_with_our_own(place, checkpoint):
    cfg = config(place, checkpoint, pick=task(place, "pick"))
    cfg.machine = MachineConfig(engine=Engine.api, api_url="http://host/v1")
    with pytest.raises(ValueError, match="pick is a task of lm_eval, which needs the model itself"):
        check_prompts(cfg)
    with pytest.raises(ValueError, match="benchmark.own.metric is for tasks of lm_eval"):
        check_prompts(config(place, checkpoint, own=BenchmarkConfig(path="x", metric="acc")))
