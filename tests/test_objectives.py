"""Each objective by hand: losses and weights as literals, identities between objectives, naive gradients."""

import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from losslab.models.fused_loss import Head, HeadOutput, objective_loss
from losslab.objectives import Context, Objective, Targets
from losslab.objectives.asft import ASFT
from losslab.objectives.asft_k3 import ASFTK3
from losslab.objectives.band import Band
from losslab.objectives.cadft import CADFT
from losslab.objectives.chord_phi import ChordPhi
from losslab.objectives.deft import DEFT
from losslab.objectives.deft_cayley import CayleyDEFT
from losslab.objectives.dft import DFT
from losslab.objectives.dft_sequence import SequenceDFT
from losslab.objectives.dpo import DPO
from losslab.objectives.eaft import EAFT
from losslab.objectives.focal import Focal
from losslab.objectives.gift import GIFT
from losslab.objectives.idft import IDFT
from losslab.objectives.infosft import InfoSFT
from losslab.objectives.iw_sft import IWSFT
from losslab.objectives.iw_sft_token import TokenIWSFT
from losslab.objectives.kto import KTO
from losslab.objectives.luffy import LUFFY
from losslab.objectives.nft import NFT
from losslab.objectives.online import OnPolicy
from losslab.objectives.orpo import ORPO
from losslab.objectives.power import Power
from losslab.objectives.psft import PSFT
from losslab.objectives.sft import SFT
from losslab.objectives.sft_kl import SFTKL
from losslab.objectives.simpo import SimPO
from losslab.objectives.talr import TALR
from losslab.objectives.threshold import Threshold
from losslab.objectives.token_weights import TokenWeights

CONF = Path(__file__).parents[1] / "conf" / "loss"
LN2 = math.log(2)

# Four tokens in two sequences, over a vocabulary of three; token 0 is the target everywhere.
PROBABILITIES = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.8, 0.1, 0.1], [0.05, 0.9, 0.05]])
P = PROBABILITIES[:, 0].double()
SEQUENCE = torch.tensor([0, 0, 1, 1])


def run(objective: Objective, reference: Tensor | None = None, **context: Any) -> HeadOutput:
    """The objective on tokens of known probabilities: hidden = log-probabilities, weight = identity."""
    hidden = PROBABILITIES.log().requires_grad_()
    identity = Head(torch.eye(3))
    return objective_loss(
        objective,
        hidden,
        identity,
        torch.zeros(4, dtype=torch.long),
        Context(sequence=SEQUENCE, sequences=2, **context),
        reference=None if reference is None else (reference.log(), identity),
    )


