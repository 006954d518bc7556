"""The probe of a base and its demonstrations, before any training: measured, placed among records, written down."""

from dataclasses import replace
from typing import Any

from losslab.cells.training import base_model
from losslab.composition.checks import check_alone
from losslab.config.log import log
from losslab.config.schema import Config
from losslab.files.json_files import read_json, write_json
from losslab.files.record_names import RECORD_VERSION
from losslab.planning.sizing import sized
from losslab.results import probe_neighbours
from losslab.statistics.intervals import Estimate
from losslab.training import probe

EXAMPLES = 1000  # demonstrations to measure if machine.probabilities is not set
SHOWN = {
    "p": "mean p of the answer tokens",
    "below": "share with p < 0.1",
    "above": "share with p > 0.9",
    "entropy": "entropy, nats",
    "end": "p of the token that ends an answer",
}


def run(config: Config) -> None:
    """Print how probable the base finds the demonstrations, and what records say of similar ones."""
    check_alone("losslab probe")
    config = config.seeded
    asked = config.machine.probabilities or EXAMPLES
    config = replace(config, machine=replace(config.machine, probabilities=asked))
    kept = probe.of(sized(config, asked * config.train.max_length), base_model(config))
    facts = read_json(kept)
    results = config.machine.results
    records = probe_neighbours.known(results)
    objectives = sorted({record.objective for record in records})
    at = facts["below"][0], facts["above"][0]
    placements = [probe_neighbours.place(name, at, records) for name in objectives]
    for line in lines(config, facts, placements):
        print(line)
    names = config.names
    # The names alone do not tell apart the models of several owners, or two numbers of demonstrations.
    file = probe_neighbours.folder(results) / f"{names.model}-{names.dataset}-{kept.stem[:8]}.json"
    said = [probe_neighbours.sentence(placement) for placement in placements]
    about = {"version": RECORD_VERSION, "model": config.model.path, "dataset": config.dataset.path}
    write_json(file, about | facts | {"placements": said})
    log.info(f"probe:   {file}")


def lines(config: Config, facts: dict[str, Any], placements: list[probe_neighbours.Placement]) -> list[str]:
    """The numbers with their intervals, the placements, and the published anchors."""
    head = (
        f"{config.names.model} before training on {config.names.dataset}: {facts['examples']:,} demonstrations, "
        f"{facts['tokens']:,} answer tokens (± half of the 95% interval over demonstrations)"
    )
    numbers = [f"  {text:<36}{Estimate(*facts[key]):.3f}" for key, text in SHOWN.items() if facts[key]]
    by_source = [
        f"  {name} ({part['examples']:,}): mean p {Estimate(*part['p']):.3f}; p < 0.1 in {part['below'][0]:.0%} of the "
        f"tokens, p > 0.9 in {part['above'][0]:.0%}"
        for name, part in facts["sources"].items()
    ]
    said = [f"  {probe_neighbours.sentence(placement)}" for placement in placements]
    none = [
        "  No record has an objective beside SFT and the probabilities of its demonstrations: nothing to compare with."
    ]
    anchors = [f"  {name}: mean p {p}; {outcome}" for name, p, outcome in probe_neighbours.ANCHORS]
    return [
        head,
        *numbers,
        *([f"of each source with {probe.FEWEST} demonstrations or more:", *by_source] if len(by_source) > 1 else []),
        "among the records:",
        *(said or none),
        "published, of other models and data (arXiv 2510.00526):",
        *anchors,
    ]
