"""The cells of a sweep, from their records and from the sweep's file."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from losslab.config.prompt import MODEL_PROMPT
from losslab.config.schema import BASE, Config
from losslab.records.cell_records import CellRecord
from losslab.records.reading import DamagedRecord, read_scores, read_yaml, score_files
from losslab.results.right_shares import originals_of, right_shares
from losslab.statistics.intervals import Estimate
from losslab.statistics.versions import Versions

# Keys that act through others, and groups that change nothing that a table shows.
INDIRECT = {"model.learning_rate", "model.architecture", "model.trust_remote_code", "dataset.source"}
NOT_SCIENCE = {"machine", "tracker", "sweep", "names", "seed", "stage", "plan", "force", "benchmark", "eval", "prompt"}
DAMAGED_KEY = "damaged"  # of a configuration that cannot be read: the name of its cell

Part = tuple[str, str, str]  # benchmark, a column of its rows such as `level`, and a value there


@dataclass(frozen=True)
class CellScores:
    """A cell's scores under one protocol; also a cell that is not scored, or not started."""

    folder: Path
    names: dict[str, Any]  # `method` is the one of this sweep
    seed: int
    config: dict[str, Any]  # what decides its results (`science`), by dotted key
    protocol: str | None  # name and hash of the protocol of its scores; None if not scored
    scores: dict[str, Estimate]  # percent, by benchmark, with the interval over problems; empty if not scored
    samples: dict[str, int] = field(default_factory=dict)  # answers to each problem, by benchmark
    verdict: str | None = None  # of the scores
    prompt: str = MODEL_PROMPT  # of the scores: the name of its file, or `model` for the model's own
    recipe: str | None = None  # the same for all seeds of one configuration, objective's code and data
    touched: str = ""  # when the record was last written, as ISO 8601
    faults: tuple[str, ...] = ()  # a line for each file of the record that cannot be used
    breakdown: dict[Part, Estimate] = field(default_factory=dict)  # as `scores`, of the problems with one value
    versions: dict[str, Versions] = field(default_factory=dict)  # by benchmark with versions of problems, in percent
    problems: dict[str, str] = field(default_factory=dict)  # the hash of each benchmark's problems
    sampling_seed: int | None = None  # of the protocol; None where decoding is greedy
    tasks: frozenset[str] = frozenset()  # benchmarks of lm_eval, whose answers are not sampled

    @property
    def trains(self) -> bool:
        return trains(self.names)

    @property
    def scores_folder(self) -> Path:
        return self.folder / "scores" / str(self.protocol)

    def sampled_with(self, benchmarks: Collection[str]) -> int | None:
        """The seed by which the answers to some of these benchmarks are sampled; None where none are."""
        sampled = self.scores.keys() & (set(benchmarks) - self.tasks)
        return self.sampling_seed if sampled else None


def scores_of_sweep(sweep: str, records: Iterable[CellRecord]) -> Iterator[CellScores]:
    """The cells of a sweep, in the order in which they were declared, once for each protocol of their scores."""
    members = [record for record in records if sweep in record.sweeps]
    for record in sorted(members, key=lambda record: record.state["declared"]):
        yield from _of_cell(record, sweep)


def _of_cell(record: CellRecord, sweep: str) -> Iterator[CellScores]:
    state, faults = record.state, list(record.faults)
    names = {"method": None} | state["names"] | {"method": state.get("methods", {}).get(sweep)}
    try:
        config = science(record.config)
    except DamagedRecord as damage:
        faults.append(str(damage))
        config = {DAMAGED_KEY: record.folder.name, "loss": names["loss"]}  # a separate row
    scored: list[dict[str, Any]] = []
    for path in score_files(record.folder):
        try:
            scored.append({"protocol": path.parent.name, **_scores(path)})
        except DamagedRecord as damage:
            faults.append(str(damage))
            continue
        try:
            scored[-1] |= _protocol(path.parent)
        except DamagedRecord as damage:  # the scores are shown, and pair with no others
            faults.append(str(damage))
    common = {"recipe": state.get("recipe"), "touched": state["updated"], "faults": tuple(faults)}
    for of_protocol in scored or [{"protocol": None, "scores": {}}]:
        yield CellScores(record.folder, names, state["seed"], config, **of_protocol, **common)


