"""Held-out rows: which they are, what is measured of them, and where it is shown."""

import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import data_rows, logprobs, make
from transformers import AutoModelForCausalLM

from losslab.composition.check_data import check_held_out
from losslab.config.schema import DatasetConfig
from losslab.config.sweep import SweepConfig
from losslab.data.examples import Examples, prepare
from losslab.data.held_out_rows import shared
from losslab.data.table import load
from losslab.data.tokenise import Tokeniser
from losslab.files.json_files import append_line, read_lines, write_json, write_lines
from losslab.models.loading import load_tokenizer
from losslab.models.policy import build
from losslab.objectives import Targets
from losslab.objectives.sft import SFT
from losslab.planning.plan import rows_of
from losslab.records.identity import identity
from losslab.records.record import Cell
from losslab.report import training
from losslab.report.rows import ReportCell, ReportRow
from losslab.results.tables import Row, Table
from losslab.tracking import content
from losslab.training.inference import Inference
from losslab.training.validation import Validation

SHARE = 0.25  # of 22 rows


def with_share(checkpoint: Path, rows: Path, results: Path, loss: str = "dft", **machine):
    config = make(checkpoint, rows, results, loss, **machine)
    return replace(config, dataset=replace(config.dataset, validation=SHARE))


def examples_of(config, held_out: bool) -> Examples:
    cache = Path(config.machine.results) / "cache"
    tokeniser = Tokeniser(config.model, config.dataset, load_tokenizer(config.model))
    return Examples.load(prepare(tokeniser, config.train, cache, held_out))


def test_a_share_is_taken_from_training_and_is_the_same_whatever_the_cell(checkpoint, rows, tmp_path):
    config = with_share(checkpoint, rows, tmp_path)
    trained, held_out = (load(config.dataset, part).numbers.tolist() for part in (False, True))
    assert len(held_out) == round(SHARE * 22) and sorted(trained + held_out) == list(range(1, 23))
    assert load(replace(config, seed=9).dataset, True).numbers.tolist() == held_out
    assert load(replace(config.dataset, seed=1), True).numbers.tolist() != held_out
    assert rows_of(config) == len(trained) == len(examples_of(config, False))
    few = replace(config.dataset, rows=8)
    chosen = load(replace(few, validation=None)).numbers.tolist()
    assert sorted(n for part in (False, True) for n in load(few, part).numbers.tolist()) == chosen
    with pytest.raises(ValueError, match="validation=0.25 of 1 row leaves none to train on"):
        load(replace(config.dataset, rows=1))


def test_a_share_makes_another_cell_and_a_file_does_not(checkpoint, rows, tmp_path):
    plain = make(checkpoint, rows, tmp_path, "dft")
    other = tmp_path / "other.jsonl"
    write_lines(other, data_rows(rows)[:3])
    beside = replace(plain, dataset=replace(plain.dataset, validation=str(other)))
    assert identity(beside) == identity(plain) != identity(with_share(checkpoint, rows, tmp_path))
    assert examples_of(beside, False).key == examples_of(plain, False).key
    assert len(examples_of(beside, True)) == 3


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ("nowhere.jsonl", "dataset.validation=nowhere.jsonl names no file"),
        ("embedded", "set it to a share of the rows"),
        ("ROWS", "dataset.validation and dataset.path are the same"),
    ],
)
def test_what_cannot_be_held_out_is_refused(checkpoint, rows, tmp_path, validation, message):
    config = make(checkpoint, rows, tmp_path, "dft")
    path = str(rows) if validation == "ROWS" else validation
    with pytest.raises(ValueError, match=message):
        check_held_out(replace(config, dataset=replace(config.dataset, validation=path)))
    online = replace(config, loss={"_target_": "losslab.objectives.online.GRPO"})
    with pytest.raises(ValueError, match="has no loss of held-out rows"):
        check_held_out(replace(online, dataset=replace(config.dataset, validation=0.1)))


