"""What a step on a GPU rests on: on a GPU where there is one, else the same code on the CPU as far as it goes."""

import collections
import json
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import library, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from losslab.config.choices import Recompute
from losslab.config.machine import MachineConfig
from losslab.config.schema import AdapterConfig, Config, ModelConfig, OptimizerConfig, Precision, TrainConfig
from losslab.data.batches import Shard, collate
from losslab.data.examples import Examples
from losslab.data.loader import KnownExamples, Loader, MicroBatchSize
from losslab.data.packing import Packing
from losslab.files.json_files import read_lines, write_json
from losslab.models import attention, fused_loss, layout, lora
from losslab.models.attention import packed_attention
from losslab.models.compute_weights import ComputeWeights
from losslab.models.policy import Policy
from losslab.objectives.dft import DFT
from losslab.training import loop
from losslab.training.loop import Trainer
from losslab.training.optimizer import Gradients
from losslab.training.step_log import StepLog
from losslab.training.throughput import Speed

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
# Operators for which the host waits. `lift_fresh` makes a tensor of Python numbers, which a list as an index becomes
# too; tensors of numpy arrays, which are copied without waiting, are not counted.
WAITS = ("lift_fresh", "_local_scalar_dense", "nonzero", "_unique2", "bincount", "equal", "is_nonzero")


# Methods that a CPU carries out without an operator.
READS = ("cpu", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "item")


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("width", [64, 128, 256])
def test_packed_attention_is_that_of_each_sequence_alone(width):
    """bfloat16 on a GPU, where a rounding is 0.4% and errors of a few of them remain; exact on a CPU."""
    lengths, dtype = ([1, 7, 512, 130, 333], torch.bfloat16) if CUDA else ([1, 7, 12, 3, 33], torch.float64)
    packing = Packing.of(lengths)
    packing = replace(packing, boundaries=packing.boundaries.to(DEVICE))
    torch.manual_seed(0)
    inputs = [torch.randn(1, heads, sum(lengths), width, device=DEVICE, dtype=dtype) for heads in (12, 2, 2)]
    inputs = [x.requires_grad_() for x in inputs]
    out = packed_attention(nn.Module(), *inputs, None, packing, scaling=width**-0.5)[0]
    gradient = torch.randn_like(out)
    gradients = torch.autograd.grad(out, inputs, gradient)

    exact = [x.detach().double().requires_grad_() for x in inputs]
    rows, start = [], 0
    for length in lengths:
        q, k, v = (x[:, :, start : start + length] for x in exact)
        alone = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=width**-0.5, enable_gqa=True)
        rows.append(alone.transpose(1, 2))
        start += length
    expected = torch.cat(rows, 1)
    bound = 1e-2 if CUDA else 1e-12
    assert relative(out, expected) < bound
    for value, right in zip(gradients, torch.autograd.grad(expected, exact, gradient.double()), strict=True):
        assert relative(value, right) < bound


@library.custom_op("losslab::varlen_attention_of_the_cpu", mutates_args=())
def _varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, longest: int) -> torch.Tensor:
    """In place of attention q + k + v, with a head of keys and values for several of queries."""
    assert longest == ends.diff().max()
    return q + (k + v).repeat_interleave(q.shape[1] // k.shape[1], dim=1)


@_varlen.register_fake
def _(q, k, v, ends, longest):
    return torch.empty_like(q)


def _backward(ctx, gradient):
    shared = gradient.unflatten(1, (ctx.heads, -1)).sum(2)
    return gradient.clone(), shared, shared.clone(), None, None


def _setup(ctx, inputs, output):
    ctx.heads = inputs[1].shape[1]


_varlen.register_autograd(_backward, setup_context=_setup)


@pytest.fixture
def flash(monkeypatch):
    """The path of a GPU, whose kernel a CPU does not have: an operator of its shape stands for it."""
    if not CUDA:

        def operator(q, k, v, ends, _, longest, *rest, **options):
            return _varlen(q, k, v, ends, longest)

        monkeypatch.setattr(attention, "varlen_attn", operator)
        monkeypatch.setattr(attention, "_kind", lambda *_: attention.by_lengths)
    monkeypatch.setattr(layout, "sharded", lambda *_: False)
    monkeypatch.setattr(attention, "RAN", set())
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("family", [Qwen2Config, LlamaConfig])
@pytest.mark.parametrize("recompute", [Recompute.none, Recompute.selective])
def test_one_graph_serves_all_layers_and_all_packings(flash, family, recompute):
    config = family(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
                    num_key_value_heads=2)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention.NAME)
    policy = Policy(model.to(DEVICE), Precision.bf16, torch.bfloat16, AdapterConfig())
    machine = MachineConfig(compile=True, recompute=recompute)
    layout.lay_out(policy, [model.base_model.layers], Config(machine=machine), DEVICE, backend="aot_eager")
    with torch.no_grad():
        for lengths in ([5, 3, 3], [10, 5, 7, 8], [13, 20], [6] * 9, [40], [3, 4]):
            packing = Packing.of(lengths)
            tokens = torch.zeros(1, sum(lengths), dtype=torch.int64, device=DEVICE)
            packing = replace(packing, boundaries=packing.boundaries.to(DEVICE))
            model.base_model(input_ids=tokens, position_ids=tokens, packing=packing, use_cache=False)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    if not CUDA:
        assert attention.kernels_of(model) == "varlen_attn"  # as it was compiled


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "scaled_dot_product_attention by runs"),
        ({"softcap": 5.0}, "FlexAttention" if CUDA else "all scores by runs"),
    ],
)
def test_the_attention_that_ran_is_known(monkeypatch, options, name):
    monkeypatch.setattr(attention, "RAN", set())
    monkeypatch.setattr(attention, "BEFORE", set())
    model = small()
    assert attention.kernels_of(model) == attention.NAME  # nothing yet
    inputs = [torch.randn(1, 2, 5, 16, device=DEVICE) for _ in range(3)]
    packing = Packing.of([3, 2])
    packing = replace(packing, boundaries=packing.boundaries.to(DEVICE))
    packed_attention(nn.Module(), *inputs, None, packing, **options)
    assert attention.kernels_of(model) == name
    attention.forget()
    attention.forget()  # as by the checks of two cells of one process, of which the second reuses what is compiled
    assert attention.kernels_of(model) == name
    model.set_attn_implementation("sdpa")
    assert attention.kernels_of(model) == "sdpa"


