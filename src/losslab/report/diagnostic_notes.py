"""What a reader may take for a fault, or overlook: said only where the records show it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from losslab.config.schema import BASE
from losslab.files import read_json
from losslab.report.cells import Group
from losslab.report.training import Change

SMALL = 3.0  # times that a loss is smaller than cross-entropy before anyone wonders
MOVED = 0.02  # share by which a quantity has to move to have risen or fallen
FEW = 0.25  # effective fraction below which few tokens carry a step
UNLEARNED = 0.5  # probability of the end of an answer
MOSTLY = 0.5  # share of clipped steps
BEGIN, END = (0.0, 0.1), (0.9, 1.0)  # the stretches of training that are compared


@dataclass(frozen=True)
class Hint:
    warning: bool
    title: str
    facts: list[tuple[str, str]]  # of a row, by its label; what the records show
    text: str  # what to make of it


Fact = tuple[str, str]


def hints(groups: Sequence[Group], changes: Sequence[Change]) -> list[Hint]:
    """Of rows of one model and of what happened to their probabilities."""
    changed = {change.label: change for change in changes}
    found = [
        Hint(
            True,
            "The end of an answer is not learned",
            [fact for group in groups for fact in _no_end(group)],
            "Samples run on. An objective that weights tokens by p teaches little where p starts near zero; "
            "loss=dft_floor is the remedy of DFT's authors.",
        ),
        Hint(
            True,
            "Updates were skipped",
            [fact for group in groups for fact in _skipped(group)],
            "Their gradient was not finite. A lower optimizer.lr may help.",
        ),
        Hint(True, "The evaluation warns", list(_warnings(groups)), ""),
        Hint(
            False,
            "The loss is much smaller than cross-entropy: that is normal",
            [fact for group in groups for fact in _small_loss(group)],
            "The objective weights the cross-entropy of each token, DFT by the token's own probability: −p log p is at "
            "most 0.37 and near zero at both ends, usually 10 to 20 times below cross-entropy. Compare cross-entropy "
            "and accuracy, not losses.",
        ),
        Hint(
            False,
            "Cross-entropy rises while the loss falls: probabilities polarise",
            [fact for group in groups for fact in _polarised(group, changed.get(group.label))],
            "The objective gives up tokens of low probability, whose −log p grows without bound, and sharpens the "
            "others. Accuracy decides whether that is good.",
        ),
        Hint(
            False,
            "Few tokens carry the steps",
            [fact for group in groups for fact in _few(group)],
            "The effective fraction is (Σw)²/(N Σw²): most answer tokens have little weight at the end of training.",
        ),
        Hint(
            False,
            "Most steps are clipped",
            [fact for group in groups for fact in _clipped(group)],
            "Objectives whose gradients differ in size are then not compared at the same step size.",
        ),
        Hint(
            False,
            "All objectives were trained at the same learning rate",
            list(_one_rate(groups)),
            "An objective may want another one than SFT, and DFT often does. Compare each at its own best.",
        ),
    ]
    return [hint for hint in found if hint.facts]


def _no_end(group: Group) -> Iterator[Fact]:
    end = _mean(group, "eos_p", *END)
    if end is not None and end < UNLEARNED:
        yield group.label, f"the token that ends an answer has a probability of {end:.2g} at the end of training"


def _skipped(group: Group) -> Iterator[Fact]:
    if skipped := sum(bool(row.get("skipped")) for run in group.trained for row in run.metrics):
        yield group.label, f"{skipped} updates"


def _small_loss(group: Group) -> Iterator[Fact]:
    loss, entropy = (_mean(group, key, *END) for key in ("loss", "cross_entropy"))
    if loss and entropy and 0 < loss < entropy / SMALL:
        yield group.label, f"{loss:.2g} against {entropy:.2g} nats at the end of training, {entropy / loss:.0f} times"


def _polarised(group: Group, change: Change | None) -> Iterator[Fact]:
    loss, entropy = ([_mean(group, key, *when) for when in (BEGIN, END)] for key in ("loss", "cross_entropy"))
    if None in (*loss, *entropy):
        return
    (early, late), (low, high) = loss, entropy
    assert early is not None and late is not None and low is not None and high is not None
    if late < early * (1 - MOVED) and high > low * (1 + MOVED):
        text = f"cross-entropy from {low:.3g} to {high:.3g}, loss from {early:.2g} to {late:.2g}"
        if change and change.below[1] > change.below[0] and change.above[1] > change.above[0]:
            text += f"; tokens with p < 0.01 from {change.below[0]:.2g}% to {change.below[1]:.2g}%"
            text += f", with p ≥ 0.9 from {change.above[0]:.3g}% to {change.above[1]:.3g}%"
        yield group.label, text


def _few(group: Group) -> Iterator[Fact]:
    carried = _mean(group, "effective_fraction", *END)
    if carried is not None and carried < FEW:
        yield group.label, f"{100 * carried:.0f}% of the answer tokens"


def _clipped(group: Group) -> Iterator[Fact]:
    steps = [(row.get("gradient_norm"), run.config["train"]["clip"]) for run in group.trained for row in run.metrics]
    known = [norm > clip for norm, clip in steps if norm is not None]
    if known and (share := sum(known) / len(known)) > MOSTLY:
        yield group.label, f"{100 * share:.0f}% of the gradients have a norm above train.clip"


def _one_rate(groups: Sequence[Group]) -> Iterator[Fact]:
    trained = [group for group in groups if group.row.names["loss"] != BASE]
    rates = {group.row.config["optimizer.lr"] for group in trained}
    if len({group.row.names["loss"] for group in trained}) > 1 and len(rates) == 1:
        (rate,) = rates
        yield f"optimizer.lr={rate:g}", f"optimizer.lr={rate / 2:g},{rate:g},{2 * rate:g} sweeps it"


def _warnings(groups: Sequence[Group]) -> Iterator[Fact]:
    """What the evaluations warned of, with the rows that it concerns."""
    found: dict[str, dict[str, None]] = {}
    for group in groups:
        for entry in group.row.scored:
            scores = read_json(entry.folder / "scores" / str(entry.protocol) / "scores.json")
            for text in scores.get("warnings", []):
                found.setdefault(text, {})[group.label] = None
    for text, labels in found.items():
        yield ", ".join(labels), text


def _mean(group: Group, key: str, begin: float, end: float) -> float | None:
    """Of a metric over a stretch of training, the mean of the row's cells."""
    values = [value for run in group.trained if (value := run.mean(key, begin, end)) is not None]
    return sum(values) / len(values) if values else None
