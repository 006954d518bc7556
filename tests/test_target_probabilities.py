"""Figure 2: its numbers against a naive version with full softmax, on one rank and on two; its table by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tables import cell
from test_training import data_rows, make, sequence
from transformers import AutoModelForCausalLM

from losslab.cells.training import prepared
from losslab.composition import experiment_files
from losslab.config.machine import MachineConfig
from losslab.config.schema import AdapterConfig, Config, DatasetConfig, ModelConfig, Names, Precision, TrainConfig
from losslab.config.sweep import SweepConfig
from losslab.data import toy_task
from losslab.data.examples import Examples
from losslab.files.json_files import write_json, write_lines
from losslab.records.cell_records import cell_records
from losslab.report import training as report_training
from losslab.report.rows import report_rows
from losslab.results import plots, probability_plots, tables
from losslab.results.notes import notes, of_measured_cells, shown
from losslab.results.probability_plots import BeforeAfter, Histogram
from losslab.results.write_tables import write_tables
from losslab.training import target_probabilities, target_text
from losslab.training.step_metrics import EDGES

ASKED = 17  # of 22 rows


@pytest.fixture(scope="module")
def peaked(checkpoint, tmp_path_factory) -> Path:
    """A model that is sure of some tokens and not of others, so that all bins have some."""
    folder = tmp_path_factory.mktemp("peaked")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.model.norm.weight.mul_(6)
        answer = toy_task.tokenizer()("1 2 3 ")["input_ids"]
        model.lm_head.weight[answer] += 0.25 * model.lm_head.weight[answer].sign()
    model.save_pretrained(folder)
    toy_task.tokenizer().save_pretrained(folder)
    return folder


def naive(model: Path, rows: Path) -> tuple[np.ndarray, list[str]]:
    """The probability and the text of every answer token of the chosen rows: full softmax, float64, one by one."""
    network = AutoModelForCausalLM.from_pretrained(model).double()
    p, texts = [], []
    for i in sorted(np.random.default_rng(0).permutation(22)[:ASKED]):
        ids, start = sequence(data_rows(rows)[i])
        with torch.no_grad():
            table = network(input_ids=ids[None]).logits[0].softmax(-1)[start - 1 : -1]
        p += table[range(len(table)), ids[start:]].tolist()
        texts += toy_task.tokenizer().convert_ids_to_tokens(ids[start:])
    return np.array(p), [text.replace("Ġ", " ") for text in texts]


@pytest.mark.parametrize(
    "machine", [{"micro_batch_tokens": 4096}, {"workers": 2, "micro_batch_tokens": 64}], ids=["one rank", "two ranks"]
)
def test_counts_equal_those_of_full_softmax(peaked, rows, tmp_path, machine):
    config = make(peaked, rows, tmp_path, "dft", probabilities=ASKED, **machine)
    found = target_probabilities.of(config, config.model, config.model)
    p, texts = naive(peaked, rows)
    assert all(np.abs(np.log(p / edge)).min() > 1e-5 for edge in EDGES[1:-1])  # no token is at an edge
    expected = [sum(low <= x < high for x in p) for low, high in zip(EDGES, [*EDGES[1:-1], 2.0], strict=False)]
    assert (found["edges"], found["counts"], found["tokens"]) == (list(EDGES), expected, len(p))
    assert sum(expected) == len(p) and expected[0] > 5 and expected[-1] > 5 and min(expected[1:4]) > 0
    for end, inside in (("lowest", p < 1e-4), ("highest", p >= 0.9)):
        own = [text for text, there in zip(texts, inside, strict=True) if there]
        assert {text: own.count(text) for text in set(own)} == dict(found[end])
        assert [count for _, count in found[end]] == sorted(map(own.count, set(own)), reverse=True)


def test_a_model_is_measured_once_whatever_trains_it(peaked, checkpoint, rows, tmp_path):
    config = make(peaked, rows, tmp_path, "dft", probabilities=4, micro_batch_tokens=4096)
    target_probabilities.of(config, config.model, config.model)
    (first,) = tmp_path.glob("cache/probabilities/*.json")
    first.write_text('{"kept": true}')
    adapted = replace(config, adapter=AdapterConfig(rank=4, target_modules=["q_proj"]), seed=9, loss={})
    assert target_probabilities.of(adapted, config.model, config.model) == {"kept": True}
    other = target_probabilities.of(config, config.model, replace(config.model, path=str(checkpoint)))
    rounded = replace(config, train=replace(config.train, precision=Precision.bf16))
    assert other["tokens"] == target_probabilities.of(rounded, config.model, config.model)["tokens"]
    assert len(list(tmp_path.glob("cache/probabilities/*.json"))) == 3


def test_of_pairs_the_chosen_answers_are_measured():
    lengths = np.array([5, 6, 7, 8, 9, 10])
    examples = Examples(np.arange(45), np.r_[0, lengths.cumsum()], np.full(6, 3), "", {}, unit=2)
    assert target_probabilities.sample(examples, 99).tolist() == [0, 2, 4]
    chosen = target_probabilities.sample(examples, 2)
    assert len(chosen) == 2 and not (chosen % 2).any()
    assert examples.targets(np.array([0, 4])).tolist() == [3, 4, *range(29, 35)]


def record(counts: dict[float, int], lowest: list, highest: list) -> dict:
    known = [counts.get(edge, 0) for edge in EDGES[:-1]]
    return {"edges": list(EDGES), "counts": known, "tokens": sum(known), "lowest": lowest, "highest": highest}


def test_the_table_the_numbers_and_the_figure(tmp_path):
    before = Histogram("before", [record({0.0: 1, 0.5: 8, 0.9: 1}, [["a|b", 1]], [["\n", 1]])])
    seeds = [
        record({0.0: 2, 0.9: 8}, [[" the", 2]], [["\n", 5], ["`", 3]]),
        record({0.0: 4, 0.9: 6}, [["a|b", 3], [" the", 1]], [["\n", 6]]),
    ]
    pairs = [BeforeAfter(before, Histogram("dft", seeds)), BeforeAfter(before, Histogram("sft", seeds[:1]))]
    lines = probability_plots.to_markdown(pairs).splitlines()
    half = 12.706 * 10  # Student's t of one degree, times the standard error of 20% and 40%
    assert lines[2:7] == [
        "| objective | p < 0.0001, % | most frequent there | p ≥ 0.9, % | most frequent there |",
        "|---|---:|---|---:|---|",
        "| before | 10.00 | `a\\|b` | 10.00 | `\\n` |",
        f"| dft | 30.00 ± {half:.2f} | `␣the` `a\\|b` | 70.00 ± {half:.2f} | `\\n` `` ` `` |",
        "| sft | 20.00 | `␣the` | 80.00 | `\\n` `` ` `` |",
    ]
    table = [line.split(",") for line in probability_plots.to_csv(pairs).splitlines()]
    assert len(table) == 1 + 3 * 13 and table[1] == ["before", "0.0", "0.0001", "10.0", "", "1"]
    assert [row[3:] for row in table if row[0] == "dft" and row[1] == "0.5"] == [["0.0", "", "2"]]  # equal: no interval
    figure = probability_plots.figure(pairs)
    bars, line = figure.axes[0].patches
    assert bars.get_data().values.tolist() == [10.0] + [0.0] * 7 + [80.0] + [0.0] * 3 + [10.0]
    assert line.get_data().values.tolist() == [30.0] + [0.0] * 11 + [70.0]
    assert [panel.get_title() for panel in figure.axes] == ["dft", "sft"]
    plots.save(figure, tmp_path / "probabilities")
    drawn = {name: (tmp_path / f"probabilities.{name}").read_bytes() for name in ("png", "svg")}
    assert drawn["png"].startswith(b"\x89PNG") and b"</svg>" in drawn["svg"]
    plots.save(probability_plots.figure(pairs), tmp_path / "probabilities")
    assert (tmp_path / "probabilities.svg").read_bytes() == drawn["svg"]


def test_bases_that_differ_between_seeds_are_averaged_as_the_rows_are(tmp_path):
    """Each seed of a whole repetition has its own base: 10% of 10 tokens and 30% of 20 are 20%, in table and page."""
    befores = [record({0.0: 1, 0.9: 9}, [["a", 1]], []), record({0.0: 6, 0.9: 14}, [["a", 2], ["b", 4]], [])]
    after = record({0.0: 1, 0.9: 9}, [["c", 1]], []), record({0.9: 20}, [["c", 2]], [])

    def measured(before: list[dict]) -> list[BeforeAfter]:
        for seed in range(2):
            folder = cell(tmp_path, "dft", seed, {"math500": 50.0}).folder
            write_json(folder / "probabilities.json", {"before": before[seed], "after": after[seed]})
        return probability_plots.measured_rows(tables.build(SweepConfig(name="study"), str(tmp_path)))

    pairs = measured(befores)
    text = probability_plots.to_markdown(pairs)
    assert f"| before | 20.00 ± {12.706 * 10:.2f} | `b` `a` |" in text and "over 10 to 20 answer tokens" in text
    assert probability_plots.to_csv(pairs).splitlines()[1].startswith("before,0.0,0.0001,20.0,127.0")
    assert probability_plots.figure(pairs).axes[0].patches[0].get_data().values[0] == pytest.approx(20.0)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    (change,) = report_training.probabilities(report_rows(table, cell_records(str(tmp_path))))
    assert change.below == pytest.approx((20.0, 5.0)) and change.tokens["lowest"] == [("c", 3)]
    text = probability_plots.to_markdown(measured(befores[:1] * 2))  # one base: no interval
    assert "| before | 10.00 | `a` |" in text and "over 10 answer tokens" in text


def test_cells_of_two_protocols_are_measured_in_both_rows(tmp_path):
    """Each cell is drawn once; neither of its rows lacks what was measured, and the figure is written."""
    for seed in range(2):
        folder = cell(tmp_path, "dft", seed, {"math500": 50.0}).folder
        (scores,) = (folder / "scores").iterdir()
        shutil.copytree(scores, folder / "scores/greedy-1")
        parts = {"before": record({0.5: 10}, [], []), "after": record({0.9: 10}, [], [])}
        write_json(folder / "probabilities.json", parts)
    grid = [config for config in experiment_files.declared("figure2", str(tmp_path)) if config.names.loss == "dft"]
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    measured = probability_plots.measured_rows(table)
    assert (len(table.rows), len(measured), len(measured[0].after.seeds)) == (2, 1, 2)
    said = list(notes(replace(table, grid=grid), {}, measured, []))
    assert not [note for note in said if note.startswith("No probabilities")]
    elsewhere = replace(table, grid=experiment_files.declared("figure1", str(tmp_path)))  # which does not ask for them
    assert of_measured_cells(table, measured) == [row.label for row in table.rows]
    assert shown(elsewhere, "probabilities", of_measured_cells(elsewhere, measured))
    write_tables(["study"], str(tmp_path))
    assert (tmp_path / "tables/study/probabilities.png").exists()


def test_a_token_that_is_a_part_of_a_character_keeps_its_raw_form():
    tokenizer = toy_task.tokenizer()
    assert target_text.text(tokenizer.convert_tokens_to_ids("Ġ"), tokenizer) == " "
    assert target_text.text(tokenizer.convert_tokens_to_ids("7"), tokenizer) == "7"
    tokenizer.add_tokens(["\N{REPLACEMENT CHARACTER}"])
    assert json.dumps(target_text.text(len(tokenizer) - 1, tokenizer)) == '"\\ufffd"'


def test_data_without_answers_are_refused_before_the_training(checkpoint, tmp_path):
    """GRPO reads problems and golds alone, and trains on rows of empty answers."""
    write_lines(
        tmp_path / "sums.jsonl", [{"problem": f"{i}+1=?", "solution": "", "gold": str(i + 1)} for i in range(9)]
    )
    loss = {"_target_": "losslab.objectives.online.GRPO", "max_new_tokens": 8}
    dataset = DatasetConfig(str(tmp_path / "sums.jsonl"), gold_column="gold")
    machine = MachineConfig(results=str(tmp_path), device="cpu", probabilities=8)
    config = Config(
        ModelConfig(path=str(checkpoint)), dataset, loss, machine=machine, names=Names("m", "d", "grpo", "")
    )
    config.train = TrainConfig(batch_size=8, max_length=32)
    with pytest.raises(ValueError, match="^machine.probabilities .* cannot be used.* leave machine.probabilities out$"):
        prepared(config, tmp_path / "cell")
    assert prepared(replace(config, machine=replace(machine, probabilities=None)), tmp_path / "cell")[1] is None


@pytest.mark.parametrize("broken", ["file", "template"])
def test_what_the_training_cannot_read_either_is_told_as_it_is(checkpoint, tmp_path, broken):
    """Leaving machine.probabilities out would not mend it."""
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "sums.jsonl").write_text('{"problem": "1+1=?", "solution": "2", "gold": "2"\n')
    config = Config(
        ModelConfig(path=str(tmp_path / "model")),
        DatasetConfig(str(tmp_path / "sums.jsonl"), gold_column="gold"),
        {"_target_": "losslab.objectives.online.GRPO", "max_new_tokens": 8},
        machine=MachineConfig(results=str(tmp_path), device="cpu", probabilities=8),
        names=Names("m", "d", "grpo", ""),
    )
    if broken == "template":
        write_lines(tmp_path / "sums.jsonl", [{"problem": "1+1=?", "solution": "2", "gold": "2"}] * 9)
        (tmp_path / "model/chat_template.jinja").write_text("{{ raise_exception('no user here') }}")
    sentence = {"file": "sums.jsonl:1", "template": "cannot write a prompt .no user here.: mend it"}[broken]
    with pytest.raises(ValueError, match=sentence) as told:
        prepared(config, tmp_path / "cell")
    assert "machine.probabilities" not in str(told.value)