@pytest.fixture
def examples() -> Examples:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 20, 16)
    tokens = rng.integers(3, 50, lengths.sum()).astype(np.int32)
    return Examples(tokens, np.r_[0, lengths.cumsum()], np.full(16, 3), "", {})


def small(**changes) -> AutoModelForCausalLM:
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(Qwen2Config(**shape | changes), attn_implementation=attention.NAME)


@pytest.mark.parametrize("recompute", [Recompute.none, Recompute.selective])
def test_a_frozen_embedding_makes_no_second_graph(flash, examples, recompute):
    """The first layer's input needs no gradient of its own; losses and gradients are those without compilation."""
    adapters, losses, gradients = AdapterConfig(rank=4, target_modules=[lora.ALL]), [], []
    for compiled in (False, True):
        model = small(num_hidden_layers=3)
        lora.insert(model, adapters)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data.normal_(0, 0.1, generator=generator)
        policy = Policy(model.to(DEVICE), Precision.bf16 if CUDA else Precision.fp32, torch.float32, adapters)
        machine = MachineConfig(compile=compiled, recompute=recompute)
        layout.lay_out(policy, [model.base_model.layers], Config(machine=machine), DEVICE, backend="aot_eager")
        found = [policy(collate(examples, np.arange(*rows)).to(DEVICE), DFT(), {})["loss"] for rows in ((8,), (8, 16))]
        sum(found).backward()
        losses.append(torch.stack(found).detach())
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trained]))
        assert all(".lora_" in name for name, p in policy.named_parameters() if p.grad is not None)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert gradients[0].norm() > 0.1
    bound = 2e-2 if CUDA else 1e-6
    torch.testing.assert_close(losses[1], losses[0], rtol=bound, atol=0)
    assert relative(gradients[1], gradients[0]) < bound


def test_copies_of_the_weights_give_the_gradients_of_a_model_in_their_dtype(examples):
    """Two micro-batches: the float32 gradients are the sums of those of a bfloat16 model, and the masters stay."""
    policies = []
    for dtype in (torch.float32, torch.bfloat16):
        model = small().to(DEVICE, dtype)
        model.base_model.rotary_emb.inv_freq = small().base_model.rotary_emb.inv_freq.to(DEVICE)
        policies.append(Policy(model, Precision.bf16, torch.float32, AdapterConfig()))
    policy, low = policies
    policy.compute_weights = ComputeWeights(policy, torch.bfloat16)
    masters = dict(policy.named_parameters())
    sums = {name: torch.zeros_like(value) for name, value in masters.items()}
    for group in (np.arange(8), np.arange(8, 16)):
        batch = collate(examples, group).to(DEVICE)
        loss, expected = (p(batch, DFT(), {})["loss"] for p in policies)
        assert loss == expected
        loss.backward(), expected.backward()
        for name, parameter in low.named_parameters():
            sums[name] += parameter.grad
            parameter.grad = None
    assert all(p.dtype == torch.bfloat16 for p in policy.parameters())
    policy.end_backward()
    after = dict(policy.named_parameters())
    assert all(after[name] is master for name, master in masters.items()) and len(after) == len(masters)
    assert policy.model.lm_head.weight is policy.model.base_model.embed_tokens.weight
    for name, master in masters.items():
        assert master.grad is not None and torch.equal(master.grad, sums[name]), name

    with torch.no_grad():  # an update reaches the copies
        for master in masters.values():
            master.zero_()
    logp = policy.target_logp(collate(examples, np.arange(4)).to(DEVICE))
    torch.testing.assert_close(logp, torch.full_like(logp, -np.log(50)))
    assert all(p.dtype == torch.float32 for p in policy.parameters())


