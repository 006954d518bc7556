"""Notes on metrics that are easily misread or overlooked, shown only if the records give a reason."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from losslab.report.rows import ReportRow
from losslab.report.training import ProbabilityChange
from losslab.results.problem_shares import Scores

SMALL = 3.0  # how many times smaller than cross-entropy a loss must be for a note
MOVED = 0.02  # relative change from which a quantity counts as risen or fallen
FEW = 0.25  # effective fraction below which few tokens carry a step
UNLEARNED = 0.5  # probability of the end of an answer
MOSTLY = 0.5  # share of clipped steps
BEGIN, END = (0.0, 0.1), (0.9, 1.0)  # the stretches of training that are compared


@dataclass(frozen=True)
class DiagnosticNote:
    warning: bool
    title: str
    facts: list[tuple[str, str]]  # label of a row, and what its records show
    text: str  # how to interpret it


Fact = tuple[str, str]


def diagnostic_notes(
    rows: Sequence[ReportRow], changes: Sequence[ProbabilityChange], scores: Scores
) -> list[DiagnosticNote]:
    """The notes that apply to rows of one model and to the changes of their probabilities."""
    changed = {change.label: change for change in changes}
    candidates = [
        DiagnosticNote(
            True,
            "The end of an answer is not learned",
            [fact for row in rows for fact in _no_end(row)],
            "Samples do not end. An objective that weights tokens by p learns little where p starts near zero; "
            "loss=dft_floor is the remedy of DFT's authors.",
        ),
        DiagnosticNote(
            True,
            "Updates were skipped",
            [fact for row in rows for fact in _skipped(row)],
            "Their gradient was not finite. A lower optimizer.lr may help.",
        ),
        DiagnosticNote(True, "The evaluation warns", list(_warnings(rows, scores)), ""),
        DiagnosticNote(
            False,
            "The loss is much smaller than cross-entropy: that is normal",
            [fact for row in rows for fact in _small_loss(row)],
            "The objective weights the cross-entropy of each token, DFT by the token's own probability: −p log p is at "
            "most 0.37 and near zero at both ends, usually 10 to 20 times below cross-entropy. Compare cross-entropy "
            "and accuracy, not losses.",
        ),
        DiagnosticNote(
            False,
            "Cross-entropy rises while the loss falls: probabilities polarise",
            [fact for row in rows for fact in _polarised(row, changed.get(row.label))],
            "The objective gives up tokens of low probability, whose −log p grows without bound, and sharpens the "
            "others. Accuracy decides whether that is good.",
        ),
        DiagnosticNote(
            False,
            "Few tokens carry the steps",
            [fact for row in rows for fact in _few(row)],
            "The effective fraction is (Σw)²/(N Σw²): most answer tokens have little weight at the end of training.",
        ),
        DiagnosticNote(
            False,
            "Most steps are clipped",
            [fact for row in rows for fact in _clipped(row)],
            "Objectives whose gradients differ in size are then not compared at the same step size.",
        ),
        DiagnosticNote(
            False,
            "All objectives were trained at the same learning rate",
            list(_one_rate(rows)),
            "The best rate depends on the objective, and DFT's often differs from SFT's. Compare each at its best.",
        ),
    ]
    return [note for note in candidates if note.facts]


def _no_end(row: ReportRow) -> Iterator[Fact]:
    end = _mean(row, "eos_p", *END)
    if end is not None and end < UNLEARNED:
        yield row.label, f"the token that ends an answer has a probability of {end:.2g} at the end of training"


def _skipped(row: ReportRow) -> Iterator[Fact]:
    if skipped := sum(bool(step.get("skipped")) for cell in row.trained for step in cell.metrics):
        yield row.label, f"{skipped} updates"


def _small_loss(row: ReportRow) -> Iterator[Fact]:
    loss, entropy = (_mean(row, key, *END) for key in ("loss", "cross_entropy"))
    if loss and entropy and 0 < loss < entropy / SMALL:
        yield row.label, f"{loss:.2g} against {entropy:.2g} nats at the end of training, {entropy / loss:.0f} times"


def _polarised(row: ReportRow, change: ProbabilityChange | None) -> Iterator[Fact]:
    loss, entropy = ([_mean(row, key, *when) for when in (BEGIN, END)] for key in ("loss", "cross_entropy"))
    if None in (*loss, *entropy):
        return
    (early, late), (low, high) = loss, entropy
    assert early is not None and late is not None and low is not None and high is not None
    if late < early * (1 - MOVED) and high > low * (1 + MOVED):
        text = f"cross-entropy from {low:.3g} to {high:.3g}, loss from {early:.2g} to {late:.2g}"
        if change and change.below[1] > change.below[0] and change.above[1] > change.above[0]:
            text += f"; tokens with p < 0.01 from {change.below[0]:.2g}% to {change.below[1]:.2g}%"
            text += f", with p ≥ 0.9 from {change.above[0]:.3g}% to {change.above[1]:.3g}%"
        yield row.label, text


def _few(row: ReportRow) -> Iterator[Fact]:
    carried = _mean(row, "effective_fraction", *END)
    if carried is not None and carried < FEW:
        yield row.label, f"{100 * carried:.0f}% of the answer tokens"


def _clipped(row: ReportRow) -> Iterator[Fact]:
    clips = [(cell, cell.config.get("train", {}).get("clip")) for cell in row.trained]
    steps = [(step.get("gradient_norm"), clip) for cell, clip in clips if clip is not None for step in cell.metrics]
    clipped = [norm > clip for norm, clip in steps if norm is not None]
    if clipped and (share := sum(clipped) / len(clipped)) > MOSTLY:
        yield row.label, f"{100 * share:.0f}% of the gradients have a norm above train.clip"


def _one_rate(rows: Sequence[ReportRow]) -> Iterator[Fact]:
    trained = [row for row in rows if row.row.trains and "optimizer.lr" in row.row.config]
    rates = {row.row.config["optimizer.lr"] for row in trained}
    if len({row.row.names["loss"] for row in trained}) > 1 and len(rates) == 1:
        (rate,) = rates
        yield f"optimizer.lr={rate:g}", f"optimizer.lr={rate / 2:g},{rate:g},{2 * rate:g} sweeps it"


def _warnings(rows: Sequence[ReportRow], scores: Scores) -> Iterator[Fact]:
    """The warnings of the evaluations, with the rows concerned."""
    labels: dict[str, dict[str, None]] = {}
    for row in rows:
        for entry in row.row.scored:
            for text in scores.of(entry)["warnings"]:
                labels.setdefault(text, {})[row.label] = None
    for text, of_text in labels.items():
        yield ", ".join(of_text), text


def _mean(row: ReportRow, key: str, begin: float, end: float) -> float | None:
    """The mean over a row's cells of a metric over a part of training."""
    values = [value for cell in row.trained if (value := cell.mean(key, begin, end)) is not None]
    return sum(values) / len(values) if values else None
