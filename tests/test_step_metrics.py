"""The numbers of a step by hand: a step of two micro-batches, eight answer tokens in all."""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from losslab.config.schema import Config, Normaliser
from losslab.data.batches import Batch
from losslab.data.packing import Packing
from losslab.training import step_log, step_metrics
from losslab.training.step_log import StepLog, StepResult
from losslab.training.step_metrics import StepSums

EOS = 9


def measure(
    loss: float, terms: int, p: list[float], weight: list[float], entropy: list[float], targets: list[int]
) -> StepSums:
    none = torch.zeros(0, dtype=torch.int64)
    batch = Batch(none, none, Packing.of([1]), none, torch.tensor(targets, dtype=torch.int64), none)
    out = {"loss": torch.tensor(loss), "terms": torch.zeros(terms), "logp": torch.tensor(p).log()}
    out |= {"weight": torch.tensor(weight), "entropy": torch.tensor(entropy)}
    out |= {"metrics": torch.tensor([p, weight])}
    return step_metrics.measure(out, batch, EOS)


@pytest.fixture
def step() -> StepSums:
    sums = StepSums.zeros(torch.device("cpu"), 2)
    sums += measure(4.0, 3, [0.00005, 0.0005, 0.005, 0.055, 0.25], [0, 0, 0, 1, 2], [1, 1, 0, 0, 0.5], [1, 2, 3, 4, 5])
    sums += measure(2.0, 1, [0.555, 0.955, 1.0], [2, 0.5, 0.5], [0.5, 0.5, 0.5], [EOS, 6, EOS])
    sums += measure(0.0, 0, [], [], [], [])  # of a rank without work
    return sums


def test_a_step_by_hand(step):
    count = step_metrics.normaliser(step, Normaliser.natural)
    assert step_metrics.report(step, count, ("own_p", "own_weight")) == {
        "loss": 6 / 4,
        "cross_entropy": pytest.approx(3.4655318, rel=1e-6),  # 27.7242544 / 8
        "mean_weight": 6 / 8,
        "effective_fraction": 36 / 9.5 / 8,  # (sum of weights)^2 / sum of squares, as a share of the tokens
        "entropy": 4 / 8,
        "eos_p": pytest.approx((0.555 + 1) / 2, rel=1e-6),
        "p10": 0.0001,  # the upper edge of the bin where the first 0.8 tokens end, which holds 0.00005
        "p50": 0.06,  # four tokens: 0.055
        "p90": 1.0,  # 7.2 tokens: the last one
        #              below 1e-4, 1e-3, 0.01, 0.1, and tenths from 0.1 to 1
        "p_histogram": [1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 2],
        "answer_tokens": 8,
        "own_p": pytest.approx(2.82055 / 8, rel=1e-6),
        "own_weight": 6 / 8,
    }
    assert len(step_metrics.EDGES) == 14


@pytest.mark.parametrize(
    ("choice", "expected"), [("natural", 4), ("answer_tokens", 8), ("kept_tokens", 5), ("weights", 6)]
)
def test_what_a_step_is_divided_by(step, choice, expected):
    assert step_metrics.normaliser(step, Normaliser(choice)) == expected
    assert step_metrics.report(step, expected, ("a", "b"))["loss"] == 6 / expected


def test_a_step_that_keeps_nothing_is_divided_by_one():
    sums = measure(0.0, 2, [0.5, 0.25], [0, 0], [0, 0], [1, 2])
    assert (
        step_metrics.normaliser(sums, Normaliser.kept_tokens) == step_metrics.normaliser(sums, Normaliser.weights) == 1
    )
    row = step_metrics.report(sums, 1.0, ("a", "b"))
    assert (row["loss"], row["mean_weight"], row["effective_fraction"], row["eos_p"]) == (0, 0, 0, 0)


def test_the_fields_travel_together_and_one_request_to_stop_is_seen(step, one_rank):
    assert step.stop == 0
    assert step.all_reduce(asked=False).stop == 0
    summed = step.all_reduce(asked=True)
    assert summed.stop == 1
    for field in fields(step):
        if field.name != "stop":
            assert torch.equal(getattr(summed, field.name), getattr(step, field.name)), field.name


@pytest.mark.parametrize("lag", [0, 1])
def test_the_time_of_a_checkpoint_is_in_the_row_of_the_step_after_it(monkeypatch, lag):
    """Also where a row is read a step later, as on a GPU; the time of a validation is in no row."""
    now, rows = [0.0], []
    monkeypatch.setattr(step_log, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    speed = SimpleNamespace(
        device=torch.device("cpu"),
        measure=lambda lengths, answers, seconds: {"seconds": seconds, "tokens_per_second": 1},
    )
    config = Config(loss={"_target_": "losslab.objectives.sft.SFT"})
    log = StepLog(config, SimpleNamespace(lengths=np.ones(1)), speed, lambda row, note: rows.append(row))  # type: ignore[arg-type]
    log.lag, cpu = lag, torch.device("cpu")
    batch = SimpleNamespace(examples=np.array([0]), micro_batches=[None], tokens=1, waited=0.0)
    for step in range(4):
        now[0] += 2.0
        log.add(StepResult.of(step, batch, StepSums.zeros(cpu), torch.tensor(1.0), 0.1, False))  # type: ignore[arg-type]
        if step == 1:
            log.flush()
            with log.pause():
                now[0] += 100.0
        with log.pause(checkpoint=True):
            now[0] += 5.0 if step == 1 else 0.0
    log.flush()
    assert [row["checkpoint_seconds"] for row in rows] == [0.0, 0.0, 5.0, 0.0]
    assert sum(row["seconds"] for row in rows) == 8.0
