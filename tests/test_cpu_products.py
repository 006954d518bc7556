"""bfloat16 products on a CPU without instructions for them: the values of `train.precision`, whatever computes them."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losslab.models import cpu_products
from losslab.models.fused_loss import Head, objective_loss
from losslab.objectives import Context
from losslab.objectives.dft import DFT


@pytest.fixture
def without_instructions(monkeypatch):
    monkeypatch.setattr(cpu_products, "slow", lambda: True)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize("chunk", [None, 3])
def test_the_loss_and_its_gradients_are_those_of_logits_rounded_once(without_instructions, chunk):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randint(-31, 32, shape, generator=generator) / 16.0 for shape in ((7, 24), (50, 24)))
    targets = torch.arange(7)
    rows, words = hidden.bfloat16().requires_grad_(), weight.clone().requires_grad_()
    context = Context(sequence=torch.zeros(7, dtype=torch.int64), sequences=1)
    out = objective_loss(DFT(), rows, Head(words), targets, context, chunk=chunk)
    out.loss.backward()

    exact = hidden @ weight.T  # in float32 without an error
    logits = exact.bfloat16().double().requires_grad_()
    assert bool((exact != logits).any(1).all())
    logp = logits.log_softmax(-1)[torch.arange(7), targets]
    torch.testing.assert_close(out.logp, logp.detach().float(), rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(-(logp.detach().exp() * logp).sum(), logits)
    assert rows.grad.dtype == torch.bfloat16
    torch.testing.assert_close(rows.grad, (slope @ weight.double()).bfloat16(), rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(words.grad, (slope.T @ hidden.double()).float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("vendor", "avx512_bf16", "amx", "expected"),
    [
        ("AuthenticAMD", True, False, False),
        ("GenuineIntel", True, True, False),
        ("GenuineIntel", True, False, True),
        ("GenuineIntel", False, False, True),
        ("AuthenticAMD", False, False, True),
    ],
)
def test_the_instructions_of_an_x86_decide(monkeypatch, vendor, avx512_bf16, amx, expected):
    """Not a measurement: one that other work disturbed made a resumed training differ from an undisturbed one."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(cpu_products.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu_products, "_vendor", lambda: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(cpu_products, "_seconds", lambda _: pytest.fail("it was measured"))
    assert cpu_products.slow.__wrapped__() is expected  # without the cache


@pytest.mark.parametrize(("native", "expected"), [(0.7, False), (1.2, False), (1.3, True), (11.0, True)])
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_it_is_measured_elsewhere_on_one_thread_and_in_turn(monkeypatch, machine, native, expected):
    threads, seen = torch.get_num_threads(), []
    monkeypatch.setattr(cpu_products.platform, "machine", lambda: machine)
    if machine == "x86_64":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")

    def seconds(_) -> float:
        seen.append(torch.get_num_threads())
        busy = 1.5 if len(seen) <= 30 else 1.0  # other work at first, which slows both
        return busy * (1.0 if len(seen) % 2 == 0 else native)

    torch.set_num_threads(3)
    try:
        monkeypatch.setattr(cpu_products, "_seconds", seconds)
        assert cpu_products.slow.__wrapped__() is expected
        assert seen == [1] * 2 * cpu_products.REPEATS and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


class Made(TorchDispatchMode):
    """Elements of the largest tensor of each dtype that is made in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        out = function(*arguments, **(keywords or {}))
        for each in (out,) if isinstance(out, torch.Tensor) else ():
            self.largest[each.dtype] = max(each.numel(), self.largest.get(each.dtype, 0))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_rounded_without_a_second_copy_of_it(without_instructions, monkeypatch, dtype):
    """By blocks of 20 rows, of which the last has 10."""
    monkeypatch.setattr(cpu_products, "BLOCK", 20 * 24)
    weight = torch.randn(50, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    with Made() as made:
        operand = cpu_products.operand(weight, torch.bfloat16)
    assert operand.dtype == torch.float32 and torch.equal(operand, weight.bfloat16().float())
    assert made.largest[torch.float32] == 50 * 24 and made.largest.get(torch.bfloat16, 0) <= 20 * 24


def test_what_has_the_dtype_of_its_products_is_not_copied(monkeypatch):
    weight = normal(5, 4)
    monkeypatch.setattr(cpu_products, "slow", lambda: False)
    assert cpu_products.operand(weight, torch.bfloat16) is weight
    assert torch.equal(cpu_products.operand(weight.float(), torch.bfloat16), weight)
    monkeypatch.setattr(cpu_products, "slow", lambda: True)
    wide = weight.float()
    assert cpu_products.operand(wide, torch.float32) is wide


def test_only_bfloat16_is_converted(without_instructions):
    values = torch.zeros(2, 2)
    assert not cpu_products.computes_in_float32(values) and cpu_products.computes_in_float32(values.bfloat16())


def test_a_linear_layer_under_autocast_has_the_values_and_gradients_of_rounded_operands():
    x, weight, bias = (normal(*shape).float().requires_grad_() for shape in ((2, 3, 8), (5, 8), (5,)))
    with torch.autocast("cpu", torch.bfloat16):
        y = cpu_products._linear(x, weight, bias)
    slope = normal(2, 3, 5)
    y.backward(slope)
    exact = x.detach().double() @ weight.detach().double().T + bias.detach().double()
    assert y.dtype == torch.bfloat16 and torch.equal(y, exact.float().bfloat16())
    rows = slope.double().flatten(0, 1)
    for gradient, value in (
        (x.grad, (rows @ weight.detach().double()).view(2, 3, 8)),
        (weight.grad, rows.T @ x.detach().double().flatten(0, 1)),
        (bias.grad, rows.sum(0)),
    ):
        assert gradient.dtype == torch.float32 and torch.equal(gradient, value.float().bfloat16().float())


def test_a_layer_that_is_frozen_has_no_gradient_of_its_weight():
    x, weight = normal(3, 4).float().requires_grad_(), normal(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        cpu_products._linear(x, weight).sum().backward()
    assert weight.grad is None and x.grad is not None


def test_autocast_computes_every_linear_layer_so_where_it_is_faster(tmp_path):
    """In a process of its own, since the change is the process's."""

    script = """
import torch
from losslab.models import cpu_products
cpu_products.slow = lambda: True
cpu_products.install()
seen = []
apply, cpu_products._Linear.apply = cpu_products._Linear.apply, lambda *values: seen.append(1) or apply(*values)
layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4, bias=False))
layer(torch.ones(1, 4))
assert not seen
with torch.autocast("cpu", torch.bfloat16):
    out = layer(torch.ones(1, 4))
assert len(seen) == 2 and out.dtype == torch.bfloat16
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