class Reads(TorchFunctionMode):
    """Counts the methods of tensors that read values of the host's without an operator, and would wait for a GPU's."""

    def __init__(self, seen: collections.Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in READS and isinstance(args[0], torch.Tensor):
            self.seen[name] += 1
        return function(*args, **kwargs or {})


class Waits(TorchDispatchMode):
    """Counts the operators and methods that give the host a value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()
        self.reads = Reads(self.seen)

    def __enter__(self):
        self.reads.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.reads.__exit__(*error)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        if name in WAITS:
            self.seen[name] += 1
        return operator(*args, **kwargs or {})


@pytest.mark.parametrize(
    "read",
    [
        torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy, np.asarray, bool, int, float, torch.Tensor.item,
        lambda x: [1, 2][x], lambda x: x.nonzero(), lambda x: x[None][[0]],
    ],
)  # fmt: skip
def test_each_way_to_read_a_tensor_counts_as_a_wait(read):
    one = torch.tensor(1)
    with Waits() as waits:
        (one + one).abs()
        assert not waits.seen
        read(one)
    assert waits.seen


def trainer(
    checkpoint,
    examples,
    folder,
    loss: str,
    precision=Precision.bf16,
    optimizer=("torch.optim.AdamW", {"fused": True}),
    **machine,
) -> Trainer:
    (folder / "data").mkdir(parents=True)
    examples.save(folder / "data")
    config = Config(
        model=ModelConfig(path=str(checkpoint)),
        loss={"_target_": f"losslab.objectives.{loss}"},
        optimizer=OptimizerConfig(optimizer[0], 1e-2, arguments=optimizer[1]),
        train=TrainConfig(batch_size=8, precision=precision),
        machine=MachineConfig(recompute=Recompute.none, compile=False, reshard=False, **machine),
    )
    return Trainer(config, Examples.load(folder / "data"), folder, folder / "reference.npy", DEVICE)


def test_the_next_batch_is_being_made_when_one_is_taken(examples):
    class Sampler:
        steps = 3

        def __init__(self) -> None:
            self.asked = [threading.Event() for _ in range(self.steps)]

        def batch(self, step: int) -> np.ndarray:
            self.asked[step].set()
            return np.arange(4 * step, 4 * step + 4)

    sampler = Sampler()
    with Loader(KnownExamples(examples, lambda group: {}), sampler, MicroBatchSize(64), Shard(0, 1)) as loader:
        for step in range(3):
            assert loader.take(step).examples.tolist() == [*range(4 * step, 4 * step + 4)]
            assert all(asked.wait(60) for asked in sampler.asked[: step + 2])
            assert not any(asked.is_set() for asked in sampler.asked[step + 2 :])


class WritesData(torch.optim.SGD):
    """An optimizer that autograd does not see, as some of their own are written."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=-group["lr"])


@pytest.mark.parametrize(
    ("target", "arguments"),
    [("torch.optim.AdamW", {"fused": True}), ("torch.optim.AdamW", {"fused": False}), ("test_gpu.WritesData", {})],
)
def test_each_step_is_taken_from_the_weights_that_the_one_before_left(
    checkpoint, examples, tmp_path, one_rank, target, arguments
):
    """With copies of the weights the losses are those of the masters in the dtype of the computation, whether or not
    the optimizer counts its changes as autograd does; a fused one does not.
    """
    losses = []
    for copies in (True, False):
        run = trainer(
            checkpoint,
            examples,
            tmp_path / str(copies),
            "sft.SFT",
            optimizer=(target, arguments),
            micro_batch_tokens=64,
        )
        run.policy.compute_weights = ComputeWeights(run.policy, torch.bfloat16) if copies else None
        losses.append([])
        with run.loader:
            for step in range(2):
                for _ in range(3):
                    batch, sums = run.forward_backward(step)
                    losses[-1].append(float(sums.loss / sums.tokens))
                    run.update(step, batch, sums.all_reduce(False))
    assert losses[0][0] > losses[0][1] > losses[0][2] and losses[0][3] > losses[0][5]  # thrice on each of two batches
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-2)


