"""Prompts of an evaluation: worked examples, several prompts in a sweep, and what keeps their scores apart."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import warm
import yaml
from place import LOSSLAB
from test_tables import cell
from tiny_models import random_toy_model

from losslab.composition.checks import check
from losslab.composition.compose import composed
from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.config.prompt import ExampleConfig, PromptConfig
from losslab.config.schema import BenchmarkConfig, Config, Engine, EvalConfig, ModelConfig
from losslab.config.sweep import SweepConfig
from losslab.data import toy_task
from losslab.evaluation.benchmarks import Benchmark
from losslab.evaluation.evaluate import evaluate
from losslab.evaluation.prompting import Prompt, announced
from losslab.files.json_files import read_json, write_json
from losslab.grading import corrected, corrected_text
from losslab.planning.sweep_cells import by_protocol
from losslab.records.identity import protocol
from losslab.results import table_formats, tables

EXAMPLES = [ExampleConfig("1+1=?", "It is {problem}: 2"), ExampleConfig("2+2=?", "4")]
SUMS = Benchmark("sums", [], "")


def prompt_of(benchmark: Benchmark = SUMS, model: str = "chat", **keys) -> Prompt:
    return Prompt.of(Config(model=ModelConfig(eval_prompt=model), prompt=PromptConfig(**keys)), benchmark)


def test_examples_stand_before_the_question_as_text():
    prompt = prompt_of(
        template="<{problem}>", examples=EXAMPLES, example="Q: {problem}\\nA: {answer}\\n", question="Q: {problem}\\nA:"
    )
    shown = "Q: 1+1=?\nA: It is {problem}: 2\nQ: 2+2=?\nA: 4\n"
    assert prompt.text("{answer}", None, {}) == f"<{shown}Q: {{answer}}\nA:>"  # braces of a problem are its own
    assert prompt.earlier == []
    assert announced({"sums": prompt, "aime24": prompt}, "mine") == (
        "prompt mine: 2 worked examples before each question of sums, aime24"
    )
    assert announced({"sums": prompt_of()}, "model") is None


def test_examples_are_earlier_turns_of_the_chat():
    prompt = prompt_of(turns=True, examples=EXAMPLES[1:], question="{problem} Box it.")
    assert prompt.earlier == [
        {"role": "user", "content": "2+2=? Box it."},
        {"role": "assistant", "content": "4"},
    ]
    text = prompt.text("3+3=?", toy_task.tokenizer(), {})
    assert text == "<|user|>2+2=? Box it.<|end|><|assistant|>4<|end|><|user|>3+3=? Box it.<|end|><|assistant|>"


def test_a_benchmark_keeps_its_own_prompt_and_examples():
    common = {"template": "{problem}", "examples": EXAMPLES, "stop": ["\\n"]}
    own = BenchmarkConfig("x.jsonl", examples=[ExampleConfig(problem="5+5=?", answer="10")], stop=["|"])
    own = Benchmark.of("sums", [], own)
    assert prompt_of(own, **common).asked("6") == "Problem:\n5+5=?\n\nSolution:\n10\n\n6"
    assert prompt_of(own, **common).stop == ("|", "\n")
    asking = prompt_of(replace(own, prompt="{problem}=", examples=()), **common)
    assert (asking.text("6", None, {}), asking.stop) == ("6=", ("|",))
    plain = BenchmarkConfig("x.jsonl")
    with_examples = replace(plain, examples=EXAMPLES)
    assert Benchmark.of("sums", [], plain).sha256 != Benchmark.of("sums", [], with_examples).sha256


def test_the_shipped_examples_are_right_and_part_of_the_protocol():
    config = composed(["prompt=minerva_4shot", "loss=base"])
    check(config)
    golds = ["[2,5)", "24", "16", r"-\frac{2}{3}"]
    for example, gold in zip(config.prompt.examples, golds, strict=True):
        assert corrected.equal(corrected_text.extract(example.answer), gold)
    assert Prompt.of(config, SUMS).text("x", None, {}).count("Problem:\n") == 5
    others = [composed(["loss=base"]), composed(["loss=base", "prompt=boxed"]), config]
    assert len({protocol(other) for other in others}) == 3
    assert [other.prompt_name for other in others] == ["model", "boxed", "minerva_4shot"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompt=minerva"], "prompt=minerva does not exist; did you mean minerva_4shot?"),
        (["prompt.template=hello"], "prompt.template must be `chat` or a text that contains {problem}"),
        (["prompt.question=hello"], "prompt.question must be a text that contains {problem}"),
        (["prompt.example='{problem}'"], "prompt.example must be a text that contains {answer}"),
        (["prompt.turns=true"], "prompt.turns=true is for worked examples: set prompt.examples, or leave it out"),
        (
            ["prompt=minerva_4shot", "prompt.turns=true"],
            "prompt.turns=true needs the chat template: set prompt.template=chat, or leave it out",
        ),
        (
            ["prompt.examples=[{problem:a,answer:' '}]"],
            "prompt.examples.0 is empty: give it a problem and an answer, or leave it out",
        ),
        (["prompt.examples=[{problem:a,solution:b}]"], "unknown key"),
        (
            ["benchmark.math500.path=lm_eval:ifeval", "+benchmark.math500.prompt='{problem}'"],
            "benchmark math500 is a task of lm_eval, whose prompt is its own: leave prompt out",
        ),
    ],
)
def test_a_prompt_that_leaves_something_out_is_refused(overrides, message):
    with pytest.raises(ValueError) as caught:
        check(composed(["loss=base", "benchmark=[math500]", *overrides]))
    assert str(caught.value).startswith(message)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return random_toy_model(tmp_path_factory.mktemp("model"))


def test_an_evaluation_with_examples_says_so_and_goes_on_with_no_others(model, tmp_path, caplog):
    rows = [{"question": f"{i}+{i}=?", "answer": str(2 * i)} for i in range(2, 5)]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config(
        model=ModelConfig(path=str(model)),
        eval=EvalConfig(samples=1, temperature=0, max_new_tokens=4),
        prompt=PromptConfig(turns=True, examples=EXAMPLES),
        benchmark={"one": BenchmarkConfig(path=str(tmp_path / "one.jsonl"))},
        machine=MachineConfig(engine=Engine.transformers, device=Device.cpu, threads=1),
    )
    folder = tmp_path / "scores"
    result = evaluate(config, str(model), folder)
    assert (result["prompt"], result["examples"]) == ("changed", {"one": 2})
    assert "one: 1 of its problems are worked examples of its prompt" in result["warnings"]
    record = json.loads((folder / "one.jsonl").read_text().splitlines()[1])
    assert record["prompt"].startswith("<|user|>1+1=?<|end|><|assistant|>It is {problem}: 2<|end|><|user|>2+2=?")
    asked = yaml.safe_load((folder / "protocol.yaml").read_text())["question_and_examples"]
    assert asked == {"examples": [vars(example) for example in EXAMPLES], "turns": True}
    for other in (PromptConfig(turns=True, examples=EXAMPLES[:1]), PromptConfig()):
        with pytest.raises(ValueError, match=r"samples of another protocol \(question_and_examples"):
            evaluate(replace(config, prompt=other), str(model), folder)


def test_rows_of_other_prompts_are_rows_of_their_own_with_the_prompt_as_a_column(tmp_path):
    for loss, score in {"sft": 40.0, "dft": 50.0}.items():
        for seed in (0, 1):
            folder = cell(tmp_path, loss, seed, {"math500": score}).folder / "scores"
            part = {"score": score + 20, "interval": [score, 99.0], "samples": 16}
            content = {"benchmarks": {"math500": part}, "verdict": "official", "prompt": "boxed"}
            write_json(folder / "paper-87654321/scores.json", content)
            write_json(folder / "paper-87654321/protocol.yaml", {"benchmarks": {"math500": "hash"}})  # as of the others
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert [(row.label, row.value("math500").mean) for row in table.rows] == [
        ("sft prompt=model", 40.0), ("dft prompt=model", 50.0), ("sft prompt=boxed", 60.0), ("dft prompt=boxed", 70.0),
    ]  # fmt: skip
    sheet = table_formats.scores_sheet(table)
    assert table_formats.markdown(sheet).splitlines()[2:5] == [
        "| model | objective | prompt | math500 | average | seeds |",
        "|---|---|---|---:|---:|---:|",
        "| tiny | sft | model | 40.0 | 40.0 | 2 |",
    ]
    assert r"\begin{tabular}{lllrrr}" in table_formats.latex(sheet)
    rows = list(csv.DictReader(io.StringIO(table_formats.to_csv(table, None))))
    assert [row["prompt"] for row in rows] == ["model", "model", "boxed", "boxed"]


def test_a_sweep_scores_a_cell_under_each_prompt(model, tmp_path):
    (tmp_path / "sums.jsonl").write_text(json.dumps({"problem": "1+1=?", "answer": "2"}) + "\n")
    (tmp_path / "conf/benchmark").mkdir(parents=True)
    (tmp_path / "conf/benchmark/sums.yaml").write_text(f"sums:\n  path: {tmp_path}/sums.jsonl\n")
    arguments = [f"hydra.searchpath=[{tmp_path}/conf]", "-m", f"model={model}", "loss=base", "benchmark=[sums]"]
    arguments += ["prompt=question,boxed", "eval=greedy", "eval.max_new_tokens=4", "sweep.name=prompts"]
    arguments += ["machine.engine=transformers", "machine.device=cpu", "machine.threads=1", "tracker=none"]
    done = warm.run([*LOSSLAB, "train", *arguments], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "prompts: 1 cells, 0 of them done" in done.stdout + done.stderr
    scores = sorted(read_json(path)["prompt"] for path in tmp_path.glob("results/cells/*/scores/*/scores.json"))
    assert scores == ["boxed", "question"]
    assert "| base | boxed |" in (tmp_path / "results/tables/prompts/table.md").read_text()
    refused = warm.run([*LOSSLAB, "train", "hydra/launcher=local", *arguments, "seed=7"], tmp_path)
    assert refused.returncode == 2 and "is to be scored in 2 ways" in refused.stderr


def test_a_plan_has_each_cell_once():
    configs = [composed(["loss=base", f"prompt={name}", "benchmark=[math500]"]) for name in ("boxed", "question")]
    ((_, own),) = by_protocol([*configs, *configs]).items()
    assert [config.names.prompt for config in own] == ["boxed", "question"]
