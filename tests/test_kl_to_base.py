"""The KL to the base: its numbers against full logits and an exact sum, what it is measured on, and its table."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_gain_and_loss import records
from test_training import make
from tiny_models import random_toy_model
from transformers import AutoModelForCausalLM

from losslab.cells import measurements
from losslab.cells.scoring import score_again
from losslab.composition.checks import check_kl_to_base
from losslab.composition.compose import composed
from losslab.config.benchmark import BenchmarkConfig
from losslab.config.forgetting import of_new_task
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, ModelConfig, Names
from losslab.config.sweep import SweepConfig
from losslab.data import toy_task
from losslab.data.examples import Examples
from losslab.distributed import launch as launching
from losslab.evaluation import sampled_answers
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.records.record import Cell
from losslab.report import page
from losslab.results import gain_and_loss, plots, tables
from losslab.results import kl_to_base as kl_to_base_sheet
from losslab.results.notes import notes, shown_divergences
from losslab.results.problem_shares import ProblemShares
from losslab.results.write_tables import write_tables
from losslab.statistics.intervals import Estimate, student
from losslab.training import kl_to_base

TOKENIZER = toy_task.tokenizer()
EOS = TOKENIZER.eos_token_id


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """A base and a model that was trained, for all that matters here."""
    folders = [tmp_path_factory.mktemp(name) for name in ("base", "trained")]
    for seed, folder in enumerate(folders):
        random_toy_model(folder, seed)
    return folders[0], folders[1]


@pytest.fixture
def in_process(one_rank, monkeypatch) -> None:
    """The workers of a measurement are this process."""
    monkeypatch.setattr(kl_to_base, "start", lambda config: torch.device("cpu"))
    monkeypatch.setattr(launching, "launch", lambda worker, *args, machine, logs: worker(*args))


def logp(model: Path, prompt: list[int], answer: list[int]) -> np.ndarray:
    """(N,) log-probabilities of the answer's tokens: the model's own forward, full logits, float64."""
    network = AutoModelForCausalLM.from_pretrained(model).double()
    with torch.no_grad():
        table = network(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return table[range(len(prompt) - 1, len(prompt) + len(answer) - 1), answer].numpy()


def sample(text: str, end: int | None, tokens: int | None = None) -> dict:
    count = len(TOKENIZER(text)["input_ids"]) + (end is not None)
    return {"text": text, "finish_reason": "length" if end is None else "stop", "end_token": end} | {
        "tokens": count if tokens is None else tokens
    }


ANSWERS = {  # of each problem of two benchmarks
    "sums": [[sample("1 2", EOS), sample("12", None)], [sample("7", EOS, tokens=9)], [sample("", None, tokens=0)]],
    "words": [[sample("3 4 5", EOS)]],
}


def scored_cell(models: tuple[Path, Path], rows: Path, folder: Path, **machine) -> tuple[Config, Cell]:
    """A cell with a trained model and its samples, and its configuration."""
    config = make(models[0], rows, folder, "sft", micro_batch_tokens=64, **machine)
    config = replace(config, names=Names(model="tiny", dataset="rows", loss="sft", eval="paper"))
    config = replace(config, benchmark={name: BenchmarkConfig(path=f"{name}.jsonl") for name in ANSWERS})
    cell = Cell.of(config)
    shutil.copytree(models[1], cell.model)
    for name, of_problems in ANSWERS.items():
        lines = [{"prompt": f"{i}+{i}=?", "samples": samples} for i, samples in enumerate(of_problems)]
        cell.scores(config).mkdir(parents=True, exist_ok=True)
        write_lines(cell.scores(config) / f"{name}.jsonl", lines)
    (cell.scores(config) / "protocol.yaml").write_text(yaml.safe_dump({"stop": [], "stop_ids": [EOS]}))
    return config, cell


def test_a_record_is_that_of_the_models_own_forward(models, rows, tmp_path, in_process):
    config, cell = scored_cell(models, rows, tmp_path, kl_to_base=100)
    base = ModelConfig(path=str(models[0]))
    assert not cell.kl_measured(config)
    measurements.measure_kl_to_base(config, cell, base)
    record = read_json(cell.kl_to_base(config))
    sums = []  # of problem, in the order of the benchmarks: log-ratio, tokens, answers
    for problem, texts in (("0", ["1 2", "12"]), ("1", ["7"]), ("0", ["3 4 5"])):
        ratio, count = 0.0, 0
        for text in texts:
            answer = TOKENIZER(text)["input_ids"] + [EOS] * (text != "12")
            prompt = TOKENIZER(f"{problem}+{problem}=?")["input_ids"]
            ratio += (logp(models[1], prompt, answer) - logp(models[0], prompt, answer)).sum()
            count += len(answer)
        sums.append((ratio, count, len(texts)))
    ratios, counts, answers = np.array(sums).T
    assert (record["answers"], record["problems"], record["tokens"]) == (4, 3, counts.sum())
    assert (record["asked"], record["benchmarks"], record["retokenised"]) == (100, ["sums", "words"], 1)
    assert abs(ratios.sum()) > 0.1
    for name, of_each in (("per_token", counts), ("per_answer", answers)):
        mean, half = record[name]
        assert mean == pytest.approx(ratios.sum() / of_each.sum(), abs=1e-4)
        residuals = (ratios - ratios.sum() / of_each.sum() * of_each) / of_each.mean()
        assert half == pytest.approx(student(2) * residuals.std(ddof=1) / 3**0.5, rel=1e-3)
    assert cell.kl_measured(config)
    more = replace(config, machine=replace(config.machine, kl_to_base=101))
    other = replace(config, benchmark=config.benchmark | {"new": BenchmarkConfig(path="new.jsonl")})
    forgotten = replace(config, benchmark=config.benchmark | {"mmlu": BenchmarkConfig(path="lm_eval:mmlu")})
    assert [cell.kl_measured(asked) for asked in (more, other, forgotten)] == [False, False, True]


def test_the_number_that_is_asked_for_is_measured_evenly(models, rows, tmp_path, in_process):
    config, cell = scored_cell(models, rows, tmp_path, kl_to_base=2)
    measurements.measure_kl_to_base(config, cell, ModelConfig(path=str(models[0])))
    record = read_json(cell.kl_to_base(config))
    assert (record["asked"], record["answers"], record["problems"]) == (2, 2, 2)  # one of each benchmark
    (cell.scores(config) / "words.jsonl").write_text("")
    (cell.scores(config) / "sums.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no sampled answer to sums, words: machine.kl_to_base needs some"):
        sampled_answers.read(config, cell.scores(config), TOKENIZER, ["sums", "words"], 2)


def test_of_the_base_against_itself_it_is_exactly_zero(models, rows, tmp_path, in_process):
    config, cell = scored_cell((models[0], models[0]), rows, tmp_path, kl_to_base=100)
    measurements.measure_kl_to_base(config, cell, ModelConfig(path=str(models[0])))
    record = read_json(cell.kl_to_base(config))
    assert record["per_token"] == record["per_answer"] == [0.0, 0.0]


def test_samples_of_the_model_estimate_the_exact_divergence(models, rows, tmp_path, in_process):
    """Answers of one token, drawn from the trained model: the interval holds the sum over the vocabulary."""
    prompt = TOKENIZER("1+1=?")["input_ids"]
    with torch.no_grad():
        q, p = (
            AutoModelForCausalLM.from_pretrained(model).double()(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            for model in models
        )
    exact = float((p.exp() * (p - q)).sum())
    drawn = np.random.default_rng(0).choice(len(p), 200, p=p.exp().numpy() / p.exp().numpy().sum())
    tokens = np.array([[*prompt, token] for token in drawn], dtype=np.int32)
    offsets = np.arange(201) * tokens.shape[1]
    Examples(tokens.ravel(), offsets, np.full(200, len(prompt)), "", {}).save(tmp_path / "data")
    config = make(models[0], rows, tmp_path, "sft", micro_batch_tokens=512)
    base, trained = (ModelConfig(path=str(model)) for model in models)
    ratios = kl_to_base.of(config, base, trained, str(tmp_path / "data"))
    assert ratios == pytest.approx((p - q)[drawn].tolist(), abs=1e-4)
    found = Estimate(*kl_to_base.summary(ratios, np.ones(200), range(200))["per_token"])
    assert exact > 0.01 and found.contains(exact) and found.half < exact
    write_json(tmp_path / "data/log_ratios.json", {"log_ratios": [1.0]})
    assert kl_to_base.of(config, base, trained, str(tmp_path / "data")) == [1.0]  # kept once made


def test_the_choice_is_even_over_benchmarks_and_problems_and_the_same_every_time():
    counts = {"a": [2, 2, 2], "b": [1]}
    chosen = sampled_answers.choose(counts, 5)
    assert [name for name, *_ in chosen] == ["a", "b", "a", "a", "a"]
    assert sorted(problem for name, problem, _ in chosen[:4] if name == "a") == [0, 1, 2]  # each before one again
    assert chosen == sampled_answers.choose(counts, 9)[:5] and len(set(sampled_answers.choose(counts, 9))) == 7
    wider = sampled_answers.choose({"a": [16] * 3, "b": [16]}, 4)  # other samples, but the same problems
    assert sorted((name, problem) for name, problem, _ in wider[:2]) == sorted(
        (name, problem) for name, problem, _ in chosen[:2]
    )


def test_a_record_from_before_end_tokens_were_kept_may_imply_them(models, rows, tmp_path):
    config, cell = scored_cell(models, rows, tmp_path, kl_to_base=9)
    file = cell.scores(config) / "words.jsonl"
    line = json.loads(file.read_text())
    del line["samples"][0]["end_token"]
    write_lines(file, [line])

    def tokens() -> tuple[int, int]:
        answers = sampled_answers.read(config, cell.scores(config), TOKENIZER, ["words"], 9)
        return int(answers.examples.answers[0]), answers.retokenised

    count = len(TOKENIZER("3 4 5")["input_ids"])
    assert tokens() == (count + 1, 0)
    config.benchmark["words"].stop = ["!"]  # it may have ended the answer
    assert tokens() == (count, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval.temperature=0.7"], "eval.temperature=0.7, eval.top_p=1 sample something else: set both to 1"),
        (["eval.top_p=0.9"], "eval.temperature=1, eval.top_p=0.9 sample something else"),
        (["benchmark=[forgetting]"], "no benchmark here has them but those of forgetting"),
    ],
)
def test_what_is_no_divergence_is_refused(overrides, message):
    check_kl_to_base(composed(["model=tiny", "dataset=embedded", *overrides]))  # it is not asked for
    with pytest.raises(ValueError, match=f"machine.kl_to_base .*{message}"):
        check_kl_to_base(composed(["model=tiny", "dataset=embedded", "machine.kl_to_base=9", *overrides]))


def test_benchmarks_of_forgetting_of_lm_eval_and_of_images_are_left_out():
    path = {"path": "x.jsonl"}
    about = {"amc23": path, "mmlu": path, "task": {"path": "lm_eval:copa"}, "seen": path | {"images": ["image"]}}
    assert of_new_task({name: BenchmarkConfig(**keys) for name, keys in about.items()}) == ["amc23"]


def test_scoring_a_finished_cell_again_does_not_measure_it(monkeypatch):
    cell = Cell(Path("cell"), "")
    monkeypatch.setattr("losslab.cells.scoring.find", lambda path: cell)
    config = composed(["model=tiny", "dataset=embedded", "machine.kl_to_base=9"])
    monkeypatch.setattr("losslab.cells.scoring.recorded_config", lambda path, overrides: config)
    with pytest.raises(ValueError, match="machine.kl_to_base is measured where a cell is trained"):
        score_again("cell", ["machine.kl_to_base=9"])


def measured(results: Path, loss: str, seed: int, token: float, retokenised: int = 0) -> None:
    """Write the record of one cell."""
    (scores,) = results.glob(f"cells/tiny-embedded-{loss}-s{seed}-*/scores/*")
    record = {"version": 1, "asked": 300, "benchmarks": ["math500", "amc23"], "retokenised": retokenised}
    record |= {"answers": 300, "problems": 40, "tokens": 9000, "per_token": [token, 0.01]}
    write_json(scores / "kl_to_base.json", record | {"per_answer": [30 * token, 0.3]})


def test_the_tables_and_the_page_have_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda *_: None)
    records(tmp_path, seeds=(0, 1))
    for seed, token in enumerate((0.10, 0.14)):
        measured(tmp_path, "sft", seed, token, retokenised=seed)
    measured(tmp_path, "dft", 0, 0.05)
    write_tables(["study"], str(tmp_path))
    folder = tmp_path / "tables/study"
    text = (folder / "table.md").read_text()
    own = text.split("## KL to the base\n")[1]
    half = student(1) * 0.02  # of two seeds, whose standard error is 0.02
    assert own.splitlines()[1:5] == [
        "| model | objective | nats per token | nats per answer | samples |",
        "|---|---|---:|---:|---:|",
        f"| tiny | sft | 0.1200 ± {half:.4f} | 3.60 ± {30 * half:.2f} | 600 |",
        "| tiny | dft | 0.0500 ± 0.0100 | 1.50 ± 0.30 | 300 |",
    ]
    assert "on math500 and amc23" in own and "arXiv 2509.04259" in own
    assert "1 of 900 samples have other tokens here" in own
    assert text.count("The KL of dft to the base is that of 1 of its 2 seeds.") == 1
    assert "The KL of sft" not in text  # which has both
    gains = text.split("## Gain against loss\n")[1]
    assert gains.splitlines()[1] == "| model | objective | gain | loss | KL to the base | seeds | Pareto front |"
    assert f"| 0.1200 ± {half:.4f} | 2 | yes |" in gains and "| – | 2 | no |" in gains  # nft has none
    rows = {row["objective"]: row for row in csv.DictReader((folder / "gain_and_loss.csv").open())}
    assert float(rows["dft"]["kl_to_base"]) == 0.05 and rows["nft"]["kl_to_base_half"] == ""
    rows = {row["objective"]: row for row in csv.DictReader((folder / "kl_to_base.csv").open())}
    assert (float(rows["sft"]["per_answer"]), rows["sft"]["seeds"]) == (pytest.approx(3.6), "2")
    assert "kl_to_base.csv, and in table.md" in capsys.readouterr().out
    html = page.write_report(SweepConfig(name="study"), str(tmp_path)).read_text()
    assert "0.0500 ± 0.0100" in html and "nats per answer" in html
    assert "The KL of dft to the base is that of 1 of its 2 seeds." in html


def test_without_records_nothing_is_shown(tmp_path):
    records(tmp_path)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    assert shown_divergences(table, kl_to_base_sheet.divergences(table)) == []
    points = gain_and_loss.tradeoffs(table, ProblemShares(table))
    assert "KL to the base" not in gain_and_loss.sheet(table, points).head
    assert gain_and_loss.to_csv(points).splitlines()[0].endswith("kl_to_base,kl_to_base_half,seeds,pareto_front")


def test_rows_on_other_benchmarks_and_missing_ones_are_named(tmp_path):
    records(tmp_path)
    for loss in ("sft", "dft"):
        measured(tmp_path, loss, 0, 0.1)
    (file,) = tmp_path.glob("cells/*dft*/scores/*/kl_to_base.json")
    write_json(file, read_json(file) | {"benchmarks": ["math500"]})
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    found = kl_to_base_sheet.divergences(table)
    assert "samples on benchmarks that differ between the rows, which do not compare" in kl_to_base_sheet.caption(found)
    asked = replace(table, grid=[Config(machine=MachineConfig(kl_to_base=300))])
    assert "No KL to the base is on record for nft." in list(notes(asked, {}, [], found))
    assert shown_divergences(asked, found) == shown_divergences(table, found) == found
    assert shown_divergences(replace(table, grid=[Config()]), found) == []  # of another sweep, and not of all rows
