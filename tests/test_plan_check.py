"""`plan check=true`, and the check of padding that online training begins with."""

import re
from dataclasses import replace

import pytest
import tiny_models
import torch
from peft import LoraConfig, get_peft_model
from test_training import make
from transformers import AutoModelForCausalLM

from losslab.cells import plan_check
from losslab.composition.checks import check
from losslab.config.schema import BenchmarkConfig, Names, ReferenceConfig
from losslab.files.json_files import write_lines
from losslab.online import padding_check

PROMPTS = [[3, 4, 5], [*range(7, 21)]]


def test_each_model_and_data_set_of_a_sweep_is_checked_once(checkpoint, rows, tmp_path, capsys):
    write_lines(tmp_path / "empty.jsonl", [{"problem": "1+1=?", "solution": ""}])
    config = replace(make(checkpoint, rows, tmp_path, "dft"), names=Names("tiny", "rows", "dft", ""))
    seeds = [replace(config, seed=seed) for seed in (1, 2)]
    broken = replace(config.dataset, path=str(tmp_path / "empty.jsonl"))
    other = replace(config, dataset=broken, names=Names("tiny", "empty", "dft", ""))
    assert plan_check.show([*seeds, other]) == 1
    good, bad = (line for line in capsys.readouterr().out.splitlines() if line.startswith("check of "))
    assert good.startswith("check of tiny on rows: exact, packed; log-probabilities differ by ")
    assert bad.startswith(f"check of tiny on empty: refused: 1 of 1 rows of {broken.path} cannot be used")
    assert not list(tmp_path.glob("cells/*"))


def test_the_reference_may_be_an_adapter_and_seeds_that_of_the_cell(checkpoint, rows, tmp_path, capsys):
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), lora).save_pretrained(tmp_path / "lora")
    config = replace(make(checkpoint, rows, tmp_path, "asft"), names=Names("tiny", "rows", "asft", ""))
    config.dataset, config.model = replace(config.dataset, seed=None), replace(config.model, pretrain_seed=None)
    good = replace(config, reference=ReferenceConfig(path=str(tmp_path / "lora")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "none of this name"}')
    bad = replace(config, reference=ReferenceConfig(path=str(tmp_path / "other")))
    assert plan_check.show([bad, good]) == 1  # cells that differ in the reference alone
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("check of "))
    assert re.search(rf"refused: .*reference\.path={tmp_path}/other", first) and ": exact, packed" in second


def test_a_check_without_a_plan_is_refused(checkpoint, rows, tmp_path):
    config = make(checkpoint, rows, tmp_path, "dft")
    config.benchmark = {"tiny_add": BenchmarkConfig(path="embedded")}
    with pytest.raises(ValueError, match="check=true is for a plan"):
        check(replace(config, check=True))
    check(replace(config, check=True, plan=True))


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "jamba", "lfm2"])
def test_padding_changes_nothing_of_models_that_leave_it_out(family):
    result = padding_check.check(tiny_models.make(family).eval(), PROMPTS)
    assert result.tokens == 17 and result.logp < 1e-6


@pytest.mark.parametrize("family", ["gpt2", "recurrent_gemma"])  # learned positions; a recurrence
def test_a_model_that_padding_changes_is_refused(family):
    model = tiny_models.make(family).eval()
    with pytest.raises(ValueError, match="cannot be trained online exactly: padded on the left"):
        padding_check.check(model, PROMPTS)
    equal = padding_check.check(model, [PROMPTS[0], PROMPTS[0]])  # and one without padding is not
    assert equal.logp < 1e-6
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="differ by nan"):
        padding_check.check(model, PROMPTS)


def test_long_prompts_are_padded_too(monkeypatch):
    """Each letter is a token, and a number is one: the shortest prompt has the most characters."""

    def tokenizer(texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[3 + ord(part[0]) % 90 for part in re.findall(r"\d+|\D", text)] for text in texts]}

    monkeypatch.setitem(tiny_models.SPECIAL, "gpt2", {"n_positions": 1024})
    model = tiny_models.make("gpt2").eval()
    pair = padding_check.two_prompts(["abc" * 300, "ab" * 300 + "1" * 999, "xy" * 350], tokenizer)
    assert [len(ids) for ids in pair] == [256, 512] and pair[0][-1] == 3 + ord("1")
    with pytest.raises(ValueError, match="cannot be trained online exactly: padded on the left"):
        padding_check.check(model, pair)
    assert [len(ids) for ids in padding_check.two_prompts(["ab" * 300] * 2, tokenizer)] == [512, 512]
