"""Mistakes in an objective of one's own: one sentence, on every machine alike, before anything is loaded."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from losslab.cells.run import run as run_cell
from losslab.composition.compose import composed
from losslab.models.fused_loss import Head, HeadOutput, objective_loss
from losslab.models.try_out import try_out
from losslab.objectives import Context, Distributions, Need, Objective, Scope, Targets
from losslab.objectives.online import OnPolicy
from losslab.planning import plan
from losslab.records.record import Cell

CONF = Path(__file__).parents[1] / "conf" / "loss"
TOKENS, SEQUENCES = 12, 3
CHUNKS = (None, 5, 4)
UNPOOLED = "t.sequence_sum and t.sequence_mean need all tokens of a sequence, .*: set scope = .sequence. in the class"
NO_LOSS_GRADIENT = "has no gradient: let it depend on t.logp, t.reference_kl or t.row_term"


def own(
    loss: Callable[[Targets], object],
    *,
    name: str = "Own",
    scope: Scope = "token",
    needs: frozenset[Need] = frozenset(),
    **methods: object,
) -> Objective:
    """An objective with this loss, and with other methods and class variables of an objective."""
    body = {"loss": lambda self, t: loss(t), "scope": scope, "needs": needs, **methods}
    return dataclass(frozen=True)(type(name, (Objective,), body))()


def run(objective: Objective, chunk: int | None) -> HeadOutput:
    """Twelve tokens in three sequences, over a vocabulary of twenty."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, 8, generator=generator).requires_grad_()
    weight = torch.randn(20, 8, generator=generator)
    targets = torch.randint(20, (TOKENS,), generator=generator)
    context = Context(sequence=torch.arange(TOKENS) // 4, sequences=SEQUENCES)
    return objective_loss(objective, hidden, Head(weight), targets, context, chunk=chunk)


def geometric(t: Targets) -> Tensor:
    return -t.sequence_mean(t.p)[t.sequence] * t.logp


MISTAKES: dict[str, tuple[Objective, str]] = {
    "a weight of the sequence without its scope": (own(geometric), UNPOOLED),
    "a mean of the sequence without its scope": (own(lambda t: -t.sequence_mean(t.logp)), UNPOOLED),
    "one in the scope of the batch": (own(lambda t: -t.sequence_sum(t.logp), scope="batch"), UNPOOLED),
    "a reference that is not declared": (
        own(lambda t: -t.logp + t.reference_kl),
        't.reference_kl is not there: put "reference_distribution" into `needs`',
    ),
    "a statistic that is not declared": (
        own(lambda t: -(1 + t.statistic) * t.logp),
        "t.statistic is not there: give the objective a method `statistic`",
    ),
    "a row term that is not declared": (
        own(lambda t: -t.logp + t.row_term),
        "t.row_term is not there: give the objective a method `row_term`",
    ),
    "a mean": (
        own(lambda t: -t.logp.mean()),
        "Own.loss returns a tensor of shape \\(\\) for [0-9]+ tokens: return one term for each token, of the shape",
    ),
    "a column": (own(lambda t: -t.logp[:, None]), "Own.loss returns a tensor of shape \\([0-9]+, 1\\) for"),
    "no tensor": (own(lambda t: 0.5), "Own.loss returns 0.5 for [0-9]+ tokens: return one term for each token"),
    "a mean with the scope of sequences": (
        own(lambda t: -t.logp.mean(), scope="sequence"),
        "or one for each of [0-9]+ sequences",
    ),
    "pairs without the need": (
        own(lambda t: -t.sequence_sum(t.logp)[::2], scope="sequence"),
        "return one term for each token, of the shape of t.logp, or one for each of [0-9]+ sequences$",
    ),
    "a detached loss": (own(lambda t: -t.p * t.p.log()), f"Own.loss {NO_LOSS_GRADIENT}"),
    "a detached row term": (
        own(lambda t: t.row_term, row_term=lambda self, d: d.logp.detach().sum(-1)),
        "Own.row_term has no gradient: let it depend on d.logp or d.logsumexp",
    ),
    "a row term of the block": (
        own(lambda t: t.row_term, row_term=lambda self, d: d.logp.sum()),
        "Own.row_term returns a tensor of shape \\(\\) for [0-9]+ tokens: return one number for each",
    ),
    "a statistic of the block": (
        own(lambda t: -t.statistic * t.logp, statistic=lambda self, p: p.max()),
        "Own.statistic returns a tensor of shape \\(\\) for [0-9]+ tokens: return one number for each",
    ),
    "a metric of the batch": (
        own(lambda t: -t.logp, metrics=("m",), measure=lambda self, t: (t.p.mean(),)),
        "Own.measure returns a tensor of shape \\(\\) for [0-9]+ tokens",
    ),
    "a metric without a name": (
        own(lambda t: -t.logp, measure=lambda self, t: (t.p,)),
        "Own.measure does not return what `metrics` names: return a tuple of 0 tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_whatever_the_chunks(mistake: str, chunk: int | None) -> None:
    objective, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        run(objective, chunk)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_trial_on_random_tokens_finds_it(mistake: str) -> None:
    objective, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as raised:
        try_out(objective)
    assert "Own" in str(raised.value)


def test_a_weight_of_the_sequence_with_its_scope_does_not_depend_on_the_chunks() -> None:
    outs = [run(own(geometric, scope="sequence"), chunk) for chunk in CHUNKS]
    p = outs[0].logp.exp()
    means = torch.stack([p[first : first + 4].mean() for first in (0, 4, 8)])
    for out in outs:
        torch.testing.assert_close(out.terms, -means.repeat_interleave(4) * outs[0].logp)
        torch.testing.assert_close(out.weight, means.repeat_interleave(4))


@pytest.mark.parametrize(("scope", "length"), [("token", 12), ("sequence", 3)])
def test_the_number_of_terms_is_the_natural_normaliser(scope: Scope, length: int) -> None:
    loss = (lambda t: -t.sequence_mean(t.logp)) if scope == "sequence" else (lambda t: -t.logp)
    for chunk in CHUNKS:
        assert run(own(loss, scope=scope), chunk).terms.shape == (length,)


OTHERS: dict[str, tuple[Callable[[Targets], Tensor], str]] = {
    "a normalisation by the mean": (lambda t: -t.p / t.p.mean() * t.logp, "Own.loss of a token depends on which other"),
    "a gradient through the others": (
        lambda t: -t.logp - t.logp.max() + t.logp.max().detach(),
        "Own.loss of a token depends on which other",
    ),
    "a wrong name": (lambda t: -t.log_p, "Own fails on a few random tokens .AttributeError: .* no attribute 'log_p'"),
    "what is not declared": (lambda t: -t.logp * t.reference_logp, "TypeError: .*NoneType.*into `needs`$"),
    "an error of its own": (lambda t: [][1], "Own fails on a few random tokens .IndexError: list index out of range"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", OTHERS)
def test_a_trial_also_finds(mistake: str) -> None:
    loss, message = OTHERS[mistake]
    with pytest.raises(ValueError, match=message):
        try_out(own(loss))


def test_an_error_of_the_objective_itself_is_told_with_its_name() -> None:
    def raises(t: Targets) -> Tensor:
        raise ValueError("beta is too small")

    with pytest.raises(ValueError, match="^Own: beta is too small$"):
        try_out(own(raises))


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_objectives_pass(path: Path) -> None:
    config = OmegaConf.load(path)
    objective = hydra.utils.instantiate({**config, "_convert_": "all"})
    if isinstance(objective, Objective):
        try_out(objective)
    else:
        assert isinstance(objective, OnPolicy) or path.stem == "base"


def test_a_trial_leaves_random_numbers_as_they_were_and_allows_an_objective_to_draw_some() -> None:
    drawn: list[float] = []

    def masked(t: Targets) -> Tensor:
        mask = torch.rand_like(t.logp)
        drawn.extend(mask.tolist())
        return -mask * t.logp

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    try_out(own(masked))
    assert torch.equal(torch.rand(3), expected) and len(set(drawn)) == 24


def test_a_compiled_objective_is_tried_without_its_compiler() -> None:
    def refuse(graph: object, inputs: object) -> Callable[..., object]:
        raise AssertionError("compiled")

    compiled = torch.compile(lambda p: p.amax(-1), backend=refuse)
    objective = own(lambda t: -t.statistic * t.logp, statistic=lambda self, p: compiled(p))
    try_out(objective)
    with pytest.raises(Exception, match="compiled"):
        compiled(torch.ones(2, 2))


def test_a_trial_is_of_what_the_objective_may_name_and_once() -> None:
    """A token of a large vocabulary; and a second trial of the same class and parameters calls nothing."""
    calls: list[int] = []

    def row_term(self: Objective, d: Distributions) -> Tensor:
        calls.append(d.logp.shape[1])
        return -d.logp[:, 200_000]

    objective = own(lambda t: t.row_term, row_term=row_term)
    try_out(objective)
    count = len(calls)
    assert count and calls[0] == 4096 and set(calls[1:]) == {262_144}
    try_out(objective)
    assert len(calls) == count


@pytest.mark.parametrize(
    "reads",
    [
        lambda p: p @ torch.arange(151_936) / 151_936,  # a number for each token of the model's own vocabulary
        lambda p: (p.to("cuda") if torch.cuda.is_available() else torch.ones(3) @ torch.ones(4)).amax(-1),
    ],
)
def test_what_can_be_tried_on_the_model_alone_is_left_to_the_training(reads: Callable[[Tensor], Tensor]) -> None:
    try_out(own(lambda t: -t.statistic * t.logp, statistic=lambda self, p: reads(p)))


OWN = """
from dataclasses import dataclass
{imports}
from losslab.objectives import Objective

@dataclass(frozen=True)
class Mine(Objective):
    def loss(self, t):
        return -t.logp.mean()
"""
WORDS = [
    "model=tiny",
    "dataset=embedded",
    "benchmark=[tiny_add]",
    "tracker=none",
    "loss=sft",
    "loss._target_=mine.Mine",
]


def test_a_plan_tells_a_mistake_if_the_module_imports_torch_and_else_does_not_import_it(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom losslab.composition.compose import composed\nfrom losslab.planning import plan\n"
        f"config = composed({WORDS!r})\n"
        "plans, rejected = plan.make_all({plan.Cell.of(config): config})\n"
        "print(len(plans), 'torch' in sys.modules, *rejected)"
    )
    outputs = []
    for imports in ("", "from torch import Tensor"):
        (tmp_path / "mine.py").write_text(OWN.format(imports=imports))
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == "1 False\n"
    assert outputs[1].startswith("0 True Mine.loss returns a tensor of shape () for 8 tokens: return one term for each")


def test_a_run_tells_it_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(OWN.format(imports=""))
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("mine", None)  # of another test
    config = composed([*WORDS, f"machine.results={tmp_path}/results"])
    run_cell(config)
    cell = Cell.of(config)
    assert cell.state()["state"] == "failed"
    assert cell.state()["error"].startswith("ValueError: Mine.loss returns a tensor of shape () for 8 tokens")
    assert not (tmp_path / "results/cache").exists()  # where data and the model that training begins with would be
    with pytest.raises(ValueError, match="Mine.loss returns a tensor of shape"):
        plan.make(config)  # this process has torch
    sys.modules.pop("mine")