def check(out: HeadOutput, terms: list[float], weight: list[float]) -> None:
    torch.testing.assert_close(out.terms.double(), torch.tensor(terms).double(), rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(out.weight.double(), torch.tensor(weight).double(), rtol=2e-5, atol=1e-6)
    assert out.loss.item() == pytest.approx(sum(terms), rel=2e-5)


NLL = [0.693147, 1.386294, 0.223144, 2.995732]  # -log of 0.5, 0.25, 0.8, 0.05


def weighted(weight: list[float]) -> tuple[list[float], list[float]]:
    """Terms and weights of a loss -sg(w) log p."""
    return [w * n for w, n in zip(weight, NLL, strict=True)], weight


def test_sft() -> None:
    check(run(SFT()), NLL, [1, 1, 1, 1])


def test_dft() -> None:
    check(run(DFT()), [0.346574, 0.346574, 0.178515, 0.149787], [0.5, 0.25, 0.8, 0.05])


def test_dft_floor() -> None:
    check(run(DFT(floor=0.1)), *weighted([0.5, 0.25, 0.8, 0.1]))


def test_sequence_dft() -> None:
    check(run(SequenceDFT("product")), *weighted([0.125, 0.125, 0.04, 0.04]))
    check(run(SequenceDFT("geometric")), *weighted([0.353553, 0.353553, 0.2, 0.2]))


def test_iw_sft() -> None:
    # Ratios 2 and 1/2 in the first sequence, 32 and 32 in the second: their geometric means are 1 and 32.
    reference = (P / torch.tensor([2, 0.5, 32, 32])).log().float()
    check(run(IWSFT(), reference_logp=reference), *weighted([1, 1, 16, 16]))
    check(run(IWSFT(clip=64), reference_logp=reference), *weighted([1, 1, 32, 32]))
    check(run(IWSFT(temperature=0.4), reference_logp=reference), *weighted([1, 1, 4, 4]))


def test_iw_sft_token() -> None:
    reference = (P / torch.tensor([2, 0.5, 0.1, 1.25])).log().float()
    check(run(TokenIWSFT(), reference_logp=reference), *weighted([1.8, 0.5, 0.2, 1.25]))


def test_focal() -> None:
    # weight = (1 - p)^2 - 2 p (1 - p) log p, the derivative through the factor as well
    terms = [0.25 * 0.693147, 0.5625 * 1.386294, 0.04 * 0.223144, 0.9025 * 2.995732]
    weight = [0.25 + 2 * 0.25 * 0.693147, 0.5625 + 2 * 0.1875 * 1.386294, 0.04 + 2 * 0.16 * 0.223144]
    check(run(Focal(2.0)), terms, [*weight, 0.9025 + 2 * 0.0475 * 2.995732])


def test_power() -> None:
    check(run(Power(2.0)), [0.375, 0.46875, 0.18, 0.49875], [0.25, 0.0625, 0.64, 0.0025])


def test_threshold() -> None:
    check(run(Threshold(0.3)), *weighted([1, 0, 1, 0]))
    check(run(Threshold(0.3, "below")), *weighted([0, 1, 0, 1]))


def test_chord_phi() -> None:
    check(run(ChordPhi()), *weighted([0.25, 0.1875, 0.16, 0.0475]))


def test_talr() -> None:
    # The median of the global batch, not of the two sequences here, is 0.5, so the weight is p^2.
    batch = torch.tensor([0.2, 9.0, 0.6, 0.4])
    check(run(TALR(), batch_nll=batch), *weighted([0.25, 0.0625, 0.64, 0.01]))


def test_cadft() -> None:
    # Global mean 2 and population deviation 1; sequence 0 lies below the mean, sequence 1 one deviation above.
    statistics = {"batch_nll": torch.tensor([1.0, 3.0, 1.0, 3.0]), "sequence_nll": torch.tensor([1.0, 3.0])}
    check(run(CADFT(), **statistics), *weighted([0.5, 0.25, 0.8 * 0.367879, 0.05 * 0.367879]))
    check(run(CADFT(beta=0.0), **statistics), *weighted(P.tolist()))


def test_eaft() -> None:
    # Entropies of the whole rows, as 20 exceeds the vocabulary: 1.5 log 2 twice, then 0.639032 and 0.394398.
    check(run(EAFT()), *weighted([0.346574, 0.346574, 0.213011, 0.131466]))
    # The two largest of each row, renormalised: (2/3, 1/3) twice, (8/9, 1/9), (18/19, 1/19).
    check(run(EAFT(alpha=2.0, top_k=2)), *weighted([0.0450167, 0.0450167, 0.0135204, 0.0047239]))


def test_deft() -> None:
    a = [0.375, 0.375, 0.66, 0.815]
    terms = [(1 - p**x) / (x + 1e-6) for p, x in zip(P.tolist(), a, strict=True)]
    assert terms[0] == pytest.approx(0.610384, rel=1e-5)
    check(run(DEFT()), terms, [p**x for p, x in zip(P.tolist(), a, strict=True)])


def test_asft() -> None:
    uniform = torch.full((4, 3), 1 / 3)
    # KL(uniform || row) = -log 3 - mean log p_v
    kl = [0.056633, 0.056633, 0.510826, 0.933663]
    out = run(ASFT(kl_weight=0.1), reference=uniform)
    dft, weight = weighted(P.tolist())
    check(out, [d + 0.1 * k for d, k in zip(dft, kl, strict=True)], weight)
    torch.testing.assert_close(run(ASFT(), reference=PROBABILITIES).terms, run(DFT()).terms, rtol=1e-5, atol=1e-7)


def test_sft_kl() -> None:
    out = run(SFTKL(kl_weight=0.1), reference=torch.full((4, 3), 1 / 3))  # the divergences of `test_asft`
    check(out, [n + 0.1 * k for n, k in zip(NLL, [0.056633, 0.056633, 0.510826, 0.933663], strict=True)], [1] * 4)
    hidden = PROBABILITIES.log().requires_grad_()
    context, third = Context(sequence=SEQUENCE, sequences=2), torch.full((4, 3), 1 / 3)
    uniform, identity = (third.log(), Head(torch.eye(3))), Head(torch.eye(3))
    zeros = torch.zeros(4, dtype=torch.int64)
    objective_loss(SFTKL(0.1), hidden, identity, zeros, context, reference=uniform).loss.backward()
    slopes = PROBABILITIES - torch.eye(3)[0] + 0.1 * (PROBABILITIES - third)
    torch.testing.assert_close(hidden.grad, slopes, rtol=1e-5, atol=1e-6)


def test_asft_k3() -> None:
    # r = 1/2, 2, 1 and 4; the weight of the anchor is r - 1, so that it pulls p towards p_ref from both sides.
    reference = (P * torch.tensor([0.5, 2, 1, 4])).log().float()
    dft, weight = weighted(P.tolist())
    k3 = [-0.5 + LN2, 1 - LN2, 0, 3 - 2 * LN2]
    slope = [-0.5, 1, 0, 3]
    out = run(ASFTK3(kl_weight=0.2), reference_logp=reference)
    check(
        out,
        [d + 0.2 * k for d, k in zip(dft, k3, strict=True)],
        [w + 0.2 * s for w, s in zip(weight, slope, strict=True)],
    )


def test_infosft() -> None:
    # Logits 0, -log 3, log 4, -log 19 of p over log 4, the logit of the ceiling 0.8: shares 1, 1.792481, 0, 3.123964.
    check(run(InfoSFT(ceiling=0.8)), *weighted([0.5, 0.25 * 1.792481, 0, 0.05 * 3.123964]))
    sure = torch.tensor([[200.0, 0, 0]])  # p is 1 in float32
    context = Context(sequence=torch.zeros(1, dtype=torch.long), sequences=1)
    out = objective_loss(InfoSFT(), sure, Head(torch.eye(3)), torch.zeros(1, dtype=torch.long), context)
    assert out.loss.item() == 0 and out.weight.tolist() == [0]


def test_idft() -> None:
    # log p + H is log 2 / 2, -log 2 / 2, 0.415888 and -2.601334, whose exponential is clipped to 2.
    exponent = [2**-0.5, 2**0.5, 0.659754, 2.0]
    check(run(IDFT()), *weighted([p**e for p, e in zip(P.tolist(), exponent, strict=True)]))
    check(run(IDFT(low=1.0, high=1.0)), *weighted(P.tolist()))


def test_luffy() -> None:
    check(run(LUFFY(gamma=0.25)), [-2 / 3, -0.5, -0.761905, -1 / 6], [2 / 9, 0.25, 0.181406, 0.138889])


def test_band() -> None:
    check(run(Band(0.1, 0.5)), *weighted([1, 1, 0, 0]))
    check(run(Band(0.3, alpha=1.0)), [0.5, 0, 0.2, 0], [0.5, 0, 0.8, 0])
    far = torch.tensor([[-1000.0, 0.0, 0.0]]).requires_grad_()  # p^-0.5 overflows, outside of the band
    context = Context(sequence=torch.tensor([0]), sequences=1)
    objective_loss(Band(0.05, alpha=-0.5), far, Head(torch.eye(3)), torch.tensor([0]), context).loss.backward()
    assert far.grad is not None and far.grad.tolist() == [[0, 0, 0]]
    check(run(Band(alpha=-0.5)), [0.828427, 2, 0.236068, 6.944272], [2**0.5, 2, 1.118034, 4.472136])


def test_deft_cayley() -> None:
    # A mean p of 0.4 gives a = 0.2 + 0.8 p / (2 - p).
    a = [0.466667, 0.314286, 0.733333, 0.220513]
    terms = [(1 - p**x) / x for p, x in zip(P.tolist(), a, strict=True)]
    assert terms[0] == pytest.approx(0.592211, rel=1e-5)
    check(run(CayleyDEFT(), batch_p=torch.tensor(0.4)), terms, [p**x for p, x in zip(P.tolist(), a, strict=True)])


def test_gift_is_the_cross_entropy_with_the_raised_reference() -> None:
    q = torch.tensor([[0.1, 0.2, 0.7], [0.01, 0.5, 0.49], [0.6, 0.2, 0.2], [1e-4, 0.5, 0.4999]])
    out = run(GIFT(beta=3.0), reference=q, reference_logp=q[:, 0].log())
    logits = PROBABILITIES.log().double().requires_grad_()
    target = (q.double().log() + torch.tensor([3.0, 0, 0])).softmax(-1)
    terms = -(target * logits.log_softmax(-1)).sum(-1)
    share = torch.tensor([0.656187, 0.160267, 0.919687, 0.001905]).double()  # 19.085537 q / (1 + 19.085537 q)
    dropped = (1 - share) * torch.special.entr(q.double()).sum(-1)
    torch.testing.assert_close(out.terms.double(), (terms - dropped).detach(), rtol=1e-4, atol=1e-5)
    hidden = PROBABILITIES.log().requires_grad_()
    context = Context(sequence=SEQUENCE, sequences=2, reference_logp=q[:, 0].log())
    identity = Head(torch.eye(3))
    anchor = (q.log(), identity)
    targets = torch.zeros(4, dtype=torch.long)
    objective_loss(GIFT(beta=3.0), hidden, identity, targets, context, reference=anchor).loss.backward()
    terms.sum().backward()
    assert hidden.grad is not None and logits.grad is not None
    torch.testing.assert_close(hidden.grad.double(), logits.grad, rtol=1e-4, atol=1e-5)


def test_token_weights() -> None:
    check(run(TokenWeights(), token_weight=torch.tensor([0.0, 1.0, 0.5, 2.0])), *weighted([0, 1, 0.5, 2]))


def test_psft() -> None:
    old = (P / torch.tensor([1.0, 1.2, 1.3, 0.5])).log().float()
    check(run(PSFT(), old_logp=old), [-1, -1.2, -1.28, -0.5], [1, 1.2, 0, 0.5])


def test_psft_survives_a_ratio_beyond_float32() -> None:
    out = run(PSFT(), old_logp=torch.full((4,), -200.0))
    check(out, [-1.28] * 4, [0, 0, 0, 0])


def test_dpo() -> None:
    # Margins of the policy over the reference: log 4 for the chosen, log 1/2 for the rejected; sigmoid(log 8) = 8/9.
    reference = (P / torch.tensor([2, 2, 1, 0.5])).log().float()
    out = run(DPO(beta=1.0), reference_logp=reference)
    check(out, [0.117783], [1 / 9, 1 / 9, -1 / 9, -1 / 9])
    assert run(DPO(), reference_logp=P.log().float()).terms.tolist() == [pytest.approx(LN2)]


def test_kto() -> None:
    # The same margins less a baseline of log 2, so that 1 - sigmoid is 1/3 of log 2 and 1/5 of log 4.
    context = {"reference_logp": (P / torch.tensor([2, 2, 1, 0.5])).log().float(), "reward": torch.tensor([1.0, 0.0])}
    out = run(KTO(beta=1.0), **context, mismatched_kl=torch.tensor(LN2))
    check(out, [1 / 3, 1 / 5], [2 / 9, 2 / 9, -4 / 25, -4 / 25])
    out = run(KTO(beta=1.0, right_weight=0.5, wrong_weight=2.0), **context, mismatched_kl=torch.tensor(LN2))
    check(out, [1 / 6, 2 / 5], [1 / 9, 1 / 9, -8 / 25, -8 / 25])


def test_simpo() -> None:
    # Means of log p: -1.5 log 2 of the chosen, -1.609438 of the rejected; sigmoid(2 * 0.569717 - 0.5) = 0.654626.
    check(run(SimPO()), [0.423692], [0.345374, 0.345374, -0.345374, -0.345374])


def test_orpo() -> None:
    # e^mean is 0.353553 and 0.2, odds 0.546918 and 0.25: the log of their ratio is 0.782840, its sigmoid 0.686294. The
    # derivative of a logit by its mean is 1 / (1 - e^mean): 1.546918 and 1.25.
    weight = [0.5 + 0.1 * 0.313706 * 0.5 * 1.546918] * 2 + [-0.1 * 0.313706 * 0.5 * 1.25] * 2
    check(run(ORPO()), [1.5 * LN2 + 0.1 * 0.376449], weight)
    sure = Context(sequence=torch.tensor([0, 1]), sequences=2)
    hidden = torch.tensor([[200.0, 0], [200.0, 0]], requires_grad=True)
    targets = torch.zeros(2, dtype=torch.long)
    objective_loss(ORPO(), hidden, Head(torch.eye(2)), targets, sure).loss.backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_nft() -> None:
    # Ratios 2 and 1/2 in a right answer with a rate of 1/4; 1/2 and 2 in a wrong one with a rate of 0.6, where the
    # implicit negative policy has the ratios (1 - 0.3) / 0.4 = 1.75 and (1 - 1.2) / 0.4 < 1, which is held at 1.
    known = (P / torch.tensor([2, 0.5, 0.5, 2])).log().float()
    graded = {"reward": torch.tensor([1.0, 0.0]), "success_rate": torch.tensor([0.25, 0.6])}
    terms = [-0.75 * LN2, 0.75 * LN2, -0.4 * 0.559616, 0.0]
    check(run(NFT(), reference_logp=known, **graded), terms, [0.75, 0.75, -0.6 * 0.5 / 1.75, -1.2])
    out = run(NFT(floor=2.0), reference_logp=known, **graded)
    check(out, [*terms[:2], -0.4 * LN2, -0.4 * LN2], [0.75, 0.75, -0.15, -0.6])


def test_nft_on_policy_is_reward_less_success_rate() -> None:
    graded = {"reward": torch.tensor([1.0, 0.0]), "success_rate": torch.tensor([0.25, 0.6])}
    check(run(NFT(), reference_logp=P.log().float(), **graded), [0] * 4, [0.75, 0.75, -0.6, -0.6])


def test_nft_has_no_use_for_questions_of_one_kind_nor_for_ratios_beyond_all_bounds() -> None:
    one_kind = {"reward": torch.tensor([1.0, 0.0]), "success_rate": torch.tensor([1.0, 0.0])}
    check(run(NFT(), reference_logp=P.log().float() + 1, **one_kind), [0] * 4, [0] * 4)
    mixed = {"reward": torch.tensor([1.0, 0.0]), "success_rate": torch.tensor([0.25, 0.6])}
    far = torch.full((4,), -200.0)
    check(run(NFT(), reference_logp=far, **mixed), [-7.5, -7.5, 0, 0], [0] * 4)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Power(1.0), DFT()),
        (Power(1e-6), SFT()),
        (Threshold(0.0), SFT()),
        (DFT(floor=1.0), SFT()),
        (Focal(0.0), SFT()),
        (IWSFT(), SFT()),
        (TokenIWSFT(), SFT()),
        (PSFT(), SFT()),
        (CADFT(beta=0.0), DFT()),
        (EAFT(alpha=0.0), SFT()),
        (Band(), SFT()),
        (Band(0.3), Threshold(0.3)),
        (Band(alpha=2.0), Power(2.0)),
        (CayleyDEFT(), DFT()),
        (ASFTK3(), DFT()),
        (TokenWeights(), SFT()),
    ],
)
def test_same_gradient(left: Objective, right: Objective) -> None:
    """At reference = policy = old policy, which is where importance weights are 1."""
    own = P.log().float()
    nll = torch.tensor([1.0, 2.0])
    context = {"reference_logp": own, "old_logp": own, "batch_nll": nll, "sequence_nll": nll}
    context |= {"batch_p": torch.tensor(2.0), "token_weight": torch.ones(4)}
    torch.testing.assert_close(run(left, **context).weight, run(right, **context).weight, rtol=1e-5, atol=1e-6)


