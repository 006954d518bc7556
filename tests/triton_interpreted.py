"""The Triton kernels, run by Triton's interpreter, beside the same by operations of torch.

`test_fused_loss_triton.py` runs these tests in a process of their own, where TRITON_INTERPRET=1 is set before Triton is
loaded.
"""

import math

import pytest
import torch
from torch import Tensor

from losslab.models import chunked_logits, fused_loss_triton
from losslab.models.chunked_logits import Head
from losslab.models.fused_loss import objective_loss, target_logprobs
from losslab.objectives import Context, Objective
from losslab.objectives.asft import ASFT
from losslab.objectives.deft import DEFT
from losslab.objectives.dft import DFT
from losslab.objectives.dft_sequence import SequenceDFT
from losslab.objectives.jsd import JSD
from losslab.objectives.label_smoothing import LabelSmoothing
from losslab.objectives.sft import SFT

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what lies between rows


class Problem:
    """Four tokens, and a vocabulary of two blocks of the kernel that no block divides."""

    tokens, width, vocabulary = 4, 8, 9001

    def __init__(self, dtype: torch.dtype, bias: bool = False, reference: bool = False, **head: float) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.hidden = draw(self.tokens, self.width).to(dtype).requires_grad_()
        self.head = Head(
            draw(self.vocabulary, self.width).requires_grad_(),
            draw(self.vocabulary).requires_grad_() if bias else None,
            **head,  # type: ignore[arg-type]
        )
        self.targets = torch.tensor([0, 8191, 8192, self.vocabulary - 1])
        other = Head(draw(self.vocabulary, self.width), draw(self.vocabulary) if bias else None, **head)  # type: ignore[arg-type]
        self.reference = (draw(self.tokens, self.width), other) if reference else None
        self.context = Context(sequence=torch.tensor([0, 0, 1, 1]), sequences=2)

    def solve(self, objective: Objective) -> list[Tensor]:
        """Entropies, loss, what else is known of each token, and gradients, by chunks of three tokens and of one."""
        arguments = (self.hidden, self.head, self.targets, self.context)
        out = objective_loss(objective, *arguments, reference=self.reference, chunk=3)
        inputs = [x for x in (self.hidden, self.head.weight, self.head.bias) if x is not None]
        gradients = torch.autograd.grad(2 * out.loss, inputs)
        return [out.entropy, out.loss, out.terms, out.logp, out.weight, *gradients]


