"""What lays a model out (ranks, recomputation, compilation, offload, adapters) must not change what is learned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from test_training import LR, MOMENTUM, STEPS, data_rows, make, sequence, trained
from torch.distributed.tensor.debug import CommDebugMode
from transformers import AutoConfig, AutoModelForCausalLM

from losslab.cells.training import prepared
from losslab.config.choices import Recompute, Sharding
from losslab.config.schema import AdapterConfig, Config, Normaliser, Precision
from losslab.data import toy_task
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.examples import Examples
from losslab.distributed.launch import launch
from losslab.files.json_files import read_json, write_json
from losslab.training import loop

LORA = AdapterConfig(rank=4, alpha=8, target_modules=["q_proj", "down_proj"])


@pytest.fixture(scope="module")
def plain(checkpoint, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return trained(make(checkpoint, rows, folder, "dft"), folder / "cell")


@pytest.mark.parametrize(
    "machine",
    [
        {"recompute": Recompute.full},
        {"recompute": Recompute.selective, "workers": 2},
        {"compile": True, "recompute": Recompute.selective, "workers": 2, "micro_batch_tokens": 64},
        {"cpu_offload": True, "workers": 2},
        {"reshard": False, "workers": 2, "micro_batch_tokens": 64},
        {"reshard": False, "workers": 4, "micro_batch_tokens": 64, "sharding": Sharding.hybrid},
        {"workers": 4, "micro_batch_tokens": 32},
        {"workers": 2, "sharding": Sharding.hybrid},
    ],
    ids=lambda machine: "-".join(map(str, machine)),
)
def test_layouts_do_not_change_the_result(checkpoint, rows, tmp_path, plain, machine):
    weights, metrics = plain
    other, again = trained(make(checkpoint, rows, tmp_path, "dft", **machine), tmp_path / "cell")
    np.testing.assert_allclose([r["loss"] for r in again], [r["loss"] for r in metrics], rtol=1e-6)
    np.testing.assert_allclose([r["gradient_norm"] for r in again], [r["gradient_norm"] for r in metrics], rtol=1e-6)
    for name, tensor in weights.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_dropout_is_off_however_a_model_is_laid_out(rows, tmp_path):
    """A Phi-3 whose configuration asks for dropout, on two ranks, and one that does not, on one."""
    own = toy_task.model_config()
    ends = {"pad_token_id": own.pad_token_id, "eos_token_id": own.eos_token_id, "bos_token_id": None}
    sizes = {"vocab_size": own.vocab_size, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    found = {}
    for share, machine in ((0.0, {}), (0.5, {"workers": 2, "recompute": Recompute.full})):
        folder = tmp_path / f"dropout-{share}"
        torch.manual_seed(0)
        config = AutoConfig.for_model("phi3", num_attention_heads=2, resid_pdrop=share, **sizes, **ends)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        toy_task.tokenizer().save_pretrained(folder)
        assert AutoConfig.from_pretrained(folder).resid_pdrop == share
        found[share], _ = trained(make(folder, rows, tmp_path, "dft", **machine), folder / "cell")
    for name, tensor in found[0.0].items():
        torch.testing.assert_close(found[0.5][name], tensor, rtol=0, atol=1e-6, msg=name)


def naive_lora(checkpoint, rows, loss: str) -> dict[str, torch.Tensor]:
    """peft's own model, merged by peft, one example at a time in float64."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    reference = AutoModelForCausalLM.from_pretrained(checkpoint).double()
    model = get_peft_model(
        model, LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=list(LORA.target_modules))
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_A" in name:
                first = torch.nn.init.kaiming_uniform_(torch.empty(parameter.shape), a=5**0.5, generator=generator)
                parameter.copy_(first)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR, momentum=MOMENTUM)
    data = data_rows(rows)
    for step in range(STEPS):
        total, count = torch.zeros((), dtype=torch.float64), 0
        for i in RandomBatchSampler(len(data), 8, 1, seed=5).batch(step):
            ids, start = sequence(data[i])
            table, known = (
                m(input_ids=ids[None]).logits[0].log_softmax(-1)[start - 1 : -1] for m in (model, reference)
            )
            logp = table[range(len(table)), ids[start:]]
            terms = -logp.detach().exp() * logp
            if loss == "asft":
                terms = terms + 0.05 * (known.detach().exp() * (known.detach() - table)).sum(-1)
            total, count = total + terms.sum(), count + len(terms)
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.5)
        for group in optimizer.param_groups:
            group["lr"] = LR * [1.0, 1.0, 0.5][step]
        optimizer.step()
    return model.merge_and_unload().state_dict()


@pytest.mark.parametrize(("loss", "workers"), [("dft", 1), ("dft", 2), ("asft", 1), ("asft", 2)])
def test_adapters_equal_those_of_peft_merged_by_peft(checkpoint, rows, tmp_path, loss, workers):
    config = replace(make(checkpoint, rows, tmp_path, loss, workers=workers), adapter=LORA)
    weights, _ = trained(config, tmp_path / "cell")
    expected = naive_lora(checkpoint, rows, loss)
    before = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    moved = {name for name in weights if not torch.equal(weights[name], before[name])}
    layers = toy_task.model_config().num_hidden_layers
    assert moved == {
        f"model.layers.{i}.{name}.weight" for i in range(layers) for name in ("self_attn.q_proj", "mlp.down_proj")
    }
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=0, atol=1e-6, msg=name)


