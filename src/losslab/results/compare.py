"""The paired difference of two cells, problem by problem, from their records alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from losslab.config.log import printable
from losslab.config.schema import VerdictName
from losslab.records.reading import DamagedRecord, read_scores, read_yaml
from losslab.results.right_shares import Shares, originals_of, right_shares
from losslab.statistics.intervals import Estimate, paired
from losslab.statistics.versions import Originals

SAME = ("temperature", "top_p", "max_new_tokens")  # must be equal, or the difference would be one of protocols
WORTH_KNOWING = (
    "prompt",
    "question_and_examples",
    "template_arguments",
    "image_arguments",
    "stop",
    "stop_ids",
    "engine",
    "seeds",
)  # these may belong to the model: differences are only reported
PROTOCOL = (*SAME, *WORTH_KNOWING, "benchmarks")


def compare(paths: tuple[str, str], verdict: str | None = None) -> str:
    """The second cell minus the first, as a Markdown table with 95% intervals, and other differences of their
    protocols.

    Args:
        paths: folders of cells, or of the scores of one protocol.
        verdict: `official` or `corrected`; None for the one that both cells' tables use.

    Raises:
        ValueError: scores are missing or damaged, or differ in protocol, verdict or problems.
    """
    first, second = folders(*paths)
    protocols = [_protocol(folder) for folder in (first, second)]
    for key in SAME:
        if protocols[0][key] != protocols[1][key]:
            raise ValueError(
                f"{first} and {second} have different protocols ({key}: {protocols[0][key]} and {protocols[1][key]}); "
                "score both under the same"
            )
    scores = [_scores(folder) for folder in (first, second)]
    benchmarks = [set(content["benchmarks"]) for content in scores]
    if benchmarks[0] != benchmarks[1]:
        alone = ", ".join(sorted(benchmarks[0] ^ benchmarks[1]))
        raise ValueError(f"only one of {first} and {second} is scored on {alone}; score both on the same benchmarks")
    for name in sorted(benchmarks[0]):
        if protocols[0]["benchmarks"].get(name) != protocols[1]["benchmarks"].get(name):
            raise ValueError(f"{name} has other problems in {second} than in {first}; score one of them again")
    if verdict is None and scores[0]["verdict"] != scores[1]["verdict"]:
        raise ValueError(
            f"the table of {first} has the {scores[0]['verdict']} verdict and that of {second} the "
            f"{scores[1]['verdict']} one; add verdict=official or verdict=corrected"
        )
    verdict = verdict or str(scores[0]["verdict"])
    if verdict not in list(VerdictName):
        raise ValueError(f"verdict={verdict} does not exist; there are {', '.join(VerdictName)}")
    lines = [
        f"A: {first}",
        f"B: {second}",
        *_table(
            right_shares(first, scores[0], verdict),
            right_shares(second, scores[1], verdict),
            verdict,
            originals_of(scores[1]) | originals_of(scores[0]),
        ),
    ]
    for key in WORTH_KNOWING:
        if protocols[0][key] != protocols[1][key]:
            lines.append(f"note: {key} differs: {protocols[0][key]!r} and {protocols[1][key]!r}")
    return "\n".join(map(printable, [*lines, *_notes(*scores)]))


def _notes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """How the scores of the same benchmarks were made in different ways."""
    graders = [scores.get("graders", {}) for scores in (a, b)]
    for name in sorted(a["benchmarks"]):
        counts = [scores["benchmarks"][name].get("samples") for scores in (a, b)]
        if counts[0] != counts[1]:
            yield f"note: samples of each problem of {name} differ: {counts[0]} and {counts[1]}"
        if graders[0].get(name) != graders[1].get(name):
            yield f"note: {name} is graded by different versions of the grader, or by unknown ones"


def _protocol(folder: Path) -> dict[str, Any]:
    protocol = dict.fromkeys(PROTOCOL) | read_yaml(folder / "protocol.yaml")
    if not isinstance(protocol["benchmarks"], dict):
        raise DamagedRecord(folder / "protocol.yaml", "names no benchmarks")
    return protocol


def _scores(folder: Path) -> dict[str, Any]:
    scores = read_scores(folder / "scores.json")
    if "verdict" not in scores:
        raise DamagedRecord(folder / "scores.json", "names no verdict")
    return scores


def _table(a: Shares, b: Shares, verdict: str, originals: Mapping[str, Originals]) -> list[str]:
    """Scores and differences; `better` and `worse` count the problems that B solves more and less often than A."""
    for name in a:
        if len(a[name]) != len(b[name]):
            raise ValueError(f"{name}: {len(a[name])} and {len(b[name])} problems; score one of the cells again")
    differences = paired({name: a[name][None] for name in a}, {name: b[name][None] for name in a}, originals)
    lines = [
        f"| {verdict} verdict | A | B | B - A | 95% interval | better | worse |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    means = {name: (100 * a[name].mean(), 100 * b[name].mean()) for name in a}
    means["average"] = tuple(np.mean(list(means.values()), axis=0))
    for name in [*a, "average"]:
        (left, right), difference = means[name], differences[name]
        counts = f"{(b[name] > a[name]).sum()} | {(b[name] < a[name]).sum()}" if name in a else " | "
        lines.append(
            f"| {name} | {left:.1f} | {right:.1f} | {difference.mean:+.1f} | {_interval(difference)} | {counts} |"
        )
    return lines


def _interval(difference: Estimate) -> str:
    return "–" if difference.half is None else f"{difference.low:+.1f} to {difference.high:+.1f}"


def folders(first: str, second: str) -> tuple[Path, Path]:
    """The folders of scores of two paths; if a cell has several, those of the protocol that both have."""
    candidates = [_score_folders(path) for path in (first, second)]
    alike = [(a, b) for a in candidates[0] for b in candidates[1] if a.name == b.name]
    if len(candidates[0]) == len(candidates[1]) == 1:
        return candidates[0][0], candidates[1][0]
    if len(alike) == 1:
        return alike[0]
    names = [", ".join(folder.name for folder in group) for group in candidates]
    raise ValueError(
        f"{first} is scored under {names[0]} and {second} under {names[1]}; give two folders of scores, such as "
        f"{candidates[0][0]}"
    )


def _score_folders(path: str) -> list[Path]:
    folder = Path(path)
    if (folder / "scores.json").is_file():
        return [folder]
    scored = sorted(scores.parent for scores in folder.glob("scores/*/scores.json"))
    if not scored:
        raise ValueError(f"{path} holds no scores: give a scored cell of results/cells")
    return scored