def _scores(path: Path) -> dict[str, Any]:
    """The content of a scores.json, as fields of `CellScores`."""
    content = read_scores(path)
    originals = originals_of(content)
    for name, part in content["benchmarks"].items():
        if "samples" not in part or "interval" not in part:
            raise DamagedRecord(path, f"lacks the samples or the interval of {name}")
    parts = content["benchmarks"].items()
    of_versions = {"benchmarks": {name: content["benchmarks"][name] for name in originals}}
    shares = right_shares(path.parent, of_versions, content.get("verdict", "official"))
    return {
        "versions": {name: Versions(100 * shares[name], originals[name]) for name in originals},
        "scores": {name: Estimate.recorded(part["score"], part["interval"]) for name, part in parts},
        "samples": {name: part["samples"] for name, part in parts},
        "verdict": content.get("verdict"),
        "prompt": content.get("prompt", MODEL_PROMPT),
        # No grader of ours judges a task; an older record, which names no graders, does not tell tasks apart.
        "tasks": frozenset(content["benchmarks"]) - set(content.get("graders", content["benchmarks"])),
        "breakdown": {
            (name, column, value): Estimate.recorded(row["score"], row["interval"])
            for name, part in parts
            for column, values in part.get("breakdown", {}).items()
            for value, row in values.items()
        },
    }


def problem_hashes(scores: Path) -> dict[str, str]:
    """The hash of each benchmark's problems in a folder of scores. Raises DamagedRecord."""
    return _protocol(scores)["problems"]


def _protocol(scores: Path) -> dict[str, Any]:
    """The content of a protocol.yaml, as fields of `CellScores`."""
    path = scores / "protocol.yaml"
    protocol = read_yaml(path)
    benchmarks, temperature, seed = (protocol.get(key) for key in ("benchmarks", "temperature", "seed"))
    if not isinstance(benchmarks, dict):
        raise DamagedRecord(path, "names no benchmarks")
    sampled = isinstance(temperature, int | float) and temperature > 0 and isinstance(seed, int)
    problems = {name: str(sha256) for name, sha256 in benchmarks.items()}
    return {"problems": problems, "sampling_seed": seed if sampled else None}


def promised(config: Config) -> CellScores:
    """A declared cell without a record; its folder is named as the record would be, without the hash."""
    names = config.names
    parts = [names.model, names.dataset, names.loss] if config.trains else [names.model, BASE]
    folder = Path(config.machine.results) / "cells" / "-".join([*parts, f"s{config.seed}"])
    return CellScores(folder, asdict(names), config.seed, science(asdict(config)), None, {})


def science(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that decides a cell's results, except the seed, by dotted key; for a base only its model.

    Paths under the results folder are relative to it, so that records can be moved.
    """
    names, results = config["names"], config["machine"]["results"]
    groups = [key for key in config if key not in NOT_SCIENCE] if trains(names) else ("model",)
    flat: dict[str, Any] = {}
    for key in groups:
        flat |= flatten(config.get(key), key)
    flat = {k: v.removeprefix(f"{results}/") if isinstance(v, str) else v for k, v in flat.items() if k not in INDIRECT}
    return flat | ({"dataset": names["dataset"]} if trains(names) else {}) | {"loss": names["loss"]}


def trains(names: Mapping[str, Any]) -> bool:
    """Whether the cell of a record trains: a base does not."""
    return names["loss"] != BASE


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    if not isinstance(value, dict):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= flatten(part, f"{name}.{key}" if name else str(key))
    return flat
