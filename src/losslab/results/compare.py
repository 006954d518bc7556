"""Two runs side by side: how much better one is than the other, problem by problem, from their records alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from losslab.config.schema import VerdictName
from losslab.files import read_lines
from losslab.statistics.intervals import Estimate, paired

SAME = ("temperature", "top_p", "max_new_tokens")  # else a difference is one of protocols
WORTH_KNOWING = ("prompt", "stop", "engine", "seeds")  # these may belong to the model, and are only named


def compare(paths: tuple[str, str], verdict: str | None = None) -> str:
    """The second run against the first, as a Markdown table with 95% intervals, and what else sets them apart.

    Args:
        paths: folders of cells, or of the scores of one protocol.
        verdict: `official` or `corrected`; without it the one of both runs' tables.

    Raises:
        ValueError: no scores, or runs that do not compare: another protocol, verdict, or set of problems.
    """
    first, second = folders(*paths)
    protocols = [yaml.safe_load((folder / "protocol.yaml").read_text()) for folder in (first, second)]
    for key in SAME:
        if protocols[0][key] != protocols[1][key]:
            raise ValueError(
                f"{first} and {second} have different protocols ({key}: {protocols[0][key]} and {protocols[1][key]}); "
                "score both under the same"
            )
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (first, second)]
    sets = [set(found["benchmarks"]) for found in scores]
    if sets[0] != sets[1]:
        alone = ", ".join(sorted(sets[0] ^ sets[1]))
        raise ValueError(f"only one of {first} and {second} is scored on {alone}; score both on the same benchmarks")
    for name in sorted(sets[0]):
        if protocols[0]["benchmarks"][name] != protocols[1]["benchmarks"][name]:
            raise ValueError(f"{name} is another set of problems in {second} than in {first}; score one of them again")
    if verdict is None and scores[0]["verdict"] != scores[1]["verdict"]:
        raise ValueError(
            f"{first} has the {scores[0]['verdict']} verdict in its table and {second} the {scores[1]['verdict']} one; "
            "add verdict=official or verdict=corrected"
        )
    verdict = verdict or scores[0]["verdict"]
    if verdict not in list(VerdictName):
        raise ValueError(f"verdict={verdict} does not exist; there are {', '.join(VerdictName)}")
    return "\n".join(
        [
            f"A: {first}",
            f"B: {second}",
            table(verdicts(first, verdict), verdicts(second, verdict), verdict),
            *(
                f"note: {key} differs: {protocols[0][key]!r} and {protocols[1][key]!r}"
                for key in WORTH_KNOWING
                if protocols[0][key] != protocols[1][key]
            ),
        ]
    )


def table(a: dict[str, NDArray[np.float64]], b: dict[str, NDArray[np.float64]], verdict: str) -> str:
    """Scores and differences; the problems that B solves more often than A, and less often, as better and worse."""
    differences = paired(*({name: run[name].mean(1)[None] for name in a} for run in (a, b)))
    lines = [
        f"| {verdict} verdict | A | B | B - A | 95% interval | better | worse |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    means = {name: (100 * a[name].mean(), 100 * b[name].mean()) for name in a}
    means["average"] = tuple(np.mean(list(means.values()), axis=0))
    for name in [*a, "average"]:
        (left, right), difference = means[name], differences[name]
        change = b[name].mean(1) - a[name].mean(1) if name in a else np.zeros(0)
        counts = f"{(change > 0).sum()} | {(change < 0).sum()}" if name in a else " | "
        lines.append(
            f"| {name} | {left:.1f} | {right:.1f} | {difference.mean:+.1f} | {_interval(difference)} | {counts} |"
        )
    return "\n".join(lines)


def _interval(difference: Estimate) -> str:
    return "–" if difference.half is None else f"{difference.low:+.1f} to {difference.high:+.1f}"


def verdicts(folder: Path, verdict: str) -> dict[str, NDArray[np.float64]]:
    """The (problems, samples) verdicts of each benchmark in a folder of `evaluate`."""
    known: dict[str, Any] = json.loads((folder / "scores.json").read_text())["benchmarks"]
    rows = {name: [record["samples"] for record in read_lines(folder / f"{name}.jsonl")] for name in known}
    return {
        name: np.array([[sample[verdict] for sample in row[: known[name]["samples"]]] for row in rows[name]], float)
        for name in known
    }


def folders(first: str, second: str) -> tuple[Path, Path]:
    """The folders of scores that two paths stand for; of cells with several, the ones of the same protocol."""
    found = [_scored(path) for path in (first, second)]
    alike = [(a, b) for a in found[0] for b in found[1] if a.name == b.name]
    if len(found[0]) == len(found[1]) == 1:
        return found[0][0], found[1][0]
    if len(alike) == 1:
        return alike[0]
    names = [", ".join(folder.name for folder in own) for own in found]
    raise ValueError(
        f"{first} is scored under {names[0]} and {second} under {names[1]}; name two folders of scores, as in "
        f"{found[0][0]}"
    )


def _scored(path: str) -> list[Path]:
    folder = Path(path)
    found = (
        [folder]
        if (folder / "scores.json").is_file()
        else sorted(p.parent for p in folder.glob("scores/*/scores.json"))
    )
    if not found:
        raise ValueError(f"{path} holds no scores: name a folder of results/cells that is scored")
    return found
