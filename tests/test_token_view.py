"""Examples token by token before and after training: their numbers, in the terminal, and on the page."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import data_rows, logprobs, make
from transformers import AutoModelForCausalLM

from losslab.commands import data
from losslab.config.sweep import SweepConfig
from losslab.data.examples import Examples, prepare
from losslab.data.tokenise import Tokeniser
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.models.loading import load_tokenizer
from losslab.models.policy import build
from losslab.records.reading import DamagedRecord
from losslab.records.tokens import read_examples
from losslab.report.rows import ReportCell, ReportRow
from losslab.report.token_views import token_views
from losslab.results.tables import Row, Table
from losslab.training.inference import Inference
from losslab.training.reference_logps import Reference
from losslab.training.token_view import TokenView

RECORD = {
    "of": 500,
    "examples": [
        {
            "number": 7,
            "tokens": ["1+1=?", "2", "\n", "<end>"],
            "trained": [0, 1, 1, 1],
            "before": {"p": [0.5, 0.01, 0.25], "weight": [1.0, 1.0, 1.0]},
            "after": {"p": [0.99, 0.02, 0.25], "weight": [-0.5, 2.0, 0.0]},
        }
    ],
}


@pytest.mark.parametrize("loss", ["dft", "iw_sft"])
def test_numbers_equal_the_naive_version(checkpoint, rows, tmp_path, one_rank, loss):
    config, device = make(checkpoint, rows, tmp_path, loss, micro_batch_tokens=64), torch.device("cpu")
    tokenizer = load_tokenizer(config.model)
    examples = Examples.load(prepare(Tokeniser(config.model, config.dataset, tokenizer), config.train, tmp_path))
    policy = build(config, device, reference=False)
    inference = Inference(policy, device, tokens=64)
    reference = Reference.of(config.objective, tmp_path / "reference.npy", inference, examples)
    view = TokenView(config, inference, examples, reference, tmp_path, tokenizer)
    view.measure("before")
    assert read_examples(tmp_path) == []  # of a training that has not ended
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(1.5)
    view.measure("after")
    before, after = (AutoModelForCausalLM.from_pretrained(checkpoint).double() for _ in range(2))
    found = read_examples(tmp_path)
    assert [example.number for example in found] == [1, 8, 15] and {example.of for example in found} == {22}
    with torch.no_grad():
        after.model.norm.weight.mul_(1.5)
        for example in found:
            row = data_rows(rows)[example.number - 1]
            known, logp = (logprobs(model, row)[0] for model in (before, after))
            weight = logp.exp() if loss == "dft" else (logp - known).mean().exp().clamp(0, 16).expand_as(logp)
            trained = [token for token in example.tokens if token.trained]
            assert [token.before for token in trained] == pytest.approx(known.exp().tolist(), abs=1e-4)
            assert [token.after for token in trained] == pytest.approx(logp.exp().tolist(), abs=1e-4)
            assert [token.weight for token in trained] == pytest.approx(weight.tolist(), abs=1e-4)
            assert "".join(t.text for t in trained) == row["solution"] + "<|end|>"
            assert "".join(t.text for t in example.tokens).startswith(f"<|user|>{row['problem']}<|end|>")


def test_the_terminal_names_the_tokens_that_moved_most(tmp_path, capsys):
    write_json(tmp_path / "cell.json", {})
    write_json(tmp_path / "tokens.json", RECORD)
    data.main([str(tmp_path), "by=weight"])
    lines = capsys.readouterr().out.splitlines()
    assert "example 7 of 500" in lines and "1+1=?2↵" in lines and "<end>" in lines
    assert [line.split() for line in lines[-3:]] == [
        ["0.5000", "→", "0.9900", "-0.5000", "'2'"],
        ["0.0100", "→", "0.0200", "2.0000", "'\\n'"],
        ["0.2500", "→", "0.2500", "0.0000", "'<end>'"],
    ]
    for arguments, message in (
        ([str(tmp_path), "by=size"], "by=size does not exist: set it to probability or weight"),
        ([str(tmp_path / "none")], "is not the folder of a cell"),
        ([str(tmp_path), "row=3"], "unknown option row"),
    ):
        with pytest.raises(ValueError, match=message):
            data.main(arguments)
    (tmp_path / "tokens.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokens.json: it is written when training"):
        data.main([str(tmp_path)])


def test_the_page_shades_by_probability_and_by_weight(tmp_path):
    write_json(tmp_path / "tokens.json", RECORD)
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1}])
    table = Table(SweepConfig(), [], [], [], [])
    names = {"model": "tiny", "loss": "dft", "method": None}
    row = ReportRow(Row(names, {}, None, [], "dft"), 3, [ReportCell(table, tmp_path, 0)])
    (view,) = token_views(table, [row, replace(row, cells=[])])
    (example,) = view.examples
    assert (view.label, view.style, example.title) == ("dft, seed 0", 3, "example 7 of 500")
    # Eighths of 0.99, 0.02 and 0.25, and of 0.5, 2 and 0 to the largest weight, 2.
    assert [token.classes for token in example.tokens] == ["", "p7 w2", "p0 w7", "p2 w0"]
    assert example.tokens[1].tip == "p 0.5000 → 0.9900, weight -0.5000" and example.tokens[2].text == "↵\n"


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("tokens", ["a"], "its tokens and numbers do not match"),
        ("after", {"p": [0.1], "weight": [1.0]}, "its tokens and numbers do not match"),
        ("after", {"p": [math.nan] * 3, "weight": [1.0] * 3}, "is nan, not a number"),
        ("trained", "yes", "trained is 'yes'"),
    ],
)
def test_a_damaged_record_is_a_sentence(tmp_path: Path, key, value, fault):
    write_json(tmp_path / "tokens.json", RECORD)
    content = read_json(tmp_path / "tokens.json")
    content["examples"][0][key] = value
    (tmp_path / "tokens.json").write_text(json.dumps(content))
    with pytest.raises(DamagedRecord, match=fault):
        read_examples(tmp_path)