CASES: dict[str, tuple[Objective, dict[str, float]]] = {
    "plain": (DFT(), {}),
    "bias, soft cap and scale": (SFT(), {"bias": True, "softcap": 5.0, "scale": 0.7}),
    "a negative scale": (SFT(), {"scale": -0.5}),
    "a reference": (ASFT(kl_weight=0.5), {"reference": True}),
    "a reference with all options": (ASFT(), {"reference": True, "bias": True, "softcap": 5.0, "scale": 1.7}),
    "a statistic of the row": (DEFT(), {}),
    "a row term": (LabelSmoothing(0.3), {"softcap": 5.0, "scale": 0.7}),
    "a row term with a reference": (JSD(), {"reference": True, "bias": True}),
    "tokens coupled": (SequenceDFT("geometric"), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_same_as_the_eager_walk(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, options = CASES[case]
    problem = Problem(torch.float32, **options)  # type: ignore[arg-type]
    eager = problem.solve(objective)
    monkeypatch.setattr(chunked_logits, "kernels", lambda device: fused_loss_triton)
    ours = problem.solve(objective)
    torch.testing.assert_close(ours[0], eager[0], rtol=0, atol=1e-4)  # torch's float32 softmax adds up to 1 + 5e-6
    torch.testing.assert_close(ours[1:], eager[1:], rtol=1e-5, atol=2e-6)


def test_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts bfloat16 off where a GPU rounds, hence the tolerance of gradients."""
    problem = Problem(torch.bfloat16)
    eager = problem.solve(DFT())
    monkeypatch.setattr(chunked_logits, "kernels", lambda device: fused_loss_triton)
    ours = problem.solve(DFT())
    torch.testing.assert_close(ours[0], eager[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(ours[1:5], eager[1:5], rtol=1e-5, atol=2e-6)
    for gradient, expected in zip(ours[5:], eager[5:], strict=True):
        assert gradient.dtype == expected.dtype
        assert (gradient.double() - expected.double()).norm() < 0.02 * expected.double().norm()


def test_differentiable_logprobs(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(torch.float32)

    def gradients() -> list[Tensor]:
        logp = target_logprobs(problem.hidden, problem.head, problem.targets, chunk=3)
        return [logp, *torch.autograd.grad(logp.exp().sum(), (problem.hidden, problem.head.weight))]

    eager = gradients()
    monkeypatch.setattr(chunked_logits, "kernels", lambda device: fused_loss_triton)
    torch.testing.assert_close(gradients(), eager, rtol=1e-5, atol=2e-6)


def run(logits: Tensor, targets: list[int], slopes: bool = True, gap: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and what is left in the place of `logits` (rows, V), whose rows lie `gap` apart."""
    rows, vocabulary = logits.shape
    buffer = torch.full((1, rows, vocabulary + gap), math.nan)
    products = buffer[..., :vocabulary].copy_(logits)
    logp, entropy, kl = torch.full((3, rows), math.nan)
    fused_loss_triton.softmax(products, [Head(logits)], torch.tensor(targets), (logp, entropy, kl), slopes)
    return logp, entropy, products[0]


@pytest.mark.parametrize("vocabulary", [1, 7, 256, 257, 8192, 8193])
def test_ends_of_rows(vocabulary: int) -> None:
    """Any vocabulary, with NaN between the rows, against float64."""
    logits = 3 * torch.randn(2, vocabulary, generator=torch.Generator().manual_seed(0))
    targets = [0, vocabulary - 1]
    logp, entropy, slopes = run(logits, targets, gap=-vocabulary % 64)
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(logp.double(), exact[[0, 1], targets], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), rtol=1e-6, atol=1e-6)
    expected = exact.exp()
    expected[[0, 1], targets] -= 1
    torch.testing.assert_close(slopes.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shift", [-300.0, 300.0])
def test_confident_tokens_and_large_logits(shift: float) -> None:
    """1 - p is 2e-6 and p of the last token 0 in float32, wherever the logits lie."""
    logits = torch.tensor([[13.0, 0.0], [150.0, 0.0]]) + shift
    logp, entropy, slopes = run(logits, [0, 1])
    rest = 1 / (1 + math.exp(13))
    assert logp.tolist() == pytest.approx([-rest, -150], rel=0.05)
    assert slopes[0].tolist() == pytest.approx([-rest, rest], rel=0.05)
    assert slopes[1].tolist() == [1, -1] and entropy[1] == 0


def test_what_is_not_a_number_shows() -> None:
    """A logit or a target that does not exist makes the token's log-probability NaN, not 0, and no other's."""
    logits = torch.zeros(5, 4)
    logits[1, 2], logits[2, 0] = math.nan, math.inf
    logp, _, _ = run(logits, [0, 0, 1, 4, -1])
    assert logp.isnan().tolist() == [False, True, True, True, True]
    assert logp[0].item() == pytest.approx(-math.log(4))


def test_logits_stay_where_no_slopes_are_wanted() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    logp, _, left = run(logits, [2], slopes=False)
    assert torch.equal(left, logits)
    assert logp.item() == pytest.approx(-math.log(1 + math.exp(-1) + math.exp(-2)))


def test_offsets_beyond_32_bits() -> None:
    """The third row starts at element 2^31. The memory in between is never touched, so it takes none."""
    rows = torch.empty(2**31 + 4).as_strided((1, 3, 4), (2**31, 2**30, 1))
    rows[:] = torch.tensor([0.0, 0.0, 0.0, math.log(5)])
    logp, entropy, kl = torch.zeros(3, 3)
    row = rows.new_empty(4, 1)
    fused_loss_triton.softmax(rows, [Head(row)], torch.tensor([3, 3, 3]), (logp, entropy, kl), False)
    assert logp.tolist() == pytest.approx([math.log(5 / 8)] * 3)


def test_scaling_by_one_does_nothing() -> None:
    values = torch.arange(9000.0)
    fused_loss_triton.scale(values[:8999], torch.tensor(1.0))
    assert torch.equal(values, torch.arange(9000.0))
    fused_loss_triton.scale(values[:8999], torch.tensor(-2.0))
    assert torch.equal(values[:8999], -2 * torch.arange(8999.0)) and values[8999] == 8999
    fused_loss_triton.scale(values[:0], torch.tensor(3.0))


@pytest.mark.parametrize("shape", [(4097,), (3, 5), (0,)])
def test_sums_of_gradients(shape: tuple[int, ...]) -> None:
    """The first replaces what is there; bfloat16 is added in float32; a transposed gradient keeps its places."""
    draw = torch.Generator().manual_seed(0)
    first, second = (
        torch.randn(shape[::-1], generator=draw).bfloat16().permute(*range(len(shape))[::-1]) for _ in range(2)
    )
    total = torch.full(shape, math.nan)
    fused_loss_triton.accumulate(total, first, add=False)
    assert torch.equal(total, first.float())
    fused_loss_triton.accumulate(total, second, add=True)
    assert torch.equal(total, first.float() + second.float())
