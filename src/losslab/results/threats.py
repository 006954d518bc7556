"""What the records hold against a conclusion: answers cut by length, known problems, scores of several engines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab.config.schema import Engine
from losslab.results.problem_shares import Scores
from losslab.results.table_formats import and_
from losslab.results.tables import Row

CUT = 5.0  # percent of answers cut by length, from which they are named

# Row, benchmark, the percentage of its answers that is cut, and that of these which is right; None if not on record.
Cut = tuple[str, str, float, float | None]


@dataclass(frozen=True)
class Seen:
    """What the training data holds of the benchmarks, as far as that was searched."""

    most: tuple[str, int, int] | None = None  # the benchmark of most known problems, their number, and all of its own
    unknown: bool = False  # whether that of some row and benchmark was not searched


def cut_answers(rows: Sequence[Row], benchmarks: Sequence[str], scores: Scores) -> Cut | None:
    """The row and benchmark with the largest share of answers cut by length, where it is known and not small."""
    found: list[Cut] = []
    for row in rows:
        contents = [scores.of(entry)["benchmarks"] for entry in row.scored]
        for name in benchmarks:
            parts = [content[name] for content in contents if content.get(name, {}).get("cut_by_length") is not None]
            share = float(np.mean([part["cut_by_length"] for part in parts])) if parts else 0.0
            if share >= CUT:
                right = [part.get("cut_and_right") for part in parts]
                known = [value for value in right if value is not None]
                found.append((row.label, name, share, 100 * float(np.mean(known)) / share if known == right else None))
    return max(found, key=lambda cut: (cut[2], *cut[:2]), default=None)


def seen_problems(trained: Sequence[Row], benchmarks: Sequence[str], scores: Scores) -> Seen:
    """The benchmark with the most problems whose question occurs in the training data."""
    counts, unknown = [], False
    for entry in (entry for row in trained for entry in row.scored):
        content = scores.of(entry)["benchmarks"]
        for name in benchmarks:
            exact = content.get(name, {}).get("seen_exact")
            unknown |= exact is None
            counts += [(exact, content[name]["problems"], name)] if exact else []
    count, problems, name = max(counts, default=(0, 0, ""))
    return Seen((name, count, problems) if count else None, unknown)


def engines(cells: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """The rows that each engine has scored; a row of several engines is named with its share of the cells.

    `cells` are the contents of scores.json of each row's cells. Engines are told apart by name, version and dtype, as
    far as the records of all cells have them.
    """
    facts = {label: [_facts(content) for content in contents] for label, contents in cells.items()}
    recorded = [part for of_row in facts.values() for part in of_row]
    on_record = [i for i in range(3) if all(part[i] for part in recorded)]
    rows_of: dict[str, list[str]] = {}
    for label, of_row in facts.items():
        named = [" ".join(str(part[i]) for i in on_record) for part in of_row]
        for engine in dict.fromkeys(named):
            count = named.count(engine)
            share = "" if count == len(named) else f" ({count} of {len(named)} cells)"
            rows_of.setdefault(engine, []).append(f"{label}{share}")
    return rows_of


def _facts(content: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Engine, version and dtype; of an endpoint its address, since what runs there is not on record."""
    if content.get("engine") == Engine.api:
        return "endpoint", content.get("endpoint"), None
    return content.get("engine"), content.get("engine_version"), content.get("generation", {}).get("dtype")


def engines_sentence(rows_of: Mapping[str, Sequence[str]]) -> str:
    """What a reader has to know where several engines made the scores; empty for one."""
    if len(rows_of) < 2:
        return ""
    told = "; ".join(f"{engine} scored {and_(rows)}" for engine, rows in rows_of.items())
    return (
        "The scores come from several engines, whose probabilities of tokens differ slightly, so that part of a "
        f"difference may be theirs: {told}."
    )
