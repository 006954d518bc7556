"""The probe: its numbers against a full softmax, its intervals by hand, and what records say of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from test_conclusion import scored
from test_training import data_rows, logprobs, make
from transformers import AutoModelForCausalLM

from losslab.cells import probe as cell_probe
from losslab.cells.sampling import sample
from losslab.config.schema import ModelConfig, Names, Precision
from losslab.data import toy_task
from losslab.data.batches import Shard
from losslab.data.examples import Examples, prepare
from losslab.data.probability_bins import EDGES
from losslab.data.tokenise import Tokeniser
from losslab.files.json_files import read_json, write_json
from losslab.models.loading import load_tokenizer
from losslab.results import probe_neighbours
from losslab.results.probe_neighbours import Known, Setting, known, place, place_of, sentence
from losslab.statistics.intervals import Estimate, over_clusters, student
from losslab.training import loop, probe, target_probabilities

ASKED = 17  # of 22 rows


def test_the_numbers_are_those_of_a_full_softmax(one_rank, checkpoint, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "start", lambda config: torch.device("cpu"))  # the process group is there
    config = make(checkpoint, rows, tmp_path, "sft", probabilities=ASKED, micro_batch_tokens=64)
    data = prepare(Tokeniser(config.model, config.dataset, load_tokenizer(config.model)), config.train, tmp_path)
    probe.measure(config, str(data), str(tmp_path / "probe.json"))
    found = read_json(tmp_path / "probe.json")
    network, lines = AutoModelForCausalLM.from_pretrained(checkpoint).double(), []
    for i in sorted(np.random.default_rng(0).permutation(22)[:ASKED]):
        with torch.no_grad():
            logp, table = logprobs(network, data_rows(rows)[i])
        p = logp.exp().numpy()
        entropy = -(table.exp() * table).sum(-1).numpy()
        lines.append([len(p), p.sum(), (p < 0.1).sum(), (p > 0.9).sum(), entropy.sum(), p[-1]])
    sums = np.array(lines).T
    assert (found["examples"], found["tokens"]) == (ASKED, sums[0].sum())
    for name, values in zip(("p", "below", "above", "entropy"), sums[1:5], strict=True):
        assert found[name][0] == pytest.approx(values.sum() / sums[0].sum(), abs=1e-5), name
    assert found["end"][0] == pytest.approx(sums[5].mean(), rel=1e-4)
    assert found["p"][1] == pytest.approx(over_clusters(sums[1], sums[0]).half, rel=1e-3)
    said = cell_probe.lines(config, found, [])
    assert f"{ASKED} demonstrations, {found['tokens']:,} answer tokens" in said[0]
    assert f"{found['p'][0]:.3f} ± {found['p'][1]:.3f}" in said[1]


def test_each_source_has_numbers_of_its_own(one_rank, checkpoint, rows, tmp_path, monkeypatch):
    """A source with fewer than ten examples has no line, and its examples are in the whole alone."""
    monkeypatch.setattr(loop, "start", lambda config: torch.device("cpu"))
    names = ["amc"] * 10 + ["olympiads"] * 11 + ["rare"]
    lines = [
        json.loads(line) | {"source": name} for line, name in zip(rows.read_text().splitlines(), names, strict=True)
    ]
    order = np.random.default_rng(1).permutation(22)  # so that the place of an example is not that of its row
    broken = [{"problem": "1+1=?", "solution": None, "source": "amc"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [*broken, *(lines[i] for i in order)]))
    config = make(checkpoint, file, tmp_path, "sft", probabilities=100, micro_batch_tokens=64)
    config.dataset.max_broken = 0.1
    data = prepare(Tokeniser(config.model, config.dataset, load_tokenizer(config.model)), config.train, tmp_path)
    probe.measure(config, str(data), str(tmp_path / "probe.json"))
    found = read_json(tmp_path / "probe.json")
    assert list(found["sources"]) == ["amc", "olympiads"] and found["examples"] == 22
    network = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    for name, chosen in (("amc", range(10)), ("olympiads", range(10, 21))):
        with torch.no_grad():
            p = np.concatenate([logprobs(network, data_rows(rows)[i])[0].exp().numpy() for i in chosen])
        part = found["sources"][name]
        assert (part["examples"], part["tokens"]) == (len(chosen), len(p))
        assert part["p"][0] == pytest.approx(p.mean(), abs=1e-5)
    said = cell_probe.lines(config, found, [])
    assert said[6] == "of each source with 10 demonstrations or more:" and said[7].startswith("  amc (10): mean p 0.")
    found["sources"].pop("amc")
    assert "of each source" not in " ".join(cell_probe.lines(config, found, []))  # of one source it is the whole


def test_a_rank_that_has_no_example_of_a_batch_measures_the_others(one_rank, checkpoint, rows, tmp_path, monkeypatch):
    """Of 17 examples in batches of 16 the last is one, which goes to one of the two ranks."""
    monkeypatch.setattr(loop, "start", lambda config: torch.device("cpu"))
    monkeypatch.setattr(probe, "BATCH", 16)
    config = make(checkpoint, rows, tmp_path, "sft", probabilities=ASKED, micro_batch_tokens=4096)
    data = prepare(Tokeniser(config.model, config.dataset, load_tokenizer(config.model)), config.train, tmp_path)
    tokens = []
    for share in (Shard(0, 1), Shard(0, 2), Shard(1, 2)):
        monkeypatch.setattr(Shard, "own", lambda share=share: share)
        probe.measure(config, str(data), str(tmp_path / "probe.json"))
        tokens.append(read_json(tmp_path / "probe.json")["tokens"])
    whole, first, second = tokens
    assert whole == first + second and min(first, second) > 0


@pytest.mark.parametrize("measured", [probe, target_probabilities])
def test_demonstrations_with_images_are_read(one_rank, tmp_path, monkeypatch, measured):
    monkeypatch.setattr(loop, "start", lambda config: torch.device("cpu"))
    model = pictures.write_checkpoint("llava", tmp_path / "model")
    rows = pictures.write_rows(tmp_path / "data")
    config = make(model, rows, tmp_path, "sft", probabilities=4, micro_batch_tokens=4096)
    data = Examples.load(Path(examples := target_probabilities.examples_of_base(config, config.model)))
    assert data.images is not None
    measured.measure(config, examples, str(tmp_path / "found.json"))
    chosen = target_probabilities.sample(data, 4)
    assert read_json(tmp_path / "found.json")["tokens"] == data.answers[chosen].sum() > 0


def test_the_interval_of_a_ratio_by_hand():
    """Clusters of 1 and 3 with the sums 1 and 1: the mean is 0.5, and the residuals are 0.25 and -0.25."""
    estimate = over_clusters(np.array([1.0, 1.0]), np.array([1.0, 3.0]))
    assert estimate.mean == 0.5
    assert estimate.half == pytest.approx(student(1) * 0.25, rel=1e-6)  # their standard error
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        counts = rng.integers(5, 40, 100)
        chances = rng.beta(3, 1, 100)  # of a cluster's numbers, so that they depend on each other
        held += over_clusters(rng.binomial(counts, chances).astype(float), counts.astype(float)).contains(0.75)
    assert 0.92 < held / 400 < 0.98


def test_the_place_of_a_histogram():
    counts = [0] * (len(EDGES) - 1)
    counts[0], counts[3], counts[4], counts[-1] = 1, 2, 3, 4  # below 1e-4, from 0.01, from 0.1, from 0.9 on
    assert place_of(EDGES, counts) == (0.3, 0.4)


def records(outcomes: dict[tuple[float, float], float]) -> list[Known]:
    return [
        Known(f"sweep {i}", "dft", f"data {i}", at, Estimate(mean, 1.0))
        for i, (at, mean) in enumerate(outcomes.items())
    ]


SURE = {(0.02 + i / 200, 0.9 - i / 200): 10.0 for i in range(4)}  # where dft is ahead
UNSURE = {(0.7 + i / 200, 0.1 + i / 200): -10.0 for i in range(4)}  # where it is behind


def test_records_that_agree_speak_and_say_how_often_they_were_right():
    found = place("dft", (0.03, 0.89), records(SURE | UNSURE))
    assert (found.outcome, found.settings, found.answered, found.right) == ("better", 8, 8, 8)
    assert sentence(found) == (
        "dft: better than sft in the 3 nearest settings (sweep 2, sweep 1, sweep 3); of the 8 settings, left out one "
        "by one, the others named the outcome of 8, and 8 of these rightly."
    )
    assert place("dft", (0.7, 0.1), records(SURE | UNSURE)).outcome == "worse"
    tied = dict.fromkeys(SURE, 0.5)
    assert "not told apart from sft" in sentence(place("dft", (0.03, 0.89), records(tied | UNSURE)))


def test_it_abstains_where_records_are_few_far_or_of_two_minds():
    assert sentence(place("dft", (0.03, 0.89), records(SURE)[:3])) == (
        "dft against sft: no answer, since 3 settings have it beside SFT, and a placement takes 4."
    )
    far = place("dft", (0.4, 0.5), records(SURE | UNSURE))
    assert far.outcome is None and "further from the nearest settings than these from theirs" in sentence(far)
    mixed = {at: 10.0 * (-1) ** i for i, at in enumerate(SURE)}
    torn = place("dft", (0.03, 0.89), records(mixed))
    assert torn.outcome is None and "its nearest settings disagree (" in sentence(torn)
    rng, wrong, said = np.random.default_rng(0), 0, 0
    for _ in range(40):  # outcomes that have nothing to do with the place
        drawn = {(float(a), float(b)): float(rng.choice([-10, 0.5, 10])) for a, b in rng.uniform(0, 0.5, (12, 2))}
        answer = place("dft", (0.25, 0.25), records(drawn))
        said += answer.outcome is not None
        wrong += answer.answered > 3 and answer.right == answer.answered
    assert said < 14 and wrong < 3  # it seldom speaks, and its hit rate does not speak for it


def test_copies_of_a_setting_are_one_vote():
    """Seven rates on the same demonstrations, and one record far away, say nothing of a probe between them.

    Nor do these where each sweep has measured another number of the demonstrations.
    """
    places = [(0.02 + i / 1000, 0.88) for i in range(7)]
    copies = [Known("rates", "dft", "same", at, Estimate(15.0 + i, 1.0)) for i, at in enumerate(places)]
    assert Setting(copies).place == pytest.approx((0.023, 0.88))
    far = Known("facts", "dft", "facts", (0.9, 0.02), Estimate(-70.0, 1.0))
    found = place("dft", (0.5, 0.5), [*copies, far])
    assert (found.settings, found.outcome) == (2, None) and "2 settings have it beside SFT" in sentence(found)
    # A rate that is worse there: its setting is of two minds.
    torn = [*copies, Known("rates", "dft", "same", (0.02, 0.88), Estimate(-5.0, 1.0)), *records(UNSURE)]
    assert "disagree (mixed, worse, worse)" in sentence(place("dft", (0.3, 0.5), torn))


def test_records_are_found_beside_sft_with_the_probabilities_of_the_base(tmp_path):
    counts = [0] * (len(EDGES) - 1)
    counts[0], counts[-1] = 1, 3
    histogram = {"edges": list(EDGES), "counts": counts, "tokens": 4, "lowest": [], "highest": []}
    assert known(str(tmp_path)) == []
    for seed in range(2):
        scored(tmp_path, "sft", seed, [0, 1, 2, 1, 0])
        scored(tmp_path, "dft", seed, [2, 3, 4, 3, 2])
    assert known(str(tmp_path)) == []  # nothing was measured
    for folder in Path(tmp_path / "cells").glob("*sft*"):
        write_json(folder / "probabilities.json", {"before": histogram, "after": histogram})
    (found,) = known(str(tmp_path))
    assert (found.sweep, found.objective, found.place) == ("study", "dft", (0.25, 0.75))
    assert (found.difference.mean, found.outcome) == (50.0, "better")
    assert probe_neighbours.folder("results").name == "probes"
    for seed in range(3):  # another sweep has other rates and one more seed, and measured fewer demonstrations
        for loss, right in (("sft", [0, 1, 2, 1, 0]), ("dft", [2, 3, 4, 3, 2])):
            for lr in (1e-3, 1e-4):
                scored(tmp_path, loss, seed, right, lr=lr, sweep="rates")
    for folder in Path(tmp_path / "cells").glob("*sft*"):
        if not (folder / "probabilities.json").exists():
            write_json(
                folder / "probabilities.json", {"before": histogram | {"counts": counts[:-1] + [4]}, "after": histogram}
            )
    found = known(str(tmp_path))
    assert [record.sweep for record in found] == ["rates", "rates"] and len({record.setting for record in found}) == 1
    assert found[0].place != found[1].place


def test_what_decides_a_probe_decides_its_file_and_one_process_makes_it(rows, tmp_path, monkeypatch, capsys):
    """Models of two owners, parts of a data set, and other numbers, lengths or precisions are not written over."""
    facts = dict.fromkeys(("p", "below", "above", "entropy", "end"), [0.5, 0.1]) | {
        "examples": 17,
        "tokens": 99,
        "sources": {},
    }
    sizes = []
    monkeypatch.setattr(cell_probe, "sized", lambda config, tokens: sizes.append(tokens) or config)
    monkeypatch.setattr(cell_probe, "base_model", lambda config: config.model)
    monkeypatch.setattr(probe, "launch_without", lambda file, *_, **__: write_json(file, facts))
    monkeypatch.setattr(target_probabilities, "load_tokenizer", lambda model: toy_task.tokenizer())
    monkeypatch.setattr(target_probabilities, "image_inputs", lambda model: None)
    config = make("org1/x", rows, tmp_path, "sft")
    config = replace(config, names=Names(model="x", dataset="rows", loss="sft", eval=""))
    others = [
        replace(config, model=ModelConfig(path="org2/x")),
        replace(config, dataset=replace(config.dataset, keep={"problem": "1"})),
        replace(config, machine=replace(config.machine, probabilities=100)),
        replace(config, train=replace(config.train, max_length=512)),
        replace(config, train=replace(config.train, precision=Precision.bf16)),
    ]
    for asked in (config, config, *others):
        cell_probe.run(asked)
    made = [read_json(file) for file in probe_neighbours.folder(str(tmp_path)).glob("x-rows-*.json")]
    assert sorted(about["model"] for about in made) == 5 * ["org1/x"] + ["org2/x"]
    lengths = [config.train.max_length] * 5 + [512, config.train.max_length]
    assert sizes == [length * (100 if i == 4 else cell_probe.EXAMPLES) for i, length in enumerate(lengths)]
    capsys.readouterr()
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for command, run in (("losslab probe", cell_probe.run), ("losslab sample", sample)):
        with pytest.raises(ValueError, match=f"^{command} starts workers of its own: run it as one process"):
            run(config)
    assert capsys.readouterr().out == ""
