"""What a reader may take for a fault, or overlook: said only where the records show it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from losslab.files import read_json
from losslab.report.runs import Group
from losslab.report.training import Change
from losslab.schema import BASE

SMALL = 3.0  # times that a loss is smaller than cross-entropy before anyone wonders
MOVED = 0.02  # share by which a quantity has to move to have risen or fallen
FEW = 0.25  # effective fraction below which few tokens carry a step
UNLEARNED = 0.5  # probability of the end of an answer
MOSTLY = 0.5  # share of clipped steps
BEGIN, END = (0.0, 0.1), (0.9, 1.0)  # the stretches of training that are compared


@dataclass(frozen=True)
class Hint:
    kind: str  # note | warning
    title: str
    text: str


def hints(groups: Sequence[Group], changes: Sequence[Change]) -> list[Hint]:
    """Of rows of one model and of what happened to their probabilities; warnings first."""
    changed = {change.label: change for change in changes}
    found = [hint for group in groups for hint in _of_row(group, changed.get(group.label))]
    found += [*_learning_rates(groups), *_warnings(groups)]
    return sorted(found, key=lambda hint: hint.kind != "warning")


def _of_row(group: Group, change: Change | None) -> Iterator[Hint]:
    label = group.label
    loss, entropy = (_mean(group, key, *END) for key in ("loss", "cross_entropy"))
    if loss and entropy and 0 < loss < entropy / SMALL:
        yield Hint(
            "note",
            f"{label}: the loss is {entropy / loss:.0f} times smaller than cross-entropy",
            f"That is normal ({loss:.2g} against {entropy:.2g} nats at the end): the objective weights the "
            "cross-entropy of each token, DFT by the token's own probability, so that −p log p is at most 0.37 and "
            "near zero at both ends. For DFT, 10 to 20 times is usual. Compare cross-entropy and accuracy, not losses.",
        )
    early = {key: _mean(group, key, *BEGIN) for key in ("loss", "cross_entropy")}
    if loss and entropy and early["loss"] and early["cross_entropy"]:
        if loss < early["loss"] * (1 - MOVED) and entropy > early["cross_entropy"] * (1 + MOVED):
            ends = ""
            if change and change.below[1] > change.below[0] and change.above[1] > change.above[0]:
                ends = (
                    f" Probabilities polarise: tokens with p < 0.01 went from {change.below[0]:.2g}% to "
                    f"{change.below[1]:.2g}%, those with p ≥ 0.9 from {change.above[0]:.3g}% to {change.above[1]:.3g}%."
                )
            yield Hint(
                "note",
                f"{label}: cross-entropy rises while the loss falls",
                f"From {early['cross_entropy']:.3g} to {entropy:.3g} nats, with the loss down from {early['loss']:.2g} "
                f"to {loss:.2g}.{ends} The objective gives up tokens of low probability, whose −log p grows without "
                "bound, and sharpens the others. Accuracy decides whether that is good.",
            )
    carried = _mean(group, "effective_fraction", *END)
    if carried is not None and carried < FEW:
        yield Hint(
            "note",
            f"{label}: {100 * carried:.0f}% of the answer tokens carry the steps",
            "The effective fraction, (Σw)²/(N Σw²), is low at the end of training: most tokens have little weight.",
        )
    end = _mean(group, "eos_p", *END)
    if end is not None and end < UNLEARNED:
        yield Hint(
            "warning",
            f"{label}: the end of an answer is not learned",
            f"The token that ends an answer has a probability of {end:.2g} at the end of training, so samples run on. "
            "An objective that weights by p teaches it little where it starts near zero; loss=dft_floor is the remedy "
            "of DFT's authors.",
        )
    steps = [(row, run.config["train"]["clip"]) for run in group.trained for row in run.metrics]
    known = [(row["gradient_norm"], clip) for row, clip in steps if row.get("gradient_norm") is not None]
    if known and (share := sum(norm > clip for norm, clip in known) / len(known)) > MOSTLY:
        yield Hint(
            "note",
            f"{label}: {100 * share:.0f}% of the steps are clipped",
            "Their gradient norm is above train.clip. Objectives whose gradients differ in size are then not compared "
            "at the same step size.",
        )
    if skipped := sum(bool(row.get("skipped")) for row, _ in steps):
        yield Hint("warning", f"{label}: {skipped} updates were skipped", "Their gradient was not finite.")


def _mean(group: Group, key: str, begin: float, end: float) -> float | None:
    values = [value for run in group.trained if (value := run.mean(key, begin, end)) is not None]
    return sum(values) / len(values) if values else None


def _learning_rates(groups: Sequence[Group]) -> Iterator[Hint]:
    """Several objectives at one and the same rate."""
    trained = [group for group in groups if group.row.names["loss"] != BASE]
    rates = {run.config["optimizer"]["lr"] for group in trained for run in group.runs}
    if len({group.row.names["loss"] for group in trained}) > 1 and len(rates) == 1:
        (rate,) = rates
        yield Hint(
            "note",
            f"All objectives were trained at the same learning rate, {rate:g}",
            "An objective may want another one than SFT (DFT often does). Compare each at its own best: "
            f"optimizer.lr={rate / 2:g},{rate:g},{2 * rate:g} sweeps it.",
        )


def _warnings(groups: Sequence[Group]) -> Iterator[Hint]:
    """What the evaluations warned of, with the rows that it concerns."""
    found: dict[str, dict[str, None]] = {}
    for group in groups:
        for entry in group.row.scored:
            for text in read_json(entry.folder / "scores" / str(entry.protocol) / "scores.json").get("warnings", []):
                found.setdefault(text, {})[group.label] = None
    for text, labels in found.items():
        yield Hint("warning", f"{', '.join(labels)}: the evaluation warns", text)
