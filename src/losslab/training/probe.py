"""How probable a model finds demonstrations before it is trained on them: one forward pass over some of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from losslab.config.schema import Config, DatasetConfig, ModelConfig
from losslab.data.probability_bins import DOUBTFUL, SURE
from losslab.data.table import load
from losslab.distributed.launch import launch_without
from losslab.files.content import content
from losslab.files.json_files import write_json
from losslab.objectives.sft import SFT
from losslab.statistics.intervals import over_clusters
from losslab.training.inference import frozen
from losslab.training.loop import start_inference
from losslab.training.passes import InOrder, loader, outputs
from losslab.training.reference_logps import Reference
from losslab.training.target_probabilities import examples_of_base, sample

BATCH = 32  # examples that are measured together
VERSION = 2  # of what is kept of a probe
SOURCE = "source"  # the column that says where a row comes from, as in NuminaMath
FEWEST = 10  # examples of a source that is shown by itself


def of(config: Config, base: ModelConfig) -> Path:
    """The file with what `measure` finds of `machine.probabilities` demonstrations of a cell under its base.

    It is made if it is missing. Its name is a hash of all that decides the numbers.
    """
    data = examples_of_base(config, base)
    about = [content(base.path), base.revision, Path(data).name, str(config.train.precision)]
    key = hashlib.sha256(json.dumps([*about, config.machine.probabilities, VERSION]).encode()).hexdigest()[:16]
    file = Path(config.machine.results) / "cache/probes" / f"{key}.json"
    launch_without(file, measure, frozen(config, base), data, str(file), machine=config.machine)
    return file


def measure(config: Config, data: str, file: str) -> None:
    """Measure `config.model` on this rank, one of many; rank 0 writes `file`: `summary`, and {sources: {name: summary}}
    of each source with FEWEST examples or more.
    """
    inference, examples = start_inference(config, data)
    device = inference.device
    assert config.machine.probabilities is not None
    units = sample(examples, config.machine.probabilities) // examples.unit
    place = {int(example): i for i, example in enumerate(units * examples.unit)}
    sums = torch.zeros(6, len(units), dtype=torch.float64, device=device)
    ends = torch.tensor(examples.ends, device=device)
    none = Reference({}, examples.answer_offsets)
    with loader(config, examples, InOrder(units, BATCH), none, device) as batches:
        for number in range(batches.sampler.steps):
            for micro, out in outputs(inference, SFT(), batches.take(number)):
                p, entropy = out["logp"].exp().double(), out["entropy"].double()
                end = torch.isin(micro.batch.targets, ends).double()
                doubtful, sure = (p < DOUBTFUL).double(), (p > SURE).double()
                rows = torch.stack([torch.ones_like(p), p, doubtful, sure, entropy, end * p])
                places = torch.tensor([place.get(int(i), -1) for i in micro.examples], dtype=torch.int64, device=device)
                of_token = places[micro.batch.sequence]
                kept = of_token >= 0  # of pairs the chosen answers alone
                sums.index_add_(1, of_token[kept], rows[:, kept])
    dist.all_reduce(sums)
    if dist.get_rank() == 0:
        targets = [examples.targets(np.array([i])) for i in units * examples.unit]
        counts = np.array([np.isin(of_example, examples.ends).sum() for of_example in targets], float)
        assert examples.rows is not None, "`prepare` says which rows they are of"
        named, numbers = np.array(sources(config.dataset, examples.rows[units * examples.unit])), sums.cpu().numpy()
        parts = {name: named == name for name in sorted(set(named.tolist()) - {""})}
        of_sources = {n: summary(numbers[:, part], counts[part]) for n, part in parts.items() if part.sum() >= FEWEST}
        write_json(Path(file), summary(numbers, counts) | {"sources": of_sources})
    dist.barrier()


def sources(dataset: DatasetConfig, numbers: np.ndarray) -> list[str]:
    """Where the rows of these numbers come from, by their column `source`: "" for one that does not say, and nothing
    where there is no such column."""
    table = load(dataset)
    if SOURCE not in table.columns:
        return []
    named = {number: row.get(SOURCE) for number, row in zip(table.numbers.tolist(), table.rows([SOURCE]), strict=True)}
    return [str(named[number] or "") for number in numbers.tolist()]


def summary(sums: np.ndarray, ends: np.ndarray) -> dict[str, Any]:
    """{examples, tokens, p, below, above, entropy, end}, each of the last five as [mean, half of its 95% interval].

    Args:
        sums: (6, examples) of the answer tokens of each: their number, p, how many have p below DOUBTFUL, how many p
            above SURE, entropy in nats, and p of those that end an answer.
        ends: (examples,) how many end an answer.

    `below` and `above` are shares, and `end` is None where no token ends an answer. Intervals are over examples.
    """
    counts, names = sums[0], ("p", "below", "above", "entropy")
    means = {name: over_clusters(values, counts) for name, values in zip(names, sums[1:5], strict=True)}
    facts: dict[str, Any] = {"examples": len(counts), "tokens": int(counts.sum())}
    facts |= {name: [mean.mean, mean.half] for name, mean in means.items()}
    end = over_clusters(sums[5], ends) if ends.sum() else None
    return facts | {"end": end and [end.mean, end.half]}