def test_a_fault_of_the_held_out_rows_names_their_key(tmp_path):
    dataset = DatasetConfig(path="embedded", rows=4, validation=str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be read .*: check dataset.validation"):
        load(dataset, held_out=True)


def test_what_training_has_too_is_counted():
    def examples(*rows: list[int]) -> Examples:
        lengths = [len(ids) for ids in rows]
        return Examples(np.concatenate([*rows]), np.r_[0, np.cumsum(lengths)], np.full(len(rows), 2), "", {})

    trained = examples([1, 2, 3], [1, 2, 4, 5], [6, 7, 8])
    # The first is trained, so is the prompt of the second, and of the third the tokens lie otherwise.
    assert shared(trained, examples([1, 2, 3], [6, 7, 9], [3, 1, 2])) == (1, 2)


@pytest.mark.parametrize("loss", ["dft", "iw_sft", "asft", "psft", "talr", "dpo"])
def test_cross_entropy_and_loss_equal_the_naive_version(checkpoint, rows, tmp_path, one_rank, loss):
    config = with_share(checkpoint, rows, tmp_path, loss, micro_batch_tokens=64)
    held_out, device = examples_of(config, True), torch.device("cpu")
    policy = build(config, device, "reference_distribution" in config.objective.needs)
    inference = Inference(policy, device, tokens=64)
    with Validation(config, inference, held_out, tmp_path, tmp_path / "reference.npy", steps=3) as validation:
        validation.begin(0)
        with torch.no_grad():  # the model has moved
            policy.model.model.norm.weight.mul_(1.5)
        validation.measure(3)
        assert [validation.due(step) for step in (1, 2, 3)] == [True, True, True]
        validation.every = 2
        assert [validation.due(step) for step in (1, 2, 3)] == [False, True, True]
    before, after = read_lines(tmp_path / "validation.jsonl")
    model, reference = (AutoModelForCausalLM.from_pretrained(checkpoint).double() for _ in range(2))
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
        for row, network in ((before, reference), (after, model)):
            own, cross_entropy, p = naive(network, reference, [data_rows(rows)[i - 1] for i in numbers(config)], loss)
            assert row["loss"] == pytest.approx(own, rel=1e-5)
            assert row["cross_entropy"] == pytest.approx(cross_entropy, rel=1e-5)
            assert row["answer_tokens"] == len(p) == sum(row["p_histogram"])
            assert row["p_histogram"][3] == sum(0.01 <= x < 0.1 for x in p) > 0
    assert [before["step"], after["step"]] == [0, 3] and before["loss"] != after["loss"] or loss == "psft"


class OneMetric(SFT):
    metrics = ("own_p",)

    def measure(self, t: Targets) -> tuple[torch.Tensor, ...]:
        return (t.logp.exp(),)


class TwoMetrics(SFT):
    metrics = ("own_p", "own_nll")

    def measure(self, t: Targets) -> tuple[torch.Tensor, ...]:
        return (t.logp.exp(), -t.logp)


@pytest.mark.parametrize("objective", [OneMetric, TwoMetrics])
def test_an_objectives_own_metrics_are_measured(checkpoint, rows, tmp_path, one_rank, objective):
    config = with_share(checkpoint, rows, tmp_path, "sft", micro_batch_tokens=64)
    config = replace(config, loss={"_target_": f"{__name__}.{objective.__name__}"})
    inference = Inference(build(config, torch.device("cpu"), False), torch.device("cpu"), tokens=64)
    with Validation(config, inference, examples_of(config, True), tmp_path, tmp_path / "none.npy", 3) as validation:
        validation.begin(0)
    (row,) = read_lines(tmp_path / "validation.jsonl")
    network = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    _, cross_entropy, p = naive(network, network, [data_rows(rows)[i - 1] for i in numbers(config)], "sft")
    expected = {"own_p": statistics.fmean(p), "own_nll": cross_entropy}
    assert {name: row.get(name) for name in objective.metrics} == pytest.approx(
        {name: expected[name] for name in objective.metrics}, rel=1e-5
    )


def numbers(config) -> list[int]:
    return load(config.dataset, True).numbers.tolist()


def naive(model, reference, data: list[dict], loss: str) -> tuple[float, float, list[float]]:
    """Own loss, cross-entropy and probabilities, one row at a time in float64, with every formula written out."""
    terms, nll, columns = [], [], ("solution", "wrong") if loss == "dpo" else ("solution",)
    mean_nll = [-float(logprobs(model, row)[0].mean()) for row in data]
    for row in data:
        (logp, table), (known, known_table) = logprobs(model, row), logprobs(reference, row)
        p = logp.exp()
        nll += [x for column in columns for x in (-logprobs(model, row, column)[0]).tolist()]
        match loss:
            case "sft":
                terms += (-logp).tolist()
            case "dft":
                terms += (-p * logp).tolist()
            case "iw_sft":
                terms += (-(logp - known).mean().exp().clamp(0, 16) * logp).tolist()
            case "asft":
                kl = (known_table.exp() * (known_table - table)).sum(-1)
                terms += (-p * logp + 0.05 * kl).tolist()
            case "psft":  # the old policy is the one that is measured
                terms += [-1.0] * len(logp)
            case "talr":
                power = 1 / statistics.median(mean_nll)
                terms += (-torch.maximum(p**power, torch.tensor(0.01)) * logp).tolist()
            case "dpo":
                wrong, known_wrong = logprobs(model, row, "wrong")[0], logprobs(reference, row, "wrong")[0]
                margin = float((logp - known).sum() - (wrong - known_wrong).sum())
                terms.append(math.log1p(math.exp(-0.1 * margin)))
    return sum(terms) / len(terms), sum(nll) / len(nll), [math.exp(-x) for x in nll]


def test_the_page_has_held_out_rows_on_the_charts_of_training(tmp_path):
    table = Table(SweepConfig(), [], [], [], [])
    low, high = [90, *11 * [0], 10], [40, *11 * [0], 60]
    write_lines(tmp_path / "metrics.jsonl", [{"step": i, "loss": 1 / i, "p_histogram": low} for i in (1, 2)])
    held_out = [{"step": 0, "loss": 3.0, "p_histogram": low}, {"step": 2, "loss": 2.5, "p_histogram": high}]
    write_lines(tmp_path / "validation.jsonl", held_out)
    names = {"model": "tiny", "loss": "dft", "method": None}
    row = ReportRow(Row(names, {}, None, [], "dft"), 1, [ReportCell(table, tmp_path, 0)])

    def drawn(svg: str) -> list[tuple[str, ...]]:
        return re.findall(r'class="([^"]*)" data-row="1" data-label="([^"]*)" data-x="([^"]*)" data-v="([^"]*)"', svg)

    (loss,) = training.metrics([row], training.LEARNING)
    solid, dotted = "line c1 dash0", "line held c1 dash0"
    assert drawn(loss.svg) == [(solid, "dft", "1 2", "1 0.5"), (dotted, "dft, held out", "0 2", "3 2.5")]
    improbable, probable = training.ends([row])
    assert drawn(improbable.svg) == [(solid, "dft", "1 2", "90 90"), (dotted, "dft, held out", "0 2", "90 40")]
    assert drawn(probable.svg)[1] == (dotted, "dft, held out", "0 2", "10 60")
    batches, rows = training.probabilities([row])
    assert (batches.below, batches.above) == ((90.0, 90.0), (10.0, 10.0))
    assert (rows.label, rows.below, rows.above) == ("dft, held out", (90.0, 40.0), (10.0, 60.0))


def test_a_tracker_shows_a_step_with_what_was_measured_after_it(tmp_path):
    cell = Cell(tmp_path, "")
    write_json(tmp_path / "cell.json", {"names": {"loss": "dft"}})
    write_lines(cell.metrics, [{"step": i, "loss": 1 / i} for i in (1, 2)])
    write_lines(cell.validation, [{"step": 0, "loss": 3.0, "p_histogram": [1, 2]}])

    def shown(after: int = -1) -> dict[int, dict]:
        return {
            entry.number: entry.values for entry in content.entries(cell, tmp_path / "none", ["tiny_add"], True, after)
        }

    first = {0: {"train/step": 0, "validation/loss": 3.0}, 1: {"train/step": 1, "train/loss": 1.0}}
    assert shown() == first  # the rows may be measured after step 2, which waits
    (begin, _) = content.entries(cell, tmp_path / "none", ["tiny_add"], True)
    assert begin.histograms["validation/p"][0] == [1, 2]
    append_line(cell.validation, {"step": 2, "loss": 2.5})
    assert shown() == first
    (cell.model).mkdir()
    last = {2: {"train/step": 2, "train/loss": 0.5, "validation/loss": 2.5}}
    assert {number: values for number, values in shown(1).items() if number == 2} == last