@pytest.mark.parametrize("loss", ["dft.DFT", "iw_sft.IWSFT", "talr.TALR", "psft.PSFT", "asft.ASFT", "gem.GEM"])
def test_a_step_makes_the_host_wait_for_nothing(checkpoint, examples, tmp_path, one_rank, monkeypatch, loss):
    """By torch's own count of waits on a GPU; by the operators that would wait where there is none."""
    if not CUDA:  # the branch of a GPU: on a CPU it reads the factor, to save a pass where that is 1
        monkeypatch.setattr(fused_loss, "scaled", torch.Tensor.mul_)
        monkeypatch.setattr(torch, "from_numpy", _disable_current_modes()(torch.from_numpy))
    run = trainer(checkpoint, examples, tmp_path, loss, micro_batch_tokens=64)
    log = StepLog(run.config, run.examples, Speed.of(run.policy, DEVICE, 1), lambda row, note: None)
    with run.loader:
        for step in range(2):
            waits = Waits()
            with warnings.catch_warnings(record=True) as caught, waits:
                warnings.simplefilter("always")
                if CUDA and step:  # the first one makes the optimizer's state
                    torch.cuda.set_sync_debug_mode("warn")
                batch, sums = run.forward_backward(step)
                result = run.update(step, batch, sums.all_reduce(False))
                if CUDA:
                    torch.cuda.set_sync_debug_mode("default")
            assert len(batch.micro_batches) >= 2
            log.add(result)
            if step:
                stops = [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA" in str(w.message)]
                assert not stops
                if not CUDA:  # AdamW on the CPU reads its own counts of steps
                    assert not waits.seen, waits.seen
        log.flush()


@pytest.mark.parametrize(("peak", "said"), [(2_150_000_000, False), (2_300_000_000, True), (1_700_000_000, True)])
def test_the_peak_of_the_first_steps_is_recorded_beside_the_plan(
    checkpoint, examples, tmp_path, one_rank, monkeypatch, caplog, peak, said
):
    """Of two steps, since the first one begins without the optimizer's moments; only the peak is not real."""
    config = trainer(checkpoint, examples, tmp_path, "sft.SFT", micro_batch_tokens=64).config
    asked = list[int]()
    monkeypatch.setattr(loop, "start", lambda _: DEVICE)
    monkeypatch.setattr(loop, "gpu_peak", lambda _: asked.append(len(read_lines(tmp_path / "metrics.jsonl"))) or peak)
    write_json(tmp_path / "layout.json", {"compile": False, "planned_memory": 2_000_000_000})
    config = replace(config, train=replace(config.train, epochs=2))
    loop.train(config, str(tmp_path / "data"), str(tmp_path), str(tmp_path / "reference.npy"))
    layout = json.loads((tmp_path / "layout.json").read_text())
    kernel = layout.pop("attention")
    assert CUDA or kernel == "scaled_dot_product_attention by runs"
    assert layout == {"compile": False, "planned_memory": 2_000_000_000, "measured_memory": peak}
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 4 and asked == [0 if CUDA else 1]
    sentences = [line for line in caplog.messages if "were planned" in line]
    assert len(sentences) == said
    if said:
        assert f"took {peak / 2**30:.1f} GiB of the GPU's memory, where 1.9 GiB" in sentences[0]


@pytest.mark.parametrize("fsdp", [False, True])
def test_a_step_begins_anew_with_half_the_tokens_when_memory_runs_out(
    checkpoint, examples, tmp_path, one_rank, monkeypatch, fsdp
):
    """In the second micro-batch, when the first has left its gradients."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(layout, "sharded", lambda *_: fsdp)
    gradients = []
    for limit in (None, 40):
        folder = tmp_path / str(limit)
        run = trainer(checkpoint, examples, folder, "dft.DFT", Precision.fp32, micro_batch_tokens=64)
        forward, tries = run.policy.forward, list[int]()

        def limited(batch, *rest, forward=forward, tries=tries, limit=limit):
            tries.append(batch.tokens.shape[1])
            out = forward(batch, *rest)
            if limit is not None and batch.tokens.shape[1] > limit and len(tries) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
            return out

        run.policy.forward = limited  # type: ignore[method-assign]
        with run.loader:
            batch, sums = run.forward_backward(0)
        assert (batch.tokens, sums.tokens) == (64 if limit is None else 32, sums.tokens)
        assert limit is None or max(tries[2:]) <= 40
        run.policy.end_backward()
        gradients.append(torch.cat([gradient.flatten() for gradient in Gradients(run.policy, run.sums).local]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