def test_adapters_resume_bit_by_bit_from_small_checkpoints(checkpoint, rows, tmp_path):
    config = make(checkpoint, rows, tmp_path, "iw_sft", checkpoint_steps=1, keep_every=2)
    config = replace(config, adapter=LORA)
    whole, _ = trained(config, tmp_path / "cell")
    (left,) = (tmp_path / "cell/checkpoints").iterdir()
    assert left.name == "step-00000002"
    assert sum(file.stat().st_size for file in left.glob("*.safetensors")) < 1 << 18  # without the frozen weights
    (tmp_path / "cell/model").rename(tmp_path / "whole")
    resumed, metrics = trained(config, tmp_path / "cell")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_the_normaliser_of_a_step(checkpoint, rows, tmp_path):
    """Twice the normaliser is half the gradient: DFT's kept tokens are all of them, its weights sum to less."""
    config = make(checkpoint, rows, tmp_path, "dft")
    norms = {}
    for choice in (Normaliser.natural, Normaliser.kept_tokens, Normaliser.weights):
        one = replace(config, train=replace(config.train, normaliser=choice, max_steps=1))
        _, (row,) = trained(one, tmp_path / choice)
        norms[choice] = row["gradient_norm"]
    assert norms["natural"] == pytest.approx(norms["kept_tokens"])
    assert norms["weights"] * row["mean_weight"] == pytest.approx(norms["natural"], rel=1e-5)


def test_gradients_of_bfloat16_weights_are_added_up_in_float32(checkpoint, rows, tmp_path):
    """The mean over the same row 16 times, in as many micro-batches, is the gradient of that row: sums in bfloat16
    differ by over 0.3%. With a huge learning rate, the weights after a step are the gradient.
    """
    same = tmp_path / "same.jsonl"
    same.write_text(rows.read_text().splitlines(keepends=True)[0] * 16)

    def gradient(count: int, **machine) -> torch.Tensor:
        config = make(checkpoint, same, tmp_path, "sft", micro_batch_tokens=1, **machine)
        step = {"weights": Precision.bf16, "precision": Precision.bf16, "clip": 1e9, "max_steps": 1}
        optimizer = replace(config.optimizer, lr=1e6, arguments={})
        config = replace(config, train=replace(config.train, batch_size=count, **step), optimizer=optimizer)
        weights, _ = trained(config, tmp_path / "-".join(map(str, (count, *machine.values()))))
        return torch.cat([tensor.flatten() for tensor in weights.values()])

    expected = gradient(1)
    for machine in ({}, {"workers": 2, "reshard": True}, {"workers": 2, "reshard": False}):
        difference = float((gradient(16, **machine) - expected).norm() / expected.norm())
        assert difference < 2**-9, machine


def _collectives(config: Config, data: str, folder: str) -> None:
    """On a rank: write what each micro-batch of two steps gathers and reduces, by FSDP2's calls."""
    device = loop.start(config)
    trainer = loop.Trainer(config, Examples.load(Path(data)), Path(folder), Path(folder) / "reference.npy", device)
    run, counts = trainer._micro_batch, list[list[list[int]]]()

    def counted(*arguments):
        with CommDebugMode() as calls:
            out = run(*arguments)
        seen = calls.get_comm_counts()
        names = (torch.ops.c10d._allgather_base_, torch.ops.c10d._reduce_scatter_base_)
        counts[-1].append([seen[name] for name in names])
        return out

    trainer._micro_batch = counted
    with trainer.loader:
        for step in range(2):
            counts.append([])
            batch, sums = trainer.forward_backward(step)
            trainer.update(step, batch, sums.all_reduce(False))
    if dist.get_rank() == 0:
        write_json(Path(folder) / "counts.json", {"counts": counts})


@pytest.mark.parametrize("reshard", [False, True])
def test_what_a_step_of_several_micro_batches_gathers_and_reduces(checkpoint, rows, tmp_path, reshard):
    """Each decoder layer and the rest are a group. Held weights are gathered once a step, and their gradients
    reduced once; else layers are gathered for forward and for backward, and all are reduced after each micro-batch.
    """
    machine = {"workers": 2, "micro_batch_tokens": 32, "recompute": Recompute.none, "compile": False}
    config = make(checkpoint, rows, tmp_path, "dft", **machine, reshard=reshard)
    data, _ = prepared(config, tmp_path / "cell")
    launch(_collectives, config, data, str(tmp_path), machine=config.machine, logs=tmp_path / "logs")
    counts = read_json(tmp_path / "counts.json")["counts"]
    layers = toy_task.model_config().num_hidden_layers
    for step in counts:
        assert len(step) > 2
        if reshard:
            assert step == [[2 * layers + 1, layers + 1]] * len(step)
        else:
            assert step == [[layers + 1, 0], *[[0, 0]] * (len(step) - 2), [0, layers + 1]]