def test_dft_gradient_is_that_of_minus_p() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 8, 3, 3, 5])
    inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    context = Context(sequence=torch.zeros(5, dtype=torch.long), sequences=1)
    objective_loss(DFT(), inputs[0], Head(inputs[1]), targets, context).loss.backward()
    naive = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    exponentials = (naive[0] @ naive[1].T).exp()
    (-(exponentials / exponentials.sum(-1, keepdim=True))[torch.arange(5), targets]).sum().backward()
    for ours, theirs in zip(inputs, naive, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)


def test_nft_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    known = -3 * torch.rand(7, generator=generator, dtype=torch.float64)
    targets, sequence = torch.tensor([0, 8, 3, 3, 5, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    reward, rate = torch.tensor([0.0, 1.0, 0.0]).double(), torch.tensor([0.25, 0.5, 0.75]).double()
    context = Context(sequence=sequence, sequences=3, reference_logp=known, reward=reward, success_rate=rate)
    inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    out = objective_loss(NFT(), inputs[0], Head(inputs[1]), targets, context, chunk=3)
    out.loss.backward()

    naive = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    logp = (naive[0] @ naive[1].T).log_softmax(-1)[torch.arange(7), targets]
    loss, surrogate = 0.0, torch.zeros((), dtype=torch.float64)  # the latter has the gradient of the former
    for i in range(7):
        ratio, r = (logp[i] - known[i]).exp(), rate[sequence[i]].item()
        negative = (1 - r * ratio) / (1 - r)
        if reward[sequence[i]]:
            loss -= (1 - r) * math.log(ratio.item())
            surrogate = surrogate - (1 - r) * ratio.log()
        else:
            loss -= (1 - r) * math.log(max(1.0, negative.item()))
            surrogate = surrogate - (1 - r) * negative / max(1.0, negative.item())
    surrogate.backward()
    assert out.loss.item() == pytest.approx(loss, rel=1e-12)
    for ours, theirs in zip(inputs, naive, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)


def test_asft_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, anchor = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64)
    weight, anchor_weight = torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 8, 3, 3, 5, 1, 2])
    context = Context(sequence=torch.zeros(7, dtype=torch.long), sequences=1)
    inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    head, reference = Head(inputs[1], softcap=4.0), (anchor, Head(anchor_weight, softcap=4.0))
    out = objective_loss(ASFT(0.3), inputs[0], head, targets, context, reference=reference, chunk=3)
    out.loss.backward()

    naive = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    logp = (4 * torch.tanh(naive[0] @ naive[1].T / 4)).log_softmax(-1)
    q = (4 * torch.tanh(anchor @ anchor_weight.T / 4)).log_softmax(-1)
    target = logp[torch.arange(7), targets]
    loss = (-target.detach().exp() * target).sum() + 0.3 * (q.exp() * (q - logp)).sum()
    loss.backward()
    assert out.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    for ours, theirs in zip(inputs, naive, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("path", sorted(set(CONF.glob("*.yaml")) - {CONF / "base.yaml"}), ids=lambda path: path.stem)
def test_shipped_configs(path: Path) -> None:
    config = OmegaConf.load(path)
    objective = hydra.utils.instantiate(config)
    assert isinstance(objective, Objective | OnPolicy)
    # A file spells out all parameters, so that what a run used can be read from its config.
    assert {field.name for field in fields(objective)} == set(config) - {"_target_"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DFT(floor=2.0), "from 0 to 1"),
        (lambda: SequenceDFT("token"), "'product' or 'geometric'"),  # type: ignore[arg-type]
        (lambda: Focal(0.5), "at least 1"),
        (lambda: Power(0.0), "above 0"),
        (lambda: NFT(floor=0.0), "above 0"),
        (lambda: InfoSFT(ceiling=0.5), "above 0.5 and below 1"),
        (lambda: IDFT(beta=0.0), "other than 0"),
        (lambda: LUFFY(gamma=0.0), "above 0"),
        (lambda: GIFT(beta=0.0), "above 0"),
        (lambda: Band(0.5, 0.5), "0 <= low < high <= 1"),
        (lambda: Threshold(0.1, "over"), "'above' or 'below'"),  # type: ignore[arg-type]
    ],
)
def test_parameters_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_targets_pool_by_sequence() -> None:
    t = Targets(
        sequence=torch.tensor([0, 0, 2, 2]),
        sequences=3,
        logp=torch.tensor([-1.0, -3.0, -5.0, -6.0]),
        entropy=torch.zeros(4),
        scope="sequence",
    )
    assert t.sequence_sum(t.logp).tolist() == [-4, 0, -11]
    assert t.sequence_mean(t.logp).tolist() == [-2, 0, -5.5]


def test_objective_from_outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cubic.py").write_text(
        "from dataclasses import dataclass\n"
        "from losslab.objectives import Objective\n"
        "@dataclass(frozen=True)\n"
        "class Cubic(Objective):\n"
        "    scale: float = 1.0\n"
        "    def loss(self, t):\n"
        "        return -self.scale * t.p**3 * t.logp\n"
    )
    (tmp_path / "cubic.yaml").write_text("_target_: cubic.Cubic\nscale: 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    objective = hydra.utils.instantiate(OmegaConf.load(tmp_path / "cubic.yaml"))
    check(run(objective), *weighted([0.25, 0.03125, 1.024, 0.00025]))
    sys.modules.pop("cubic")


@dataclass(frozen=True)
class _Frozen(Objective):
    def loss(self, t: Targets) -> Tensor:
        return 0 * t.logp


def test_a_loss_without_weight_gives_zero_gradients() -> None:
    hidden = PROBABILITIES.log().requires_grad_()
    context = Context(sequence=SEQUENCE, sequences=2)
    objective_loss(_Frozen(), hidden, Head(torch.eye(3)), torch.zeros(4, dtype=torch.long), context).loss.backward()
    assert hidden.grad is not None and not hidden.grad.any()
