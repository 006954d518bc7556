"""Recorded samples as token ids again, for a measurement on a model's own answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from losslab.config.schema import Config
from losslab.data.examples import Examples
from losslab.data.prompts import encode
from losslab.evaluation.samples import Sample
from losslab.files.json_files import read_lines

SEED = 0  # of the choice of samples, the same for all cells, so that they answer the same problems


@dataclass(frozen=True)
class SampledAnswers:
    """Samples behind their prompts, as scoring tokenised these."""

    examples: Examples  # a prompt and its answer in each
    problems: list[int]  # of each example a number of its problem, which several may share
    retokenised: int  # examples whose answer has another number of tokens than was sampled


def read(config: Config, folder: Path, tokenizer: Any, names: Sequence[str], count: int) -> SampledAnswers:
    """Up to `count` samples of the benchmarks `names` in a folder of scores, evenly over benchmarks and problems.

    Records hold the text of a sample and the token that ended it, so that its tokens are those of its text. These may
    differ from what was sampled: where a text ended it, which is not part of the record, and where the model wrote a
    text in other tokens than the tokenizer does. `retokenised` counts those of which that shows.

    Raises:
        ValueError: the folder holds no sample of these benchmarks.
    """
    records = {name: read_lines(folder / f"{name}.jsonl") for name, about in config.benchmark.items() if not about.task}
    texts = [record["prompt"] for of_benchmark in records.values() for record in of_benchmark]
    ids = iter(encode(texts, tokenizer) if texts else [])  # of all together, as scoring did
    prompts = {name: [next(ids) for _ in of_benchmark] for name, of_benchmark in records.items()}
    numbers: dict[tuple[str, int], int] = {}
    tokens, starts, problems, retokenised = list[list[int]](), list[int](), list[int](), 0
    ends = {name: _only_end(config, folder, name) for name in names}
    answers = {name: [[s for s in r["samples"] if s["tokens"]] for r in records.get(name, [])] for name in names}
    for name, problem, number in choose(
        {name: [len(samples) for samples in of_benchmark] for name, of_benchmark in answers.items()}, count
    ):
        sample, prompt = answers[name][problem][number], prompts[name][problem]
        answer = _tokens(sample, tokenizer, ends[name])
        retokenised += len(answer) != sample["tokens"]
        if answer:
            tokens.append(prompt + answer)
            starts.append(len(prompt))
            problems.append(numbers.setdefault((name, problem), len(numbers)))
    if not tokens:
        raise ValueError(f"{folder} holds no sampled answer to {', '.join(names)}: machine.kl_to_base needs some")
    lengths = np.array([len(row) for row in tokens])
    report = {"tokens": int(lengths.sum()), "answer_tokens": int(lengths.sum() - sum(starts))}
    flat = np.concatenate([np.array(row, dtype=np.int32) for row in tokens])
    examples = Examples(flat, np.r_[0, lengths.cumsum()], np.array(starts), "", report)
    return SampledAnswers(examples, problems, retokenised)


def choose(samples: dict[str, list[int]], count: int) -> list[tuple[str, int, int]]:
    """Up to `count` samples as (benchmark, problem, sample), given how many each problem of each benchmark has.

    Benchmarks take turns. In each, all problems come once, in a random order, before one of them comes again.
    """
    ranked = []
    for order, (name, of_problems) in enumerate(samples.items()):
        rng = np.random.default_rng(SEED)
        places = rng.permutation(len(of_problems))
        queue = sorted(
            (turn, place, int(problem), int(sample))
            for place, problem in enumerate(places)
            for turn, sample in enumerate(rng.permutation(of_problems[problem]))
        )
        ranked += [(rank, order, name, problem, sample) for rank, (_, _, problem, sample) in enumerate(queue)]
    return [(name, problem, sample) for _, _, name, problem, sample in sorted(ranked)[:count]]


def _only_end(config: Config, folder: Path, name: str) -> int | None:
    """The one token that can have ended an answer to a benchmark; None where there are several, or texts can too."""
    protocol = yaml.safe_load((folder / "protocol.yaml").read_text(encoding="utf-8"))
    texts = [*protocol["stop"], *config.benchmark[name].stop, *config.prompt.stop]
    return protocol["stop_ids"][0] if len(protocol["stop_ids"]) == 1 and not texts else None


def _tokens(sample: Sample, tokenizer: Any, only_end: int | None) -> list[int]:
    """The token ids of a sample, with that which ended it; records from before this was kept may imply it."""
    ids: list[int] = tokenizer(sample["text"], add_special_tokens=False)["input_ids"]
    end = sample.get("end_token", only_end if sample["finish_reason"] == "stop" else None)
    return ids if end is None else [*ids, end]
